"""Files on this machine, or behind a URL that fsspec opens (s3://, gs://, memory:// ...)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from ..errors import MissingExtraError
from ..images.naming import one_line
from .errors import RunError

# Two letters at least before the colon, so that C:\photos stays a path.
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_WEB = ("http", "https")
# Error codes of a disk or network share that is no longer there.
UNPLUGGED = {
    number
    for name in ("ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENOLINK", "ESHUTDOWN")
    if (number := getattr(errno, name, None)) is not None
}


def scheme(address: str) -> str:
    """ "s3" of s3://bucket/key; empty for a path."""
    found = _SCHEME.match(address)
    return found[1].lower() if found else ""


def is_web(address: str) -> bool:
    """An http(s) or data: URL, which `open_picture` opens itself."""
    return scheme(address) in _WEB or address[:5].lower() == "data:"


def is_remote(address: str) -> bool:
    """Whether an address is neither a path nor a web address, so that fsspec opens it."""
    return scheme(address) not in ("", *_WEB)


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of a remote address, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]
    except ImportError as error:
        if scheme(address) in ("s3", "s3a"):
            raise MissingExtraError(f"{scheme(address)}://", "s3") from error
        raise RunError(f"{one_line(address)}: {one_line(str(error))}") from error
    except ValueError as error:
        raise RunError(f"{one_line(address)}: {one_line(str(error))}") from error


@contextmanager
def reading(address: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading. Every failure is an OSError."""
    if not is_remote(address):
        with open(address, "rb") as file:
            yield file
        return
    fs, path = file_system(address)
    with translated(address), fs.open(path, "rb") as file:
        yield file


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turns the exceptions of remote file systems' libraries into OSErrors."""
    try:
        yield
    except (OSError, RunError):
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "s3fs", "aiohttp", "gcsfs"):
            raise OSError(f"{one_line(address)}: {one_line(str(error))}") from error
        raise


def join(folder: str, name: str) -> str:
    """`name` in `folder`, unless it is absolute or a URL."""
    if scheme(name) or name[:5].lower() == "data:":
        return name
    if is_remote(folder):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, os.path.expanduser(name))


def parent(address: str) -> str:
    """The folder that a file is in."""
    if is_remote(address):
        return address.rpartition("/")[0]
    return os.path.dirname(address) or "."


def reason(error: BaseException) -> str:
    """The text of an OSError: "No space left on device"."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def container_error(path: str, error: OSError) -> str:
    """The message for a shard or table that cannot be read while others still can. Raises `RunError` if its
    disk is gone, because then all further ones would be missing too."""
    shown = one_line(path)
    if error.errno in UNPLUGGED or (not is_remote(path) and not os.path.isdir(parent(path))):
        raise RunError(
            f"{shown} cannot be read ({reason(error)}): was the disk unplugged? What was done is saved: "
            "run the same command again when it is back"
        ) from error
    if isinstance(error, FileNotFoundError):
        return f"{shown} was not found; check the path"
    return f"{shown} cannot be read ({reason(error)})"


def exists(address: str) -> bool:
    """Whether a file or folder exists."""
    if not is_remote(address):
        return os.path.exists(address)
    fs, path = file_system(address)
    with translated(address):
        return bool(fs.exists(path))
