"""Which files are pictures, and which values are one picture: decided in one place, by content where needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import (
    HEAD_BYTES,
    Picture,
    PictureLimits,
    is_one_picture,
    looks_like_picture,
    open_picture,
)
from tests.support.extras import imported

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="u1")


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(stream, kind)
    return stream.getvalue()


def heic() -> bytes:
    pillow_heif = imported("pillow_heif", "heic")
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PIXELS).resize((64, 64))).save(stream)
    return stream.getvalue()


def unread() -> bytes:
    raise AssertionError("the ending tells; nothing is to be read")


class TestFiles:
    @pytest.mark.parametrize(
        "ending",
        [
            "jpg",
            "JPG",
            "jpeg",
            "jpe",
            "jfif",
            "png",
            "apng",
            "gif",
            "webp",
            "tif",
            "tiff",
            "bmp",
            "dib",
            "ppm",
            "pgm",
            "pbm",
            "pnm",
            "pfm",
            "mpo",
            "jp2",
            "j2k",
            "j2c",
            "jpc",
            "jpx",
            "jpf",
            "qoi",
            "avif",
            "avifs",
            "heic",
            "HEIC",
            "heif",
            "hif",
            "heics",
            "heifs",
        ],
    )
    def test_yes_by_ending(self, ending: str) -> None:
        assert looks_like_picture(f"folder.txt/a.{ending}", unread)

    @pytest.mark.parametrize(
        "ending",
        [
            "txt",
            "TXT",
            "json",
            "csv",
            "html",
            "pdf",
            "mp4",
            "MOV",
            "avi",
            "mp3",
            "zip",
            "tar",
            "py",
            "dng",
            "CR2",
            "nef",
            "arw",
            "part",
        ],
    )
    def test_no_by_ending(self, ending: str) -> None:
        # A text file and a clip lie beside many a picture; neither is opened to know.
        assert not looks_like_picture(f"folder.png/a.{ending}", unread)

    @pytest.mark.parametrize(
        "kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "QOI", "MPO"]
    )
    @pytest.mark.parametrize(
        "name", ["photo", "IMG.0001", "x.bin", "image.php", ".hidden", "a.jpg?w=2", "a.jpg~"]
    )
    def test_yes_by_content(self, kind: str, name: str) -> None:
        Image.init()
        if kind not in Image.SAVE:
            pytest.skip(f"this Pillow writes no {kind}")
        data = encoded(kind)
        assert open_picture(data).image.size == (30, 20)
        assert looks_like_picture(name, data[:HEAD_BYTES])
        assert looks_like_picture(name, lambda: data[:HEAD_BYTES])

    def test_heic_and_avif_by_content(self) -> None:
        assert looks_like_picture("photo", heic()[:HEAD_BYTES])
        assert looks_like_picture("photo", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(50))

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"P",
            b"P5",
            b"BM",
            b"BMW has a new car, and its text is longer",
            b"Python is a language\n",
            b"P4 is a processor"[1:],
            b"Plain text",
            b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
            b"RIFF\0\0\0\0WAVEfmt ",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"%PDF-1.7",
            b"8BPS\0\x01",
            b"\x28\0\0\0" + bytes(60),
            b"<svg xmlns='http://www.w3.org/2000/svg'>",
            bytes(256),
        ],
    )
    def test_no_by_content(self, head: bytes) -> None:
        for name in ("README", "a.0001", "x.bin", "a.svg"):
            assert not looks_like_picture(name, head)

    def test_an_error_while_reading_is_passed_on(self) -> None:
        def denied() -> bytes:
            raise PermissionError("no")

        with pytest.raises(PermissionError):
            looks_like_picture("photo", denied)


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            "a.png",
            "https://example.org/a.png",
            Path("a.png"),
            b"",
            bytearray(b"x"),
            memoryview(b"x"),
            io.BytesIO(),
            Image.new("RGB", (2, 2)),
            np.zeros((4, 5, 3)),
            np.zeros((4, 5), dtype="u2"),
            np.zeros((3, 4, 5)),
            {"bytes": None, "path": "a.png"},
            {"bytes": b"x"},
            {"path": "a.png"},
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_single_picture_is_recognised(self, value: Any) -> None:
        assert is_one_picture(value)

    @pytest.mark.parametrize(
        "value",
        [
            None,
            3,
            [],
            ["a.png"],
            ("a.png",),
            iter(["a.png"]),
            {"a.png": 1},
            np.zeros((2, 4, 5, 3)),
            np.array(["a.png", "b.png"]),
            np.array([["a.png"]], dtype=object),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_other_values_are_not_a_single_picture(self, value: Any) -> None:
        assert not is_one_picture(value)

    def test_an_opened_picture_is_one(self) -> None:
        assert is_one_picture(open_picture(PIXELS))


class TestRecords:
    """What `datasets.Image(decode=False)` gives."""

    def test_bytes_and_path(self, tmp_path: Path) -> None:
        data = encoded("PNG")
        (tmp_path / "a.png").write_bytes(data)
        records: list[dict[str, Any]] = [
            {"bytes": data, "path": "somewhere/else/a.png"},
            {"bytes": None, "path": str(tmp_path / "a.png")},
            {"path": tmp_path / "a.png"},
        ]
        for record in records:
            picture = open_picture(record)
            assert isinstance(picture, Picture) and picture.name == "a.png"
            assert np.array_equal(np.asarray(picture.image), PIXELS)
        assert open_picture({"bytes": data, "path": None}).name == "picture"

    @pytest.mark.parametrize(
        ("record", "says"),
        [
            ({"bytes": None, "path": None}, "missing"),
            ({"bytes": "text"}, "bytes"),
            ({"bytes": b"", "path": "a.png"}, "a.png is empty"),
            ({"bytes": bytes(2000), "path": "a.png"}, "larger than the limit"),
            ({"path": 3}, "int"),
            ({"path": "gone.png"}, "not found"),
        ],
    )
    def test_refusals(self, record: dict[str, Any], says: str) -> None:
        with pytest.raises(PictureError, match=says):
            open_picture(record, limits=PictureLimits(max_bytes=1000))

    def test_paths_switched_off(self) -> None:
        with pytest.raises(PictureError, match="switched off"):
            open_picture({"bytes": None, "path": "/etc/hostname"}, limits=PictureLimits(allow_paths=False))


class TestFileUrls:
    @pytest.mark.parametrize("start", ["file://", "file://localhost", "FILE://"])
    def test_opened_as_the_path_is(self, tmp_path: Path, start: str) -> None:
        path = tmp_path / "a cät#1.png"
        path.write_bytes(encoded("PNG"))
        url = start + path.as_uri().removeprefix("file://")
        picture = open_picture(url)
        assert picture.name == "a cät#1.png"
        assert np.array_equal(np.asarray(picture.image), PIXELS)

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("file:///no/such.png", "not found"),
            ("file://server/share/a.png", "another machine"),
            ("file:///a%00.png", "cannot be opened"),
            ("file://[", "not a valid address"),
        ],
    )
    def test_refusals(self, url: str, says: str) -> None:
        with pytest.raises(PictureError, match=says):
            open_picture(url)

    def test_refused_where_paths_are(self) -> None:
        with pytest.raises(PictureError, match="switched off"):
            open_picture("file:///etc/hostname", limits=PictureLimits(allow_paths=False))
