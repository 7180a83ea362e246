"""Opening a picture from a path, URL, bytes, open file, PIL image or array."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..display import picture_png
from ..errors import PictureError
from .data_url import unquoted
from .decode import decode
from .fetch import fetch
from .formats.levels import strips
from .formats.tiff import mend
from .limits import PictureLimits
from .naming import UNNAMED, file_name, one_line, url_name
from .rgb import array_to_image, upright_rgb


@dataclass(frozen=True)
class Picture:
    """A picture ready for the model.

    image: PIL image, mode RGB, upright. Treat it as read-only, because `digest` identifies its pixels.
    name: for display: the file name, the URL without query and password, or "picture".
    digest: SHA-256, in hex, of the size and the RGB bytes. Identical pixels have the same digest, whatever file
    they came from; query vectors are cached by it.
    """

    image: Image.Image
    name: str
    digest: str

    def _repr_png_(self) -> bytes:
        return picture_png(self.image, 768)


PictureSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] "
    "| Image.Image | npt.NDArray[Any] | Mapping[str, Any] | Picture"
)

_DEFAULT_LIMITS = PictureLimits()
# At least two letters before the colon, so that C:\cat.jpg is a path.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def open_picture(
    source: PictureSource,
    *,
    limits: PictureLimits = _DEFAULT_LIMITS,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Picture:
    """Open a picture: EXIF orientation applied, transparency over white, 16-bit levels scaled, first frame
    only.

    source: a path (str or PathLike, `~` expanded), an http(s), `file:` or `data:` URL, the bytes of a file, a file
        opened with "rb" (read from its start if it can seek), a PIL image (its current frame), a numpy
        array [H, W] or [H, W, 1, 3 or 4]: uint8, uint16, bool, or float in 0-1 or 0-255; or a dict
        {"bytes": ..., "path": ...} as in Hugging Face datasets, in which either may be None.
    is_abandoned: called while the file is decoded; once it returns True, decoding ends with a PictureError.
    Raises only PictureError for problems with the picture, the disk or the network: one line that names the
    picture and what to do.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        name = _attribute_name(source, "filename")
        # The caller may continue to draw on it.
        return _picture(_loaded(source, name, limits), name, copy=True)
    if isinstance(source, np.ndarray):
        if source.ndim >= 2:
            limits.require_pixels(source.shape[1], source.shape[0], UNNAMED)
        return _picture(array_to_image(source, UNNAMED), UNNAMED)
    name, data = _read(source, limits)
    return _picture(decode(data, name, limits, is_abandoned), name)


def is_one_picture(value: object) -> bool:
    """Whether `open_picture` accepts `value` as a single picture, rather than a collection.

    For callers that accept a picture or a collection of them. True does not mean that it can be opened:
    `open_picture` reports missing paths, damaged bytes, and arrays [N, H, W], which look like a picture with
    misplaced channels. Arrays of objects or text, and those of four or more dimensions, are collections.
    """
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype.kind not in "OUS"
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Picture)
    return isinstance(value, kinds) or _is_record(value) or callable(getattr(value, "read", None))


def _is_record(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and ("bytes" in value or "path" in value)


def _picture(image: Image.Image, name: str, *, copy: bool = False) -> Picture:
    try:
        rgb = upright_rgb(image)
        if copy and rgb is image:
            rgb = image.copy()
    except Exception as error:  # Pillow's conversions raise nearly anything on damaged palettes and notes
        raise PictureError(
            f"{name} cannot be converted to RGB ({one_line(str(error))}); save it as PNG or JPEG and use that",
            name=name,
            fault="unsupported",
        ) from error
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height} RGB\n".encode())
    for box in strips(rgb.size):
        digest.update(rgb.crop(box).tobytes())
    return Picture(rgb, name, digest.hexdigest())


def _loaded(image: Image.Image, name: str, limits: PictureLimits) -> Image.Image:
    limits.require_pixels(*image.size, name)
    try:
        mend(image)
        image.load()
    except Exception as error:  # a lazily opened file fails here, in as many ways as in decode()
        raise PictureError(
            f"{name} is damaged or cut short ({one_line(str(error))}); copy or download it again",
            name=name,
            fault="damaged",
        ) from error
    return image


