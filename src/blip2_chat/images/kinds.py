"""Which files are pictures: decided by the extension, or if that is ambiguous by the first bytes."""

from __future__ import annotations

import functools
import mimetypes
import os
from collections.abc import Callable

from PIL import Image

# Only formats people keep pictures in, each decoded inside this process. Left out on purpose: EPS, which
# Pillow hands to Ghostscript to execute; WMF, GRIB, HDF5 and other stubs; TGA, which has no signature.
# JPEG includes MPO.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000", "QOI")
HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"heif"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEAD_BYTES = 256

_HEIF_ENDINGS = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
_AVIF_ENDINGS = frozenset((".avif", ".avifs"))
# Camera raw files are TIFF containers whose first picture is a small thumbnail; interrupted downloads begin
# like the picture.
_RAW_FORMATS = (
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
)
CAMERA_RAW = frozenset(f".{ending}" for ending in _RAW_FORMATS.split())
_NEVER = frozenset((*CAMERA_RAW, ".crdownload", ".download", ".part", ".partial"))
# The type that the standard library's table gives to ambiguous extensions.
_SAYS_NOTHING = "application/octet-stream"
_BMP_HEADER_SIZES = frozenset((12, 16, 40, 52, 56, 64, 108, 124))


@functools.cache
def picture_endings() -> frozenset[str]:
    """The extensions, in lower case with the dot, of every format that `open_picture` opens."""
    Image.init()
    kinds = {*FORMATS, "MPO"}
    # Older versions of Pillow do not know AVIF: such a file is still a picture, and opening it explains what
    # is needed.
    return frozenset(
        {ending for ending, kind in Image.EXTENSION.items() if kind in kinds} | _HEIF_ENDINGS | _AVIF_ENDINGS
    )


def looks_like_picture(name: str, head: bytes | Callable[[], bytes]) -> bool:
    """Whether a file is a picture that `open_picture` should open.

    name: its file name, path, or key in an archive, without the query of a URL. Case is ignored.
    head: its first `HEAD_BYTES` bytes (fewer if it is shorter), or a function that reads them. The function
        is called only if the extension is ambiguous, so that a folder of .jpg files is listed without opening
        them; its exceptions (an unreadable file) are passed on.

    With the extension of a supported format, a file counts as a picture, so a damaged `cat.jpg` is reported as
    damaged instead of being skipped. With the extension of another format (.txt, .json, .mp4, .tar, .dng ...),
    it does not. Without an extension, or with an ambiguous one (`photo`, `a.0001`, `x.bin`, `image.php`), the
    signature in the first bytes decides.
    """
    told = _told_by_ending(os.path.splitext(name)[1].lower())
    if told is not None:
        return told
    return begins_like_picture(head if isinstance(head, bytes) else head())


def is_picture_file(path: str | os.PathLike[str]) -> bool:
    """`looks_like_picture` for a file of this machine, which is opened only if its ending does not tell. Hidden files
    are none: macOS puts "._name.jpg", which is no picture, beside every file on a foreign disk."""
    return not os.path.basename(path).startswith(".") and looks_like_picture(
        os.fspath(path), lambda: _head(path)
    )


def _head(path: str | os.PathLike[str]) -> bytes:
    """The beginning of a file; nothing for pipes and devices, and for what may not be read."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def begins_like_picture(head: bytes) -> bool:
    """Whether `HEAD_BYTES` bytes are the beginning of a picture that `open_picture` opens."""
    brands = iso_brands(head)
    if brands:
        return bool(brands & (HEIF_BRANDS | AVIF_BRANDS))
    # Words may begin with the same two letters, so the following bytes have to fit as well.
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES
    if head[:1] == b"P":
        return head[1:2] in b"123456fFy" and head[2:3] in b"\n\r\t #" and len(head) > 2
    Image.init()
    for kind in FORMATS:
        # A bare DIB begins with a small number, as do many files of other kinds.
        if kind in Image.OPEN and kind not in ("DIB", "BMP", "PPM"):
            accept = Image.OPEN[kind][1]
            if accept is not None and accept(head[:16]):
                return True
    return False


def iso_brands(data: bytes) -> frozenset[bytes]:
    """The brands an ISO media file (HEIC, AVIF, MP4) declares in its first box; empty for other files."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), HEAD_BYTES)
    # Bytes 12-16 hold the minor version.
    return frozenset([data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))])


@functools.lru_cache(maxsize=1024)
def _told_by_ending(ending: str) -> bool | None:
    if ending in picture_endings():
        return True
    if ending in _NEVER:
        return False
    # The built-in table, because the system's own files differ between machines.
    kind = mimetypes.MimeTypes().types_map[True].get(ending, _SAYS_NOTHING)
    return None if kind == _SAYS_NOTHING or kind.startswith("image/") else False
