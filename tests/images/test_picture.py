"""Opening pictures: every source and mode gives the same upright RGB, or one clear error.

References are numpy arithmetic on made pixels, and Pillow's own operations.
"""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from blip2_chat.errors import PictureError
from blip2_chat.images import Picture, PictureLimits, open_picture
from tests.support.extras import imported

Array = npt.NDArray[Any]


def photo(height: int = 24, width: int = 32, channels: int = 3) -> Array:
    """uint8 [H, W, C]: different in every corner and channel, so that no turn or swap goes unnoticed."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    across = x * 255 // max(width - 1, 1) * (c + 1) // 3
    down = y * 255 // max(height - 1, 1) // (c + 2)
    pixels: npt.NDArray[np.uint8] = np.asarray(across + down, dtype="i8").astype("u1")
    return pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def sixteen_bit(levels: Array, kind: str) -> bytes:
    """A 16-bit grey file of uint16 levels [H, W]; older Pillow writes PPM from 32-bit images only."""
    return encoded(Image.fromarray(levels.astype("i4") if kind == "PPM" else levels), kind)


def rgb(source: Any, **options: Any) -> Array:
    picture = open_picture(source, **options)
    assert picture.image.mode == "RGB"
    return np.asarray(picture.image)


def refusal(source: Any, limits: PictureLimits | None = None) -> str:
    """The one line a person gets for a picture that cannot be opened."""
    with pytest.raises(PictureError) as caught:
        open_picture(source, limits=limits or PictureLimits())
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def over_white(pixels: Array, alpha: Array) -> Array:
    """Exact compositing of [H, W, 3] over white by alpha [H, W], before rounding."""
    share = alpha[..., None].astype(np.float64) / 255
    return pixels * share + 255 * (1 - share)


PIXELS = photo()
PNG = encoded(Image.fromarray(PIXELS))


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


class TestModes:
    def test_alpha_lies_over_white(self) -> None:
        pixels = photo(channels=4)
        expected = over_white(pixels[..., :3], pixels[..., 3])
        for kind in ("PNG", "WEBP", "TIFF"):
            options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
            got = rgb(encoded(Image.fromarray(pixels), kind, **options))
            assert np.abs(got - expected).max() <= 1, kind

    def test_grey_with_alpha(self) -> None:
        pixels = photo(channels=2)
        image = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., 1])])
        expected = over_white(np.stack([pixels[..., 0]] * 3, axis=-1), pixels[..., 1])
        assert np.abs(rgb(encoded(image)) - expected).max() <= 1

    def test_premultiplied_alpha(self) -> None:
        pixels = photo(channels=4)
        pixels[..., 3] = 128
        for mode in ("RGBa", "La"):
            straight = Image.fromarray(pixels).convert("LA" if mode == "La" else "RGBA")
            expected = rgb(straight).astype(int)
            assert np.abs(rgb(straight.convert(mode)) - expected).max() <= 3, mode

    def test_palette(self) -> None:
        colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]
        indices = np.arange(12, dtype="u1").reshape(3, 4) % 4
        image = Image.fromarray(indices, "P")
        image.putpalette([level for colour in colours for level in colour])
        expected = np.array(colours)[indices]
        for kind in ("PNG", "GIF", "BMP", "TIFF"):
            assert np.array_equal(rgb(encoded(image, kind)), expected), kind

        expected[indices == 2] = 255
        for kind in ("PNG", "GIF"):
            assert np.array_equal(rgb(encoded(image, kind, transparency=2)), expected), kind
        many = encoded(image, "PNG", transparency=bytes([255, 255, 0, 255]))
        assert np.array_equal(rgb(many), expected)

    def test_palette_with_alpha(self) -> None:
        image = Image.fromarray(photo(channels=4)).quantize(16)
        assert image.palette is not None and image.palette.mode == "RGBA"
        straight = np.asarray(image.convert("RGBA"))
        assert straight[..., 3].min() < 100
        assert np.abs(rgb(image) - over_white(straight[..., :3], straight[..., 3])).max() <= 1

    def test_single_transparent_colour(self) -> None:
        pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype="u1")
        data = encoded(Image.fromarray(pixels), transparency=(1, 2, 3))
        assert np.array_equal(rgb(data), [[[255, 255, 255], [4, 5, 6]]])

    def test_palette_note_left_on_an_rgb_image_is_ignored(self) -> None:
        image = Image.fromarray(PIXELS)
        image.info["transparency"] = b"\x00\xff"
        assert np.array_equal(rgb(image), PIXELS)
        assert image.info["transparency"] == b"\x00\xff"

    def test_one_bit(self) -> None:
        bits = photo()[..., 0] > 90
        for kind in ("PNG", "TIFF", "BMP", "PPM"):
            assert np.array_equal(rgb(encoded(Image.fromarray(bits), kind))[..., 0], bits * 255), kind

    def test_cmyk(self) -> None:
        inks = np.zeros((16, 16, 4), dtype="u1")
        inks[:, :8] = (200, 30, 0, 20)
        inks[:, 8:] = (0, 0, 180, 0)
        naive = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:]) / 255
        image = Image.fromarray(inks, "CMYK")
        assert np.abs(rgb(encoded(image, "TIFF")) - naive).max() <= 1
        # Pillow writes CMYK JPEG as Adobe does, inverted and marked, and its reader undoes it.
        jpeg = encoded(image, "JPEG", quality=100)
        assert b"Adobe" in jpeg
        assert np.abs(rgb(jpeg) - naive).max() <= 6

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bit_grey_is_scaled_not_clipped(self, kind: str) -> None:
        levels = np.linspace(0, 65535, 600).reshape(20, 30).astype("u2")
        got = rgb(sixteen_bit(levels, kind))
        assert np.array_equal(got[..., 0], np.rint(levels / 257))
        assert np.array_equal(got[..., 0], got[..., 2])

    def test_sixteen_bit_night_stays_dark(self) -> None:
        for kind in ("PNG", "TIFF", "PPM"):
            assert rgb(sixteen_bit(np.full((4, 4), 200, dtype="u2"), kind)).max() == 1, kind

    def test_big_endian_sixteen_bit(self) -> None:
        levels = np.linspace(0, 65535, 600).reshape(20, 30).astype(">u2")
        image = Image.frombytes("I;16B", (30, 20), levels.tobytes())
        assert np.array_equal(rgb(image)[..., 0], np.rint(levels.astype(float) / 257))

    def test_twelve_bit_tiff_is_scaled_by_its_own_white(self) -> None:
        levels = [0, 4095, 2048, 1000]
        packed = bytes(
            byte
            for a, b in zip(levels[::2], levels[1::2], strict=True)
            for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255)
        )
        tags = [
            (256, 4),
            (257, 1),
            (258, 12),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, 1),
            (279, len(packed)),
        ]
        directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
        padded = packed + bytes(-len(packed) % 8)
        data = b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + directory + bytes(4)
        assert rgb(data)[0, :, 0].tolist() == [round(level * 255 / 4095) for level in levels]

    def test_transparent_level_of_sixteen_bit_png(self) -> None:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
            + chunk(b"tRNS", struct.pack(">H", 1000))
            + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">2H", 1000, 40000)))
            + chunk(b"IEND", b"")
        )
        assert rgb(data)[0, :, 0].tolist() == [255, round(40000 / 257)]

    @pytest.mark.parametrize(
        ("levels", "expected"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.0, 0.5, 1.01], [0, 128, 255]),
            ([0.0, 100.0, 255.0], [0, 100, 255]),
            ([0.0, 257.0, 65535.0], [0, 1, 255]),
            ([-10.0, 0.0, 10.0], [0, 128, 255]),
            ([0.0, np.nan, 1.0], [0, 0, 255]),
            ([-np.inf, 0.2, np.inf], [51, 51, 51]),
            ([np.nan, np.nan, np.nan], [0, 0, 0]),
            ([-7.0, -7.0, -7.0], [0, 0, 0]),
        ],
    )
    def test_float_tiff(self, levels: list[float], expected: list[int]) -> None:
        data = encoded(Image.fromarray(np.array([levels], dtype="f4")), "TIFF")
        assert rgb(data)[0, :, 0].tolist() == expected

    @pytest.mark.parametrize(
        ("levels", "expected"),
        [([0, 128, 255], [0, 128, 255]), ([0, 2570, 65535], [0, 10, 255]), ([-100, 0, 100000], [0, 0, 255])],
    )
    def test_a_32_bit_tiff_is_scaled(self, levels: list[int], expected: list[int]) -> None:
        data = encoded(Image.fromarray(np.array([levels], dtype="i4")), "TIFF")
        assert rgb(data)[0, :, 0].tolist() == expected

    @pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV", "RGBX"])
    def test_other_colour_spaces_as_pillow_converts_them(self, mode: str) -> None:
        image = Image.fromarray(PIXELS).convert(mode) if mode != "LAB" else Image.fromarray(PIXELS, "LAB")
        assert np.array_equal(rgb(image), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_animation_and_pages_give_the_first(self, kind: str) -> None:
        frames = [Image.new("RGB", (20, 10), colour) for colour in ("#f00", "#0f0", "#00f")]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(data)) as written:
            assert getattr(written, "n_frames", 1) == 3
        assert np.array_equal(rgb(data), np.asarray(frames[0]))

    def test_multi_picture_jpeg_gives_the_first(self) -> None:
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("#f00", "#00f")]
        data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
        red, _, blue = rgb(data)[8, 8]
        assert red > 250 and blue < 5

    def test_pil_animation_keeps_the_frame_it_stands_at(self) -> None:
        frames = [Image.new("RGB", (20, 10), colour) for colour in ("#f00", "#0f0")]
        with Image.open(
            io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        ) as gif:
            gif.seek(1)
            assert rgb(gif)[5, 5].tolist() == [0, 255, 0]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_every_exif_orientation(self, kind: str, orientation: int) -> None:
        # What a viewer must do, from the standard: where the stored row 0 and column 0 are seen.
        turned = {
            1: PIXELS,
            2: PIXELS[:, ::-1],
            3: PIXELS[::-1, ::-1],
            4: PIXELS[::-1],
            5: PIXELS.transpose(1, 0, 2),
            6: PIXELS[::-1].transpose(1, 0, 2),
            7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
            8: PIXELS[:, ::-1].transpose(1, 0, 2),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        assert np.array_equal(
            rgb(encoded(Image.fromarray(PIXELS), kind, exif=exif.tobytes(), **options)), turned
        )

    def test_jpeg_as_pillow_turns_it(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(Image.fromarray(PIXELS), "JPEG", exif=exif.tobytes())
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert expected.shape == (32, 24, 3)
        assert np.array_equal(rgb(data), expected)

    def test_turned_sixteen_bit_and_alpha(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        levels = np.arange(600, dtype="u2").reshape(20, 30) * 100
        data = encoded(Image.fromarray(levels), exif=exif.tobytes())
        assert np.array_equal(rgb(data)[..., 0], np.rint(levels / 257)[:, ::-1].T)

    @pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"])
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_mangled_exif_costs_nobody_a_picture(self, exif: bytes) -> None:
        data = encoded(Image.fromarray(PIXELS), exif=exif)
        assert np.array_equal(rgb(data), PIXELS)

    def test_unknown_orientation_is_left_alone(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 77
        assert np.array_equal(rgb(encoded(Image.fromarray(PIXELS), exif=exif.tobytes())), PIXELS)


class TestHeic:
    @pytest.fixture
    def heic(self) -> bytes:
        pillow_heif = imported("pillow_heif", "heic")
        stream = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(photo(64, 96))).save(stream, quality=100, chroma=444)
        return stream.getvalue()

    def test_opens_without_registering_itself_in_pillow(self, heic: bytes) -> None:
        got = rgb(heic)
        assert got.shape == (64, 96, 3)
        assert np.abs(got.astype(int) - photo(64, 96)).mean() < 2
        assert "HEIF" not in Image.OPEN

    def test_rotation_is_applied_once(self) -> None:
        pillow_heif = imported("pillow_heif", "heic")
        exif = Image.Exif()
        exif[0x0112] = 6
        stream = io.BytesIO()
        stored = photo(64, 96)
        # As a phone does it: the rotation stands in the container and, once more, in the EXIF.
        pillow_heif.encode(
            "RGB", (96, 64), stored.tobytes(), stream, exif=exif.tobytes(), quality=100, chroma=444
        )
        assert b"irot" in stream.getvalue() and b"Exif" in stream.getvalue()
        expected = photo(64, 96)[::-1].transpose(1, 0, 2)
        got = rgb(stream.getvalue())
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).mean() < 2

    def test_without_pillow_heif_one_line_names_it(
        self, heic: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        assert "pip install pillow-heif" in refusal(heic)

    def test_limits_and_damage(self, heic: bytes) -> None:
        assert "96 x 64" in refusal(heic, PictureLimits(max_pixels=6143))
        assert "damaged" in refusal(heic[: len(heic) // 2])
        assert "damaged" in refusal(heic[:40])


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


@pytest.fixture(autouse=True)
def pillow_settings_stay() -> Iterator[None]:
    """Opening pictures changes nothing in Pillow for the rest of the program."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    assert before == Image.MAX_IMAGE_PIXELS
