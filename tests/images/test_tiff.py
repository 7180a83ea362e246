"""TIFF samples of every declared kind. The files are written here byte by byte; the references are numpy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import open_picture
from tests.support.picture_files import (
    BLACK_IS_ZERO,
    CMYK,
    RGB,
    WHITE_IS_ZERO,
    Array,
    Order,
    tiff,
)

ORDERS = pytest.mark.parametrize("order", "<>")


def opened(data: bytes) -> Array:
    return np.asarray(open_picture(data).image).astype(int)


def grey(data: bytes) -> Array:
    pixels = opened(data)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


RAMP = np.linspace(0, 1, 20 * 30).reshape(20, 30)
SHOWN = np.rint(RAMP * 255).astype(int)


# Pillow reads no big-endian BigTIFF.
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2", "i4", "f4"])
def test_a_ramp_over_the_whole_range(
    kind: str, photometric: int, order: Order, deflate: bool, big: bool
) -> None:
    """The darkest number is black (white in WhiteIsZero), the largest white, whatever the type of the samples."""
    if kind == "f4":
        samples = RAMP.astype("f4")
    else:
        info = np.iinfo(kind)
        samples = (
            np.rint(RAMP * (int(info.max) - int(info.min)) + int(info.min))
            .astype("i8")
            .clip(info.min, info.max)
        )
        samples = samples.astype(kind)
    got = grey(tiff(samples, photometric, order, deflate=deflate, big=big))
    expected = SHOWN if photometric == BLACK_IS_ZERO else 255 - SHOWN
    assert np.abs(got - expected).max() <= 1
    assert got[0, 0] == expected[0, 0] and got[-1, -1] == expected[-1, -1]


@ORDERS
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_sixteen_bit_is_scaled_by_its_white_not_stretched(order: Order, photometric: int) -> None:
    night = np.full((3, 4), 2570, "u2")
    got = grey(tiff(night, photometric, order))
    assert (got == (10 if photometric == BLACK_IS_ZERO else 245)).all()


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_twelve_bit(photometric: int) -> None:
    levels = np.array([[0, 4095, 2048, 1000]], "u2")
    nibbles = "".join(f"{level:03x}" for level in levels[0])
    got = grey(tiff(levels, photometric, packed=bytes.fromhex(nibbles), bits=12))
    expected = np.rint(levels / 4095 * 255).astype(int)
    assert np.abs(got - (expected if photometric == BLACK_IS_ZERO else 255 - expected)).max() <= 1


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[-128, 0, 127]], "i1"), [0, 128, 255]),
        (np.array([[0, 64, 127]], "i1"), [0, 129, 255]),
        (np.array([[-1, 0, 1]], "i2"), [0, 128, 255]),
        (np.array([[0, 16384, 32767]], "i2"), [0, 128, 255]),
        (np.array([[0, 100, 255]], "i2"), [0, 100, 255]),
        (np.array([[0, 2**31, 2**32 - 1]], "u4"), [0, 128, 255]),
        (np.array([[0, 100, 255]], "u4"), [0, 100, 255]),
        (np.array([[0, 2570, 65535]], "u4"), [0, 10, 255]),
        (np.array([[0.0, np.nan, 1.0]], "f4"), [0, 0, 255]),
    ],
)
@ORDERS
def test_levels(samples: Array, expected: list[int], order: Order) -> None:
    assert grey(tiff(samples, order=order))[0].tolist() == expected
    turned = grey(tiff(samples, WHITE_IS_ZERO, order))[0]
    assert np.abs(turned - (255 - np.array(expected))).max() <= 1


def test_a_lazily_opened_image_is_turned_over_as_well() -> None:
    data = tiff((RAMP * 65535).astype("u2"), WHITE_IS_ZERO)
    with Image.open(io.BytesIO(data)) as image:
        got = np.asarray(open_picture(image).image)[..., 0].astype(int)
    assert np.abs(got - (255 - SHOWN)).max() <= 1


COLOURS = np.random.default_rng(1).integers(0, 256, (20, 30, 4), dtype="u1")


@ORDERS
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("wide", [1, 2])
def test_an_rgb_picture(order: Order, planar: bool, deflate: bool, wide: int) -> None:
    pixels = COLOURS[..., :3]
    samples = pixels if wide == 1 else pixels.astype("u2") * 257
    data = tiff(samples, RGB, order, planar=planar, deflate=deflate)
    got = opened(data)
    assert np.array_equal(got, pixels)


@ORDERS
@pytest.mark.parametrize("wide", [1, 2])
def test_rgb_with_alpha_and_cmyk(order: Order, wide: int) -> None:
    samples = COLOURS if wide == 1 else COLOURS.astype("u2") * 257
    alpha = COLOURS[..., 3:].astype(float) / 255
    over_white = COLOURS[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(opened(tiff(samples, RGB, order, more={338: 2})) - over_white).max() <= 1
    inks = 255 - COLOURS.astype(float)
    naive = inks[..., :3] * inks[..., 3:] / 255
    assert np.abs(opened(tiff(samples, CMYK, order)) - naive).max() <= 1


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(bits: int, photometric: int) -> None:
    levels = np.arange(8).reshape(1, 8) % 2**bits
    text = "".join(f"{level:0{bits}b}" for level in levels[0])
    packed = int(text, 2).to_bytes(len(text) // 8, "big")
    expected = levels * 255 // (2**bits - 1)
    got = grey(tiff(levels.astype("u1"), photometric, packed=packed, bits=bits))
    assert np.array_equal(got, expected if photometric == BLACK_IS_ZERO else 255 - expected)


@pytest.mark.parametrize(
    "samples", [np.zeros((2, 3, 3), "f4"), np.zeros((2, 3), "f8"), np.zeros((2, 3, 3), "i2")]
)
def test_an_unreadable_picture_is_reported(samples: Array) -> None:
    with pytest.raises(PictureError, match="TIFF of a kind"):
        open_picture(tiff(samples, RGB if samples.ndim == 3 else BLACK_IS_ZERO))
