"""From the bytes of a picture file to a decoded PIL image, with the size checked before decoding."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from ..errors import PictureError
from .kinds import AVIF_BRANDS, FORMATS, HEIF_BRANDS, iso_brands
from .limits import PictureLimits
from .naming import one_line


def decode(data: bytes, name: str, limits: PictureLimits) -> Image.Image:
    """The first frame of an encoded picture, loaded, in whatever mode the file has.

    `name` is what the picture is called in a message. Raises PictureError for bytes that are no
    picture, too many pixels (read from the header, before memory is taken), and damage.
    """
    if not data:
        raise PictureError(f"{name} is empty (0 bytes); copy or download it again")
    brands = iso_brands(data)
    if brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
        return _decode_heif(data, name, limits)
    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]
    # Pillow's decoders raise nearly anything on hostile bytes (struct.error, IndexError, SyntaxError,
    # MemoryError, zlib.error ...), so only the broad net keeps the promise of one clear error.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} {_what_it_is(data, brands)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has too many pixels for Pillow's bomb guard; save a smaller copy and use that"
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    limits.require_pixels(*image.size, name)
    try:
        image.load()
    except Exception as error:
        raise _damaged(name, error) from error
    return image


def _decode_heif(data: bytes, name: str, limits: PictureLimits) -> Image.Image:
    try:
        # Not `register_heif_opener`: that would change what Pillow opens for the whole program.
        import pillow_heif
    except ImportError as error:
        raise PictureError(
            f"{name} is a HEIC picture, which needs pillow-heif: pip install pillow-heif"
        ) from error
    try:
        container = pillow_heif.open_heif(io.BytesIO(data))
        width, height = container.size
    except Exception as error:
        raise _damaged(name, error) from error
    limits.require_pixels(width, height, name)
    try:
        # libheif has applied the rotation; to_pillow() clears the EXIF tag that repeats it.
        image: Image.Image = container.to_pillow()
    except Exception as error:
        raise _damaged(name, error) from error
    return image


def _damaged(name: str, error: Exception) -> PictureError:
    reason = one_line(str(error)) or type(error).__name__
    return PictureError(f"{name} is damaged or cut short ({reason}); copy or download it again")


def _what_it_is(data: bytes, brands: frozenset[bytes]) -> str:
    """The rest of the sentence "cat.jpg ...", for bytes Pillow does not know."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if brands & AVIF_BRANDS:
        return "is an AVIF picture, which needs Pillow 11.3 or newer: pip install -U pillow"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture; use the address or file of the picture itself"
    if b"<svg" in start:
        return "is an SVG drawing; export it as PNG and use that"
    if start.startswith(b"%pdf"):
        return "is a PDF; export the page as PNG and use that"
    if not data[:1024].translate(None, bytes(range(32, 127)) + b"\t\r\n\f"):
        return "is text, not a picture; choose a PNG, JPEG, WebP, GIF, TIFF or BMP file"
    return "is not a picture this program can read; save it as PNG or JPEG and use that"
