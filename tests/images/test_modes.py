"""Modes, orientations and HEIC: whatever a file holds, it opens as the same upright RGB.

References are numpy arithmetic on made pixels, and Pillow's own operations.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from blip2_chat.images import PictureLimits
from tests.support.extras import imported
from tests.support.pictures import PIXELS, encoded, over_white, photo, refusal, rgb, sixteen_bit


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
