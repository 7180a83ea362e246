"""From the bytes of a picture file to a decoded PIL image, with size and work checked before decoding."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from typing import TypeAlias

from PIL import Image, ImageFile

from ..errors import PictureError
from .formats import jpeg, png, tiff
from .formats.levels import strips
from .formats.quiet import quiet_libtiff
from .kinds import AVIF_BRANDS, FORMATS, HEIF_BRANDS, iso_brands
from .limits import PictureLimits
from .naming import one_line

_Opening: TypeAlias = "Callable[[bytes], io.BytesIO]"

# A JPEG of more pixels is decoded at half, a quarter or an eighth of its size, until it has fewer. That is
# still ten times what any BLIP-2 sees, and needs little memory.
_REDUCE_ABOVE = 40_000_000
# Decoders unpack one tile at a time, whose size is declared in the file.
_LARGEST_TILE = 40_000_000
# Exceptions of Pillow's readers for files of another format.
_ANOTHER_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
# Bytes without a marker. Any would do, as long as they are the same each time.
_MORE_DATA = bytes(random.Random(0).choices(range(1, 255), k=2048))


class _Watched(io.BytesIO):
    """A file in memory, whose reads fail once the picture is no longer wanted. Pillow asks for 64 kB of a JPEG
    or PNG at a time, and decodes them before it asks for more."""

    def __init__(self, data: bytes, name: str, is_abandoned: Callable[[], bool]) -> None:
        super().__init__(data)
        self._name = name
        self._is_abandoned = is_abandoned

    def read(self, size: int | None = -1, /) -> bytes:
        if self._is_abandoned():
            raise PictureError(f"{self._name} is no longer wanted", name=self._name, fault="abandoned")
        return super().read(size)


def _never() -> bool:
    return False


def decode(
    data: bytes, name: str, limits: PictureLimits, is_abandoned: Callable[[], bool] = _never
) -> Image.Image:
    """The first frame of an encoded picture, loaded, in whatever mode the file has.

    `name` is the name of the picture in messages. A JPEG of more than 40 million pixels is returned at a
    reduced size. Raises PictureError for bytes that are not a picture, for too many pixels or too much work
    (read from the header, before memory is allocated), and for damage. `is_abandoned` is called while the
    file is read: once it returns True, decoding ends with a PictureError (fault "abandoned"). WebP, AVIF and HEIC are
    decoded in one call that cannot be interrupted.
    """

    def opening(encoded: bytes) -> io.BytesIO:
        return _Watched(encoded, name, is_abandoned)

    if not data:
        raise PictureError(
            f"{name} is empty (0 bytes); copy or download it again", name=name, fault="damaged"
        )
    brands = iso_brands(data)
    if brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
        return _decode_heif(data, name, limits, opening)
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, name, limits, opening)
    if data.startswith(png.SIGNATURE):
        return _decode_png(data, name, limits, opening)
    if data.startswith((b"II", b"MM")):
        return _decode_tiff(data, name, limits, opening)
    return _decode_with_pillow(data, name, limits, opening)


def _decode_with_pillow(
    data: bytes,
    name: str,
    limits: PictureLimits,
    opening: _Opening,
    prepare: Callable[[ImageFile.ImageFile], object] | None = None,
) -> Image.Image:
    # Pillow's decoders raise nearly anything on hostile bytes (struct.error, IndexError, SyntaxError,
    # MemoryError, zlib.error ...), so only a broad except guarantees one clear error.
    try:
        image = _opened(data, opening)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has too many pixels for Pillow's bomb guard; save a smaller copy and use that",
            name=name,
            fault="too large",
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    if image is None:
        raise PictureError(f"{name} {_what_it_is(data)}", name=name, fault="unsupported")
    # OpenJPEG needs 20 bytes per pixel; the others need 8, including all later steps.
    limits.require_pixels(*image.size, name, share=0.5 if image.format == "JPEG2000" else 1)
    try:
        if prepare is not None:
            prepare(image)
        image.load()
    except PictureError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    return image


def _opened(data: bytes, opening: _Opening) -> ImageFile.ImageFile | None:
    """The image, not loaded yet; None if it has none of our formats.

    Like `Image.open`, but without its limit on pixels, which is global to the program, and without its warning,
    which would be printed in the middle of a run's output.
    """
    Image.init()
    for kind in FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[kind]
        accepted = accept is None or accept(data[:16])
        if accepted is not True:
            continue  # False, or a text with the missing library
        try:
            return factory(opening(data), "")
        except _ANOTHER_FORMAT:
            continue
    return None


def _decode_jpeg(data: bytes, name: str, limits: PictureLimits, opening: _Opening) -> Image.Image:
    try:
        facts = jpeg.facts(data)
    except ValueError as error:
        raise _damaged(name, error) from error
    if facts is None:
        raise _damaged(name, OSError("there is no picture in it"))
    limits.require_pixels(facts.width, facts.height, name)
    limits.require_work(facts.scans, facts.work, name)

    def reduce(image: ImageFile.ImageFile) -> None:
        width, height = image.size
        scale = next((scale for scale in (1, 2, 4) if width * height <= _REDUCE_ABOVE * scale**2), 8)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))

    if facts.ended:
        return _decode_with_pillow(data, name, limits, opening, reduce)
    data = jpeg.without_padding(data)
    whole = _decode_with_pillow(data + jpeg.END, name, limits, opening, reduce)
    # Bytes after the last pixel change nothing, but if pixels are missing, they would be read as pixels.
    other = _decode_with_pillow(data + _MORE_DATA + jpeg.END, name, limits, opening, reduce)
    if not (facts.whole and _same(whole, other)):
        raise _damaged(name, OSError("part of the picture is missing"))
    return whole


def _decode_png(data: bytes, name: str, limits: PictureLimits, opening: _Opening) -> Image.Image:
    try:
        essential = png.essential(data)
    except ValueError as error:
        raise _damaged(name, error) from error
    return _decode_with_pillow(essential, name, limits, opening)


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and all(
        one.crop(box).tobytes() == other.crop(box).tobytes() for box in strips(one.size)
    )


def _decode_tiff(data: bytes, name: str, limits: PictureLimits, opening: _Opening) -> Image.Image:
    known = tiff.readable(data)
    if known.tile > max(_LARGEST_TILE, limits.max_pixels):
        raise PictureError(
            f"{name} has tiles of {known.tile:,} pixels; save it as PNG or JPEG and use that",
            name=name,
            fault="unsupported",
        )
    with quiet_libtiff():
        image = _decode_with_pillow(known.data, name, limits, opening, tiff.mend)
    for tag, value in known.truly.items():
        image.tag_v2[tag] = value  # type: ignore[attr-defined]
    return image


def _decode_heif(data: bytes, name: str, limits: PictureLimits, opening: _Opening) -> Image.Image:
    try:
        # Not `register_heif_opener`, which would change what Pillow opens in the whole program.
        import pillow_heif
    except ImportError as error:
        raise PictureError(
            f"{name} is a HEIC picture, which needs pillow-heif: pip install pillow-heif",
            name=name,
            fault="unsupported",
        ) from error
    try:
        container = pillow_heif.open_heif(opening(data))
        width, height = container.size
    except PictureError:
        raise
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
    return PictureError(
        f"{name} is damaged or cut short ({reason}); copy or download it again", name=name, fault="damaged"
    )


def _what_it_is(data: bytes) -> str:
    """The rest of the sentence "cat.jpg ..." for bytes that Pillow does not recognise."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if iso_brands(data) & AVIF_BRANDS:
        return "is an AVIF picture, which needs Pillow 11.3 or newer: pip install -U pillow"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture; use the address or file of the picture itself"
    if b"<svg" in start:
        return "is an SVG drawing; export it as PNG and use that"
    if start.startswith(b"%pdf"):
        return "is a PDF; export the page as PNG and use that"
    if not data[:1024].translate(None, bytes(range(32, 127)) + b"\t\r\n\f"):
        return "is text, not a picture; choose a PNG, JPEG, WebP, GIF, TIFF or BMP file"
    if data[:4] in tiff.SIGNATURES:
        return "is damaged, or a TIFF of a kind this program cannot read; save it as PNG or JPEG and use that"
    return "is not a picture this program can read; save it as PNG or JPEG and use that"
