"""Files with something wrong beside the picture open; those in which part of the picture is missing do not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import PictureLimits, open_picture
from tests.support.picture_files import IMAGE, PIXELS, PNG, chunk, encoded


def opened(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(open_picture(data).image)


def as_pillow_shows(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# After the signature and the header.
HEAD, REST = PNG[:33], PNG[33:]
MEGABYTES = zlib.compress(bytes(20_000_000))


class TestPng:
    @pytest.mark.parametrize(
        "extra",
        [
            chunk(b"zTXt", b"Comment\0\0" + MEGABYTES),
            chunk(b"iTXt", b"Comment\0\1\0\0\0" + MEGABYTES),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES),
            chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTES),
            chunk(b"iCCP", b"profile\0\0" + MEGABYTES),
            chunk(b"tEXt", b"Comment\0" + b"a" * 3_000_000),
            chunk(b"tEXt", b"Comment\0a") * 50_000,
            chunk(b"gAMA", b"\0\0\0\1", wrong=1),
            chunk(b"tEXt", b"Comment\0a", wrong=1),
            chunk(b"tRNS", bytes(PIXELS[0, 0].astype(">u2")), wrong=1),
            chunk(b"eXIf", b"II*\0\x08\0\0\0", wrong=1),
            chunk(b"zTXt", b"Comment\0\0not zlib"),
            chunk(b"pHYs", b"short"),
            chunk(b"acTL", b""),
            chunk(b"quIz", bytes(100)),
        ],
        ids=lambda extra: extra[4:8].decode(),
    )
    def test_extra_data_in_the_file_does_not_matter(self, extra: bytes) -> None:
        assert np.array_equal(opened(HEAD + extra + REST), PIXELS)
        # Editors write text after the picture as well.
        assert np.array_equal(opened(PNG[:-12] + extra + PNG[-12:]), PIXELS)

    @pytest.mark.parametrize("end", [12, 8, 4, 1])
    def test_without_all_of_its_end(self, end: int) -> None:
        assert np.array_equal(opened(PNG[:-end]), PIXELS)

    @pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
    def test_cut_short(self, kept: float) -> None:
        with pytest.raises(PictureError, match="cut short"):
            open_picture(PNG[: int(len(PNG) * kept)])

    def test_damaged_header_is_refused(self) -> None:
        with pytest.raises(PictureError):
            open_picture(PNG[:29] + bytes([PNG[29] ^ 1]) + PNG[30:])

    def test_orientation_is_still_read_from_every_place(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
        for extra in (
            chunk(b"eXIf", exif.tobytes()[6:]),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        ):
            assert np.array_equal(opened(HEAD + extra + REST), PIXELS[::-1, ::-1])


JPEGS = {
    "baseline": encoded("JPEG", quality=90),
    "progressive": encoded("JPEG", quality=90, progressive=True),
    "restarts": encoded("JPEG", quality=90, restart_marker_blocks=3),
    "grey": encoded("JPEG", IMAGE.convert("L")),
    "cmyk": encoded("JPEG", IMAGE.convert("CMYK"), quality=90),
    "4:4:4": encoded("JPEG", quality=90, subsampling=0),
}


class TestJpeg:
    @pytest.mark.parametrize("kind", JPEGS)
    @pytest.mark.parametrize(
        "end", [b"", b"\xff", bytes(500), b"\xff" + bytes(500)], ids=["", "ff", "0", "ff 0"]
    )
    def test_only_the_end_marker_is_missing(self, kind: str, end: bytes) -> None:
        data = JPEGS[kind]
        assert data.endswith(b"\xff\xd9")
        assert np.array_equal(opened(data[:-2] + end), as_pillow_shows(data))

    @pytest.mark.parametrize("kind", JPEGS)
    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.98])
    @pytest.mark.parametrize("end", [b"", bytes(100_000)], ids=["", "zeros"])
    def test_cut_short(self, kind: str, kept: float, end: bytes) -> None:
        data = JPEGS[kind]
        with pytest.raises(PictureError, match="cut short"):
            open_picture(data[: int(len(data) * kept)] + end)

    def test_progressive_without_its_last_scans(self) -> None:
        data = JPEGS["progressive"]
        starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
        assert len(starts) > 3
        for start in starts[1:]:
            # From the table before a scan on, nothing is there: no byte is cut in half.
            table = data.rfind(b"\xff\xc4", 0, start)
            with pytest.raises(PictureError, match="cut short"):
                open_picture(data[: table if table > data.rfind(b"\xff\xda", 0, start) else start])

    def test_bytes_after_the_end_do_not_matter(self) -> None:
        data = JPEGS["baseline"]
        # A motion photo carries its film there; here one full of what looks like scans.
        assert np.array_equal(opened(data + b"\xff\xda\0\x08" * 1000), as_pillow_shows(data))

    def test_scans_of_a_thumbnail_are_not_those_of_the_picture(self) -> None:
        data = JPEGS["baseline"]
        thumbnail = b"\xff\xda\0\x08" * 1000
        segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
        assert np.array_equal(opened(data[:2] + segment + data[2:]), as_pillow_shows(data))


@pytest.mark.parametrize("trailer", [1, 2])
def test_gif_without_its_trailer(trailer: int) -> None:
    data = encoded("GIF", IMAGE.quantize(16))
    assert np.array_equal(opened(data[:-trailer]), as_pillow_shows(data))


def transparent(mode: str) -> Image.Image:
    image = IMAGE.convert("LA" if mode == "LA" else "RGBA")
    image.putalpha(0)
    return image


class TestTransparentEverywhere:
    """Programs that write 32 bits per pixel and know nothing of alpha leave it at 0; what they show is opaque."""

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP"])
    def test_an_rgba_picture(self, kind: str) -> None:
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert np.array_equal(opened(encoded(kind, transparent("RGBA"), **options)), PIXELS)

    def test_grey_palette_sixteen_bit_array_and_image(self, tmp_path: Path) -> None:
        grey = np.asarray(IMAGE.convert("L").convert("RGB"))
        assert np.array_equal(opened(encoded("PNG", transparent("LA"))), grey)
        palette = IMAGE.quantize(16)
        flat = np.asarray(palette.convert("RGB"))
        for kind in ("PNG", "WEBP"):
            options = {"lossless": True, "exact": True} if kind == "WEBP" else {"transparency": bytes(16)}
            image = (
                palette if kind == "PNG" else Image.fromarray(np.dstack([flat, np.zeros_like(flat[..., :1])]))
            )
            assert np.array_equal(opened(encoded(kind, image, **options)), flat)
        deep = np.dstack([PIXELS, np.zeros_like(PIXELS[..., :1])]).astype(">u2") * 257
        rows = b"".join(b"\0" + row.tobytes() for row in deep)
        png = b"".join(
            [
                PNG[:8],
                chunk(b"IHDR", struct.pack(">IIBBBBB", 160, 120, 16, 6, 0, 0, 0)),
                chunk(b"IDAT", zlib.compress(rows)),
                chunk(b"IEND", b""),
            ]
        )
        assert np.array_equal(opened(png), PIXELS)
        assert np.array_equal(np.asarray(open_picture(np.asarray(transparent("RGBA"))).image), PIXELS)
        assert np.array_equal(np.asarray(open_picture(transparent("RGBA")).image), PIXELS)

    def test_one_pixel_that_shows_keeps_the_rest_transparent(self) -> None:
        image = transparent("RGBA")
        image.putpixel((159, 119), (1, 2, 3, 255))
        expected = np.full_like(PIXELS, 255)
        expected[119, 159] = (1, 2, 3)
        assert np.array_equal(opened(encoded("PNG", image)), expected)


def test_a_progressive_picture_of_many_scans_is_refused_before_it_is_decoded() -> None:
    data = JPEGS["progressive"]
    last = data.rfind(b"\xff\xda")
    scan = data[last:-2]
    few = data[:-2] + scan * 20 + data[-2:]
    assert np.array_equal(opened(few), as_pillow_shows(few))
    for bomb in (
        data[:-2] + scan * 3000 + data[-2:],
        data[:-2] + scan * 3000,
        # Markers between scans that decoders step over.
        data[:-2] + (b"\xff\x01\xff\xff\xd3" + scan) * 3000 + data[-2:],
        data[:-2] + (b"\xff\xfe\0\x02" + scan) * 3000 + data[-2:],
    ):
        with pytest.raises(PictureError, match=r"3,\d\d\d scans"):
            open_picture(bomb)
    assert PictureLimits().max_scans < 1000


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {}), ("BMP", {}), ("GIF", {})],
)
def test_decoding_ends_once_nobody_wants_the_picture(kind: str, settings: dict[str, Any]) -> None:
    data = io.BytesIO()
    Image.effect_noise((1200, 1200), 100).save(data, kind, **settings)
    whole: list[None] = []
    open_picture(data.getvalue(), is_abandoned=lambda: bool(whole.append(None)))
    asked: list[None] = []

    def is_abandoned() -> bool:
        asked.append(None)
        return len(asked) > len(whole) // 2

    with pytest.raises(PictureError) as caught:
        open_picture(data.getvalue(), is_abandoned=is_abandoned)
    assert caught.value.fault == "abandoned"
    assert len(asked) == len(whole) // 2 + 1 < len(whole), "nothing was read after that"
