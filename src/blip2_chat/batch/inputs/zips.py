"""Zip files of pictures, read in place: nothing is unpacked to disk."""

from __future__ import annotations

import posixpath
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ...images import HEAD_BYTES, PictureLimits, looks_like_picture
from ...images.naming import NamedBytes, one_line
from ..items import Item, MemberKeys, content_key, is_excluded, is_hidden, showable
from ..storage import container_error, reading, reason

ZIP_SUFFIXES = (".zip",)
# Exceptions of zipfile for members: damage, unsupported methods, passwords.
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)
_MOST = PictureLimits().max_bytes
_ENCRYPTED = 0x1
_LINKS_IN_A_ROW = 8


@dataclass(frozen=True)
class Zip:
    """The pictures of a zip file, in the order of its directory. No more than the size limit of a picture is
    unpacked, whatever size the file declares."""

    path: str
    exclude: tuple[str, ...] = ()

    def items(self) -> Iterator[Item]:
        """A damaged or encrypted member is an item with an error; the others are still read."""
        for archive, member, key in self._members():
            if archive is None or member is None:
                yield Item(key, showable(self.path), error=key)
                continue
            try:
                target = _target(archive, member)
                if target is None:
                    error = f"{one_line(key)} is a link to a file that is not in the zip file"
                    yield Item(key, key, error=error)
                    continue
                data = _read(archive, target, _MOST + 1)
            except (*_BROKEN, OSError) as broken:
                yield Item(
                    key, key, error=f"{one_line(key)} is damaged ({reason(broken)}); copy the zip file again"
                )
                continue
            yield Item(content_key(key, data), key, NamedBytes(data, member.filename))

    def count(self) -> int:
        return sum(1 for _ in self._members())

    def _members(self) -> Iterator[tuple[zipfile.ZipFile | None, zipfile.ZipInfo | None, str]]:
        shown = one_line(self.path)
        keys = MemberKeys(self.path)
        encrypted = 0
        try:
            with reading(self.path) as raw, zipfile.ZipFile(raw) as archive:
                for member in archive.infolist():
                    name = member.filename
                    if member.is_dir() or is_hidden(name) or is_excluded(name, self.exclude):
                        continue
                    if not looks_like_picture(name, partial(_head, archive, member)):
                        continue
                    if member.flag_bits & _ENCRYPTED:
                        encrypted += 1
                        continue
                    yield archive, member, keys.key(name)
            if encrypted:
                yield (
                    None,
                    None,
                    f"{shown} has {encrypted:,} encrypted pictures; unpack it and give the folder",
                )
        except _BROKEN as error:
            yield None, None, f"{shown} is damaged or not a zip file ({reason(error)}); copy it again"
        except OSError as error:
            yield None, None, container_error(self.path, error)


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member or link target; empty for an encrypted one, whose content is unknown."""
    try:
        target = _target(archive, member)
        return b"" if target is None else _read(archive, target, HEAD_BYTES)
    except (*_BROKEN, OSError):
        return b""


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    with archive.open(member) as file:
        return file.read(most)


def _target(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> zipfile.ZipInfo | None:
    """The member itself or the target of a symbolic link in the same file, or None."""
    for _ in range(_LINKS_IN_A_ROW):
        if not stat.S_ISLNK(member.external_attr >> 16):
            return member
        link = _read(archive, member, 4096).decode("utf-8", "surrogateescape")
        name = posixpath.normpath(posixpath.join(posixpath.dirname(member.filename), link))
        try:
            member = archive.getinfo(name)
        except KeyError:
            break
    return None
