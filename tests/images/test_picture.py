"""Opening pictures: every source gives the same picture, or one clear error, within its limits."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import sys
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip2_chat.images import Picture, PictureLimits, open_picture
from tests.support.pictures import PIXELS, PNG, Array, encoded, over_white, photo, refusal, rgb


class TestSources:
    def test_path_as_text_and_as_object(self, tmp_path: Path) -> None:
        path = tmp_path / "cät 1.png"
        path.write_bytes(PNG)
        for source in (path, str(path)):
            picture = open_picture(source)
            assert np.array_equal(np.asarray(picture.image), PIXELS)
            assert picture.name == "cät 1.png"

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "a.png").write_bytes(PNG)
        assert np.array_equal(rgb("~/a.png"), PIXELS)

    @pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
    def test_a_picture_from_bytes(self, wrap: Any) -> None:
        picture = open_picture(wrap(PNG))
        assert np.array_equal(np.asarray(picture.image), PIXELS)
        assert picture.name == "picture"

    def test_file_object_is_read_from_its_start(self, tmp_path: Path) -> None:
        path = tmp_path / "b.png"
        path.write_bytes(PNG)
        with path.open("rb") as file:
            file.read(50)
            picture = open_picture(file)
        assert np.array_equal(np.asarray(picture.image), PIXELS)
        assert picture.name == "b.png"

    def test_uploads_in_temporary_files_and_objects_with_only_read(self) -> None:
        class OnlyRead:
            def __init__(self, data: bytes) -> None:
                self.read = io.BytesIO(data).read

        with tempfile.SpooledTemporaryFile() as upload:  # what web frameworks hand over
            upload.write(PNG)
            assert np.array_equal(rgb(upload), PIXELS)
        assert np.array_equal(rgb(OnlyRead(PNG)), PIXELS)

    def test_pipe_that_cannot_seek_and_gives_little_at_a_time(self) -> None:
        read_end, write_end = os.pipe()

        def write() -> None:
            with os.fdopen(write_end, "wb") as pipe:
                for start in range(0, len(PNG), 100):
                    pipe.write(PNG[start : start + 100])
                    pipe.flush()

        writer = threading.Thread(target=write)
        writer.start()
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            picture = open_picture(pipe)
        writer.join()
        assert np.array_equal(np.asarray(picture.image), PIXELS)
        assert picture.name == "picture"  # its name attribute is a number

    def test_pil_image_is_copied_not_changed(self) -> None:
        image = Image.fromarray(PIXELS)
        picture = open_picture(image)
        image.paste((0, 0, 0), (0, 0, 32, 24))
        assert np.array_equal(np.asarray(picture.image), PIXELS)

    def test_pil_image_opened_lazily_keeps_its_file_name(self, tmp_path: Path) -> None:
        path = tmp_path / "lazy.png"
        path.write_bytes(PNG)
        with Image.open(path) as image:
            picture = open_picture(image)
        assert np.array_equal(np.asarray(picture.image), PIXELS)
        assert picture.name == "lazy.png"

    def test_picture_comes_back_as_it_is(self) -> None:
        picture = open_picture(PNG)
        assert open_picture(picture) is picture

    @pytest.mark.parametrize(
        "url",
        [
            "data:image/png;base64," + base64.b64encode(PNG).decode(),
            "DATA:image/png;charset=x;BASE64," + base64.b64encode(PNG).decode(),
            "data:;base64," + base64.urlsafe_b64encode(PNG).decode().rstrip("="),
            "data:image/png;base64," + base64.encodebytes(PNG).decode().replace("+", "%2B"),
            "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
        ],
        ids=["plain", "capitals", "url-safe unpadded", "line breaks and escapes", "percent"],
    )
    def test_data_url(self, url: str) -> None:
        assert np.array_equal(rgb(url), PIXELS)

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("data:image/png;base64", "no comma"),
            ("data:image/png;base64,A", "not valid base64"),
            ("data:image/png;base64,@@@@", "not valid base64"),
            ("data:image/png;base64,", "empty"),
            # Its length is judged before it is unpacked, or this would be about base64.
            ("data:image/png;base64," + "@" * 70_000_000, "larger than the limit"),
        ],
        ids=["no comma", "short", "letters", "empty", "long"],
    )
    def test_broken_data_url(self, url: str, says: str) -> None:
        assert says in refusal(url)

    @pytest.mark.parametrize("source", [None, 3, ["a.png"], object()])
    def test_anything_else_is_named(self, source: Any) -> None:
        message = refusal(source)
        assert type(source).__name__ in message and "path" in message

    def test_text_stream_says_rb(self) -> None:
        assert "'rb'" in refusal(io.StringIO("hello"))

    def test_closed_file(self, tmp_path: Path) -> None:
        (tmp_path / "c.png").write_bytes(PNG)
        with (tmp_path / "c.png").open("rb") as file:
            pass
        assert "c.png" in refusal(file)


class TestArrays:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_uint8_and_unit_float_agree(self, channels: int) -> None:
        pixels = photo(channels=channels)
        expected = {
            1: np.repeat(pixels, 3, axis=2),
            3: pixels,
            4: over_white(pixels[..., :3], pixels[..., 3]) if channels == 4 else pixels,
        }[channels]
        for array in (
            pixels,
            pixels / 255,
            (pixels / 255).astype("f4"),
            pixels.astype("f4"),
            pixels.astype("i8"),
        ):
            assert np.abs(rgb(array) - expected).max() <= (1 if channels == 4 else 0)

    def test_grey_without_channel_axis(self) -> None:
        grey = photo()[..., 0]
        assert np.array_equal(rgb(grey), np.stack([grey] * 3, axis=-1))

    def test_uint16_and_bool(self) -> None:
        grey = photo()[..., 0]
        assert np.array_equal(rgb(grey.astype("u2") * 257)[..., 1], grey)
        assert np.array_equal(rgb(grey > 100)[..., 2], (grey > 100) * 255)

    def test_not_contiguous(self) -> None:
        assert np.array_equal(rgb(PIXELS[::-1, ::2]), PIXELS[::-1, ::2])

    def test_all_black_float(self) -> None:
        assert rgb(np.zeros((4, 4, 3))).max() == 0

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((3, 20, 30)), "transpose(1, 2, 0)"),
            (np.zeros((20, 30, 2)), "20 x 30 x 2"),
            (np.zeros((2, 3, 4, 3)), "2 x 3 x 4 x 3"),
            (np.zeros(5), "shape 5 "),
            (np.array(3.0), "single number"),
            (np.zeros((0, 5, 3)), "no pixels"),
            (np.full((2, 2), -1), "from -1 to -1"),
            (np.full((2, 2), 256), "from 256 to 256"),
            (np.full((2, 2), 1.5), "no clear scale"),
            (np.full((2, 2), np.nan), "nan"),
            (np.full((2, 2), np.inf), "inf"),
            (np.full((2, 2), 1j), "complex128"),
            (np.full((2, 2), "a"), "<U1"),
            (np.full((2, 2), None), "object"),
        ],
    )
    def test_an_array_that_is_not_a_picture_is_refused(self, array: Array, says: str) -> None:
        assert says in refusal(array)


class TestLimits:
    def test_bytes_of_every_source(self, tmp_path: Path) -> None:
        path = tmp_path / "big.png"
        path.write_bytes(PNG)
        exact, short = PictureLimits(max_bytes=len(PNG)), PictureLimits(max_bytes=len(PNG) - 1)
        plain = "data:image/png;base64," + base64.b64encode(PNG).decode()
        percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG)
        for source in (path, str(path), PNG, plain, percent):
            assert np.array_equal(rgb(source, limits=exact), PIXELS)
            assert "larger than the limit" in refusal(source, short)
        assert np.array_equal(rgb(io.BytesIO(PNG), limits=exact), PIXELS)
        assert "larger than the limit" in refusal(io.BytesIO(PNG), short)

    def test_endless_stream_stops_at_the_limit(self) -> None:
        class Endless(io.RawIOBase):
            given = 0

            def read(self, size: int = -1) -> bytes:
                assert size > 0, "reading all of an endless stream never returns"
                self.given += size
                return bytes(size)

        stream = Endless()
        assert "larger than the limit" in refusal(stream, PictureLimits(max_bytes=1000))
        assert stream.given <= 1001

    def test_no_pixels_at_all(self) -> None:
        assert "no pixels (0 x 5)" in refusal(Image.new("RGB", (0, 5)))

    def test_pixels_of_every_source(self) -> None:
        short = PictureLimits(max_pixels=24 * 32 - 1)
        for source in (PNG, Image.fromarray(PIXELS), PIXELS):
            assert np.array_equal(rgb(source, limits=PictureLimits(max_pixels=24 * 32)), PIXELS)
            assert "32 x 24" in refusal(source, short)

    @pytest.mark.parametrize(
        ("width", "height"), [(12_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_decompression_bomb_is_refused_by_its_header(self, width: int, height: int) -> None:
        before = Image.MAX_IMAGE_PIXELS
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        bomb = PNG[:8] + PNG[8:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]
        assert "pixels" in refusal(bomb) and "smaller" in refusal(bomb)
        assert before == Image.MAX_IMAGE_PIXELS

    def test_paths_and_urls_can_be_switched_off(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(PNG)
        server = PictureLimits(allow_paths=False, allow_urls=False)
        assert "by path is switched off" in refusal(str(path), server)
        assert "by path is switched off" in refusal(path, server)
        assert "by URL is switched off" in refusal("https://example.org/a.png", server)
        assert np.array_equal(rgb(PNG, limits=server), PIXELS)


class TestRefusals:
    def test_zero_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.jpg"
        path.touch()
        message = refusal(path)
        assert message.startswith("empty.jpg is empty (0 bytes)")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"Dear diary,\ntoday", "is text"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\xef\xbb\xbf\n<HTML>", "web page"),
            (b'<?xml version="1.0"?><svg xmlns="x">', "SVG"),
            (b"%PDF-1.7\n\x00", "PDF"),
            (b"\x00\x01\x02\x03" * 20, "not a picture this program can read"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is text"),
        ],
    )
    def test_text_and_others_named_jpg(self, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "cat.jpg"
        path.write_bytes(content)
        message = refusal(path)
        assert message.startswith("cat.jpg ") and says in message

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
    def test_truncated(self, kind: str) -> None:
        data = encoded(Image.fromarray(photo(200, 300)), kind)
        assert "damaged or cut short" in refusal(data[: len(data) // 2])

    def test_truncated_pil_image(self) -> None:
        data = encoded(Image.fromarray(photo(200, 300)))
        with Image.open(io.BytesIO(data[: len(data) // 2])) as image:
            assert "damaged or cut short" in refusal(image)

    @pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
    def test_extreme_shapes_are_pictures(self, size: tuple[int, int]) -> None:
        for kind in ("PNG", "JPEG", "WEBP", "GIF"):
            picture = open_picture(encoded(Image.new("RGB", size, "#808080"), kind))
            assert picture.image.size == size
            assert np.abs(np.asarray(picture.image).astype(int) - 128).max() <= 2

    def test_missing_folder_and_odd_paths(self, tmp_path: Path) -> None:
        assert "no-such.png was not found" in refusal(tmp_path / "no-such.png")
        assert "is a folder" in refusal(tmp_path)
        assert "cannot be opened" in refusal("nul\0byte.png")
        assert refusal("x" * 5000)
        assert refusal("")
        assert refusal("~no-such-user-here/a.png")
        assert refusal("line\nbreak\x1b[31m.png")

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mkfifo")
    def test_pipe_path_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        assert "pipe or device" in refusal(tmp_path / "pipe.png")

    @pytest.mark.parametrize("url", ["ftp://example.org/a.png", "s3://bucket/a.png"])
    def test_other_schemes(self, url: str) -> None:
        assert "http(s)" in refusal(url)

    def test_wrong_avif_on_old_pillow_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.init()
        monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
        assert "Pillow 11.3" in refusal(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(50))


class TestDigest:
    def test_is_sha256_of_size_and_pixels(self) -> None:
        expected = hashlib.sha256(b"32x24 RGB\n" + PIXELS.tobytes()).hexdigest()
        assert open_picture(PNG).digest == expected

    def test_same_pixels_from_anywhere_share_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(PNG)
        bmp = encoded(Image.fromarray(PIXELS), "BMP")
        sources: list[Any] = [tmp_path / "a.png", PNG, bmp, PIXELS, PIXELS / 255, Image.fromarray(PIXELS)]
        assert len({open_picture(source).digest for source in sources}) == 1

    def test_other_pixels_or_shape_differ(self) -> None:
        changed = PIXELS.copy()
        changed[5, 5, 1] ^= 1
        reshaped = PIXELS.reshape(32, 24, 3)
        assert len({open_picture(array).digest for array in (PIXELS, changed, reshaped)}) == 3

    def test_picture_is_frozen(self) -> None:
        picture = open_picture(PNG)
        assert type(picture) is Picture
        with pytest.raises(AttributeError):
            setattr(picture, "name", "other")  # noqa: B010 - mypy rightly refuses the plain assignment
