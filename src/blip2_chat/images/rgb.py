"""From any PIL image or numpy array to upright 8-bit RGB with white behind transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import PictureError

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# What each EXIF orientation asks of a viewer (EXIF 2.32, table 6); 1 asks nothing.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image: EXIF orientation applied, alpha over white, 16-bit and float grey scaled to 8 bits.

    `image` must be loaded; it is not changed. CMYK goes through Pillow's plain conversion (Pillow undoes
    Adobe's inversion when it reads the JPEG); colour profiles are not applied, as they were not when
    BLIP-2 was trained. May raise whatever Pillow raises on a damaged image.
    """
    turn = _turn(image)
    rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # EXIF is a note beside the picture, often mangled by editors, and parsing it can raise anything;
        # a picture that may lie on its side is better than none.
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_levels(image, 65535.0)
    if image.mode in ("I", "F"):
        return _from_levels(image, None)
    if _has_alpha(image):
        try:
            # Pillow has no direct way from premultiplied grey.
            rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        except (TypeError, ValueError):
            # A note left over from another mode (a palette's, after editing) marks nothing here.
            return _without_transparent_colour(image).convert("RGB")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return (
        "A" in image.getbands()
        or "a" in image.getbands()
        or image.info.get("transparency") is not None
        or (image.palette is not None and image.palette.mode.endswith("A"))
    )


def _without_transparent_colour(image: Image.Image) -> Image.Image:
    plain = image.copy()
    plain.info.pop("transparency", None)
    return plain


def _from_levels(image: Image.Image, white: float | None) -> Image.Image:
    """8-bit RGB from one channel of 16-bit, 32-bit or float levels; Pillow's own convert() clips at 255.

    `white` is the level shown as 255. None means the file does not say, and the smallest usual scale
    that holds the levels is taken: 0-1 (floats; a little overshoot is clipped), 0-255, 0-65535, else
    the levels are stretched from darkest to brightest.
    """
    bits = _tiff_bits(image)
    if white is not None and bits is not None:
        white = 2.0**bits - 1  # 10-, 12- and 14-bit cameras store small numbers in 16-bit words
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        white = 65535.0  # Pillow may open these 16-bit files as 32-bit "I"
    stored: npt.NDArray[Any] = np.asarray(image)
    # float32 holds 16-bit levels exactly and takes half the memory; "I" and "F" span more.
    levels = stored.astype(np.float32 if image.mode.startswith("I;16") else np.float64)
    finite = levels[np.isfinite(levels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if white is None and low >= 0:
        unit = [(2.0, 1.0)] if image.mode == "F" else []
        scales = [*unit, (255.0, 255.0), (65535.0, 65535.0)]
        white = next((scale for limit, scale in scales if high <= limit), None)
    black = 0.0 if white is not None else low
    scale = 255.0 / (white or (high - low) or 1.0)
    levels = (np.nan_to_num(levels, nan=low, posinf=high, neginf=low) - black) * scale
    grey = np.rint(levels.clip(0.0, 255.0)).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[stored == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _tiff_bits(image: Image.Image) -> int | None:
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return bits[0] if isinstance(bits, tuple) and len(bits) == 1 and 8 < bits[0] <= 16 else None


def array_to_image(array: npt.NDArray[Any], name: str) -> Image.Image:
    """A PIL image (L, RGB or RGBA) from an array of shape [H, W] or [H, W, 1, 3 or 4].

    Scales: bool 0/1, uint8 and other integers 0-255, uint16 0-65535, floats 0-1 or 0-255 (by the largest
    value). Raises PictureError, naming the shape or values, for anything else.
    """
    shape = " x ".join(map(str, array.shape)) or "a single number"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        planes_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        way_out = (
            "move the channels last: array.transpose(1, 2, 0)"
            if planes_first
            else "give height x width, or height x width x 1, 3 or 4 channels"
        )
        raise PictureError(f"{name}: an array of shape {shape} is not a picture; {way_out}")
    if array.size == 0:
        raise PictureError(f"{name}: an array of shape {shape} has no pixels; choose another picture")
    levels = _array_levels(array, name)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(levels))


def _array_levels(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif":
        raise PictureError(
            f"{name}: an array of {array.dtype} is not a picture; give uint8, or float in 0 to 1"
        )
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.uint16:
        white = 65535.0
    elif array.dtype.kind == "f" and high <= 1.0:
        white = 1.0
    else:
        white = 255.0
    # A float just over 1 is more likely a 0-1 picture that overshot than a black one in 0-255: ask.
    ambiguous = array.dtype.kind == "f" and 1.0 < high <= 2.0
    if not 0.0 <= low <= high <= white or ambiguous:
        raise PictureError(
            f"{name}: an array of {array.dtype} with values from {low:g} to {high:g} has no clear scale; "
            "clip floats to 0 to 1, or give uint8 in 0 to 255"
        )
    if white == 255.0 and array.dtype.kind != "f":
        return array.astype(np.uint8)
    levels: npt.NDArray[np.float64] = np.rint(array * np.float32(255.0 / white))
    return levels.astype(np.uint8)
