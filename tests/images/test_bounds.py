"""What a small file may cost: memory is measured in a process of its own, work is counted before decoding."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import PictureLimits, open_picture
from tests.support.picture_files import PNG, chunk, tiff

# The peak of the process' memory grows by what opening takes; a tenth of a second of imports is warmed up first.
_MEASURE = """
import io, resource, sys
import numpy as np
from blip2_chat.errors import PictureError
from blip2_chat.images import Preprocess, advise, open_picture, to_pixels

def use(source):
    picture = open_picture(source)
    advise(picture)
    to_pixels(picture, Preprocess())

use(np.zeros((8, 8, 3), "u1"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    use(sys.argv[1])
except PictureError as error:
    assert len(str(error)) < 400
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown // 1024 if sys.platform != "darwin" else grown // 2**20)
"""


def mebibytes_to_open(path: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    return int(done.stdout)


def png(width: int, height: int, colour: int = 0, bits: int = 1) -> bytes:
    header = chunk(
        b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    )
    row = 1 + -(-width * bits * {0: 1, 2: 3, 6: 4}[colour] // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(row)) for _ in range(height)) + packer.flush()
    return PNG[:8] + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


measured = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")


@measured
@pytest.mark.parametrize(("width", "height"), [(30_000_000, 1), (1, 30_000_000), (10_000_000, 9)])
def test_memory_of_a_line(tmp_path: Path, width: int, height: int) -> None:
    if height > 1000:
        body = zlib.compress(bytes(2 * height), 9)
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\1\0\0\0\0"
        data = PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    else:
        data = png(width, height)
    path = tmp_path / "line.png"
    path.write_bytes(data)
    assert path.stat().st_size < 100_000
    assert mebibytes_to_open(path) < 100
    with pytest.raises(PictureError, match="in one direction"):
        open_picture(path)


@measured
def test_memory_of_float_levels(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    path.write_bytes(tiff(np.zeros((6200, 6200), "f4"), deflate=True))
    assert path.stat().st_size < 200_000
    # 38 million pixels of 4 bytes as stored and 4 as RGB are 293 MiB.
    assert mebibytes_to_open(path) < 500


@measured
@pytest.mark.slow
def test_memory_of_transparency_and_of_a_turn(tmp_path: Path) -> None:
    path = tmp_path / "rgba.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (6200, 6200), (1, 2, 3, 99)).save(path, exif=exif)
    # As stored, as RGB, and turned.
    assert mebibytes_to_open(path) < 650


@measured
@pytest.mark.slow
def test_a_phone_of_200_megapixels(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    stripes = Image.new("RGB", (16_384, 12_288), (200, 30, 40))
    stripes.paste((20, 90, 220), (8192, 0, 16_384, 12_288))
    stripes.save(path, quality=80)
    with pytest.raises(PictureError, match=r"PictureLimits\(max_pixels=201326592\)"):
        open_picture(path)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = open_picture(path, limits=PictureLimits(max_pixels=201_326_592))
    assert before == Image.MAX_IMAGE_PIXELS
    assert picture.image.size == (4096, 3072)
    left, right = picture.image.getpixel((100, 100)), picture.image.getpixel((4000, 3000))
    assert np.abs(np.subtract(left, (200, 30, 40))).max() <= 3  # type: ignore[arg-type]
    assert np.abs(np.subtract(right, (20, 90, 220))).max() <= 3  # type: ignore[arg-type]
    code = _MEASURE.replace(
        "open_picture(source)",
        "open_picture(source, limits=__import__('blip2_chat').PictureLimits(max_pixels=10**9))",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert int(done.stdout) < 200  # 768 MiB at its full size


def jpeg(width: int, height: int, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(stream, "JPEG", **options)
    return stream.getvalue()


def test_a_jpeg_of_up_to_forty_megapixels_is_decoded_whole() -> None:
    assert open_picture(jpeg(8000, 4900)).image.size == (8000, 4900)
    assert open_picture(jpeg(8000, 5100)).image.size == (4000, 2550)


def test_decoding_work_is_bounded_in_pixels_and_passes() -> None:
    data = jpeg(3000, 2000, progressive=True)
    last = data.rfind(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 80 + data[-2:]
    # 80 more passes over a third of 6 million pixels each, beside what the picture needs itself.
    with pytest.raises(PictureError, match="scans"):
        open_picture(many, limits=PictureLimits(max_pixels=6_000_000))
    assert open_picture(many).image.size == (3000, 2000)


def test_limits_name_their_own_option() -> None:
    data = jpeg(1250, 1001)
    for option, says in (
        ("--max-megapixels {megapixels}", "raise the limit with --max-megapixels 2, or save"),
        ("", "limit of 1,000,000; save a smaller copy"),
    ):
        with pytest.raises(PictureError, match=says):
            open_picture(data, limits=PictureLimits(max_pixels=1_000_000, pixels_option=option))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(9) + b"\xff\xe1\0\x02" * 1_000_000,
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(9) + b"\xff\x02" * 5_000_000,
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(10_000_000),
        b"\xff\xd8" + b"\xff" * 10_000_000,
        jpeg(16, 16)[:-2] + b"\xff\x02" * 5_000_000,
        PNG[:33] + chunk(b"teSt", b"") * 1_000_000 + PNG[33:],
        PNG[:33] + chunk(b"IDAT", b"") * 1_000_000 + PNG[33:],
    ],
    ids=["segments", "codes", "zeros", "padding", "after the scan", "chunks", "empty chunks"],
)
def test_millions_of_parts_are_not_stepped_through(data: bytes) -> None:
    with pytest.raises(PictureError, match="damaged"):
        open_picture(data)


def test_jpeg_2000_has_half_the_pixels() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1000, 800)).save(stream, "JPEG2000")
    assert open_picture(stream.getvalue(), limits=PictureLimits(max_pixels=1_600_000)).image.size == (
        1000,
        800,
    )
    with pytest.raises(PictureError, match=r"PictureLimits\(max_pixels=1600000\)"):
        open_picture(stream.getvalue(), limits=PictureLimits(max_pixels=1_500_000))


def test_a_tile_larger_than_any_picture_is_refused() -> None:
    data = tiff(np.zeros((4, 4), "u1"), deflate=True, more={322: 60_000, 323: 60_000})
    with pytest.raises(PictureError, match="tiles of 3,600,000,000 pixels"):
        open_picture(data)


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow's wheels for Windows contain libtiff")
def test_libtiff_writes_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype="u1")
    Image.fromarray(noise).save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    for at in range(500, len(data) - 400, 97):
        data[at] ^= 0x55
    with pytest.raises(PictureError, match="damaged"):
        open_picture(bytes(data))
    assert capfd.readouterr().err == ""
    # Nothing is changed for the rest of the program.
    with Image.open(io.BytesIO(bytes(data))) as image, pytest.raises(OSError, match="decoder error"):
        image.load()
    assert capfd.readouterr().err != ""
