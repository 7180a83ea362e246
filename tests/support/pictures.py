"""Made pictures whose every pixel is known, and what opening them gives."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import PictureLimits, open_picture

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
