"""From any PIL image or numpy array to upright 8-bit RGB with white behind transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import PictureError
from .formats.levels import from_levels, holds_levels, strips

_ORIENTATION = 0x0112
# The operation for each EXIF orientation (EXIF 2.32, table 6); 1 needs none.
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
    """An RGB image: EXIF orientation applied, alpha over white, 16-bit and float grey scaled to 8 bits.

    `image` must be loaded; it is not changed, and is returned as is if it is already upright RGB. CMYK
    goes through Pillow's plain conversion (Pillow undoes Adobe's inversion when it reads the JPEG); colour
    profiles are not applied, as they were not when BLIP-2 was trained. A picture that is transparent everywhere
    is treated as opaque, because some programs write 32 bits per pixel and leave alpha at 0.
    May raise whatever Pillow raises on a damaged image.
    """
    turn = _turn(image)
    rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # EXIF data is often mangled by editors, and parsing it can raise anything; a picture that may be
        # rotated is better than none.
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if holds_levels(image):
        return from_levels(image).convert("RGB")
    if _has_alpha(image):
        try:
            return _over_white(image)
        except (TypeError, ValueError):
            # A transparency entry left over from another mode (such as a palette) means nothing here.
            return _without_transparent_colour(image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return (
        "A" in image.getbands()
        or "a" in image.getbands()
        or image.info.get("transparency") is not None
        or (image.palette is not None and image.palette.mode.endswith("A"))
    )


def _over_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    alphas = (_rgba(image.crop(box)).getchannel("A").getextrema() for box in strips(image.size))
    opaque = all(alpha == (0, 0) for alpha in alphas)
    for box in strips(image.size):
        rgba = _rgba(image.crop(box))
        if not opaque:
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        rgb.paste(rgba.convert("RGB"), box)
    return rgb


def _rgba(image: Image.Image) -> Image.Image:
    # Pillow has no direct way from premultiplied grey.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _without_transparent_colour(image: Image.Image) -> Image.Image:
    plain = image.copy()
    plain.info.pop("transparency", None)
    return plain


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
        raise PictureError(
            f"{name}: an array of shape {shape} is not a picture; {way_out}", name=name, fault="unsupported"
        )
    if array.size == 0:
        raise PictureError(
            f"{name}: an array of shape {shape} has no pixels; choose another picture",
            name=name,
            fault="unsupported",
        )
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
            f"{name}: an array of {array.dtype} is not a picture; give uint8, or float in 0 to 1",
            name=name,
            fault="unsupported",
        )
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.uint16:
        white = 65535.0
    elif array.dtype.kind == "f" and high <= 1.0:
        white = 1.0
    else:
        white = 255.0
    # A float slightly above 1 is more likely an overshoot of 0-1 than a black picture in 0-255: raise.
    ambiguous = array.dtype.kind == "f" and 1.0 < high <= 2.0
    if not 0.0 <= low <= high <= white or ambiguous:
        raise PictureError(
            f"{name}: an array of {array.dtype} with values from {low:g} to {high:g} has no clear scale; "
            "clip floats to 0 to 1, or give uint8 in 0 to 255",
            name=name,
            fault="unsupported",
        )
    if white == 255.0 and array.dtype.kind != "f":
        return array.astype(np.uint8)
    levels: npt.NDArray[np.float64] = np.rint(array * np.float32(255.0 / white))
    return levels.astype(np.uint8)