def _read(source: Any, limits: PictureLimits) -> tuple[str, bytes]:
    """(name, encoded bytes) of a source that is a picture file."""
    if isinstance(source, str):
        scheme = _SCHEME.match(source)
        if source[:5].lower() == "data:":
            return UNNAMED, _from_data_url(source, limits)
        if scheme and scheme[1].lower() in ("http", "https"):
            return url_name(source), fetch(source, limits)
        if scheme and scheme[1].lower() == "file":
            local = _path_of(source)
            return file_name(local), _from_path(local, limits)
        if scheme:
            raise PictureError(
                f"{url_name(source)}: {scheme[1]} addresses are not opened; give an http(s) or file URL, or a path",
                name=url_name(source),
                fault="unsupported",
            )
        return file_name(source), _from_path(source, limits)
    if _is_record(source):
        return _from_record(source, limits)
    if isinstance(source, os.PathLike):
        path: str = os.fsdecode(source)
        return file_name(path), _from_path(path, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.require_bytes(memoryview(source).nbytes, UNNAMED)
        return UNNAMED, bytes(source)
    if callable(getattr(source, "read", None)):
        name = _attribute_name(source, "name")
        return name, _from_stream(source, name, limits)
    raise PictureError(
        f"a {type(source).__name__} is not a picture; "
        "give a path, URL, bytes, file opened with 'rb', PIL image, numpy array or {'bytes': ...}",
        fault="unsupported",
    )


def _from_record(record: Mapping[str, Any], limits: PictureLimits) -> tuple[str, bytes]:
    data, path = record.get("bytes"), record.get("path")
    if data is None and path is None:
        raise PictureError(
            "the picture is missing: neither its bytes nor its path are given", fault="missing"
        )
    if data is None:
        return _read(path, limits)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise PictureError(
            f'the "bytes" of a picture are a {type(data).__name__}; give the bytes of its file',
            fault="unsupported",
        )
    name = file_name(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else UNNAMED
    limits.require_bytes(memoryview(data).nbytes, name)
    return name, bytes(data)


def _attribute_name(source: object, attribute: str) -> str:
    # The name of an open file may be a descriptor number, and that of a PIL image b"" or missing.
    value = getattr(source, attribute, None)
    return file_name(os.fsdecode(value)) if isinstance(value, (str, bytes, os.PathLike)) else UNNAMED


def _path_of(url: str) -> str:
    """The local path of a file: URL."""
    from urllib.request import url2pathname  # which imports an HTTP client

    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PictureError(
            f"{one_line(url)} is not a valid address; give a path", name=one_line(url), fault="unreadable"
        ) from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise PictureError(
            f"{url_name(url)} is on another machine; give a path, or file:///... for this one",
            name=url_name(url),
            fault="refused",
        )
    return url2pathname(parts.path)


def _from_path(path: str, limits: PictureLimits) -> bytes:
    name = file_name(path)
    if not limits.allow_paths:
        raise PictureError(
            f"{name}: opening pictures by path is switched off here; upload the picture instead",
            name=name,
            fault="refused",
        )
    try:
        expanded = Path(path).expanduser()
        mode = expanded.stat().st_mode
        if stat.S_ISDIR(mode):
            raise PictureError(
                f"{name} is a folder; give the path of one picture in it", name=name, fault="unsupported"
            )
        if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
            raise PictureError(
                f"{name} is a pipe or device, not a file; give its bytes or an open file",
                name=name,
                fault="unsupported",
            )
        with expanded.open("rb") as file:
            return _from_stream(file, name, limits)
    except FileNotFoundError as error:
        raise PictureError(
            f"{one_line(path)} was not found; check the path", name=one_line(path), fault="missing"
        ) from error
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # ValueError: a NUL in it; RuntimeError: no such ~user
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError(
            f"{name} cannot be opened ({one_line(reason)}); check the path", name=name, fault="unreadable"
        ) from error


def _from_stream(stream: IO[bytes], name: str, limits: PictureLimits) -> bytes:
    data = bytearray()
    try:
        # Pipes, sockets and objects with nothing but read() are read from their current position.
        with contextlib.suppress(AttributeError, OSError):
            stream.seek(0)
        # They may return less than requested, and return nothing only at their end.
        while chunk := stream.read(limits.max_bytes + 1 - len(data)):
            data += chunk
            limits.require_bytes(len(data), name)
    except PictureError:
        raise
    except Exception as error:  # the caller's object may raise anything
        raise PictureError(
            f"{name} cannot be read ({one_line(str(error))}); give a file opened with 'rb'",
            name=name,
            fault="unreadable",
        ) from error
    return bytes(data)


def _from_data_url(url: str, limits: PictureLimits) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise PictureError("the data: URL has no comma before its data; copy it whole", fault="unreadable")
    # Base64 needs 4 characters for 3 bytes, percent-encoding at most 3 for 1: refuse before decoding.
    is_base64 = head.lower().rstrip().endswith(";base64")
    limits.require_bytes(len(body) // 4 * 3 - 2 if is_base64 else len(body) // 3, "the data: URL")
    data = unquoted(body)
    if is_base64:
        packed = data.translate(None, b" \t\r\n\f\v").rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            data = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
        except binascii.Error as error:
            raise PictureError(
                f"the data: URL is not valid base64 ({error}); copy it whole", fault="unreadable"
            ) from error
    limits.require_bytes(len(data), "the data: URL")
    return data
