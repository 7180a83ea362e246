"""Whatever bytes arrive, a person gets a picture or one line: never another exception."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import PictureLimits, Preprocess, advise, open_picture, to_pixels

LIMITS = PictureLimits(max_pixels=300_000, max_bytes=100_000, allow_urls=False)
STEADY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def picture_or_one_line(source: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd files; the promise is about exceptions
        try:
            picture = open_picture(source, limits=LIMITS)
        except PictureError as error:
            message = str(error)
            assert message and message.isprintable() and len(message) < 400
            return
    assert picture.image.mode == "RGB"
    assert 0 < picture.image.width * picture.image.height <= LIMITS.max_pixels
    assert np.isfinite(to_pixels(picture, Preprocess(size=(14, 14)))).all()
    advise(picture)


def _real_files() -> list[bytes]:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 4), dtype="u1")
    rgba = Image.fromarray(pixels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(pixels[..., 0].astype("u2") * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgba, "PNG", {"exif": exif.tobytes()}),
        (rgb.quantize(8), "PNG", {"transparency": 2}),
        (deep, "PNG", {}),
        (rgb, "JPEG", {"exif": exif.tobytes()}),
        (rgb.convert("CMYK"), "JPEG", {"progressive": True}),
        (rgb, "MPO", {"save_all": True, "append_images": [rgb]}),
        (rgb.quantize(8), "GIF", {"save_all": True, "append_images": [grey], "transparency": 1}),
        (rgba, "WEBP", {"lossless": True, "exif": exif.tobytes()}),
        (rgb, "TIFF", {"exif": exif.tobytes()}),
        (rgba, "TIFF", {"compression": "tiff_lzw"}),
        (deep, "TIFF", {}),
        (Image.fromarray(pixels[..., 0].astype("f4")), "TIFF", {}),
        (rgb, "BMP", {}),
        (grey, "PPM", {}),
        (rgb, "JPEG2000", {}),
        (rgb, "AVIF", {}),
    ]
    Image.init()
    files = []
    for image, kind, options in wanted:
        if kind in Image.SAVE:
            stream = io.BytesIO()
            image.save(stream, kind, **options)
            files.append(stream.getvalue())
    try:
        import pillow_heif
    except ImportError:
        return files
    stream = io.BytesIO()
    pillow_heif.from_pillow(rgb.resize((64, 64))).save(stream)
    return [*files, stream.getvalue()]


FILES = _real_files()
SIGNATURES = sorted({data[:12] for data in FILES})


@pytest.mark.parametrize("index", range(len(FILES)))
def test_the_files_are_real(index: int) -> None:
    """Mutations start from pictures that open, else the fuzzing below would test nothing."""
    assert open_picture(FILES[index], limits=LIMITS).image.width >= 12


@STEADY
@given(st.binary(max_size=300), st.sampled_from([b"", *SIGNATURES]))
def test_random_bytes(body: bytes, signature: bytes) -> None:
    picture_or_one_line(signature + body)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 6))):
        # Headers and directories stand first; half of the damage goes there.
        end = len(data) if draw(st.booleans()) else min(len(data), 80)
        place = draw(st.integers(0, max(end - 1, 0)))
        change = draw(st.sampled_from(["set", "cut", "drop", "insert", "copy"]))
        if change == "set":
            data[place : place + 1] = draw(
                st.sampled_from([b"\0", b"\xff", b"\x7f"]) | st.binary(min_size=1, max_size=4)
            )
        elif change == "cut":
            del data[place:]
        elif change == "drop":
            del data[place : place + draw(st.integers(1, 30))]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=20))
        else:
            data[place:place] = data[: draw(st.integers(1, 200))]
    return bytes(data)


@settings(STEADY, max_examples=500)
@given(mutated())
def test_mutated_files(data: bytes) -> None:
    picture_or_one_line(data)


@STEADY
@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: "data:" + text))
@example("data:image/png;base64,é")
@example("http://\ud800")
@example("\ud800.png")
def test_random_text(text: str) -> None:
    picture_or_one_line(text)


@STEADY
@given(
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.unicode_string_dtypes(max_len=2),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_random_arrays(array: Any) -> None:
    picture_or_one_line(array)
