"""Pictures in WebDataset shards and other tar files."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from ...images import HEAD_BYTES, PictureLimits, looks_like_picture
from ...images.naming import NamedBytes, one_line
from ..items import Item, MemberKeys, content_key, is_excluded, is_hidden, showable
from ..storage import container_error, reading, reason

if TYPE_CHECKING:
    from typing_extensions import Self

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
# WebDataset keeps pictures without their type as "img" or "image" too.
_UNTYPED = (".img", ".image")
_MOST = PictureLimits().max_bytes
# Concatenated tars have zeros between them: at most the size of a tape block.
_MOST_PADDING = 64 << 20
_LINKS_IN_A_ROW = 32


@dataclass(frozen=True)
class _Member:
    """A picture in the tar: its header and key, or an `error`."""

    key: str
    archive: Any = None
    header: tarfile.TarInfo | None = None
    error: str | None = None


@dataclass(frozen=True)
class Shard:
    """The pictures of a tar file, read in one pass. Links come last, in a second pass over their targets."""

    path: str
    exclude: tuple[str, ...] = ()

    def items(self) -> Iterator[Item]:
        """A damaged shard yields its pictures up to the damage, then an item with the error."""
        for one in self._members():
            if one.header is None:
                yield Item(one.key, one.key, error=one.error)
                continue
            try:
                # Of a picture over the limit, read just enough for `open_picture` to notice.
                wanted = min(one.header.size, _MOST + 1)
                data = _beginning(one.archive, one.header, wanted)
                if len(data) < wanted:
                    raise OSError("it is cut short")
            except Exception as error:  # of tarfile, or of gzip, xz and bzip2
                # After the damage, the positions of members are unknown.
                told = f"{one_line(one.key)} is damaged ({reason(error)}); copy the shard again"
                yield Item(one.key, one.key, error=told)
                return
            yield Item(content_key(one.key, data), one.key, NamedBytes(data, one.header.name))

    def count(self) -> int:
        return sum(1 for _ in self._members())

    def _members(self) -> Iterator[_Member]:
        archive: Any  # typeshed does not have `members`
        names = MemberKeys(self.path)
        links = _Links()
        whole = showable(self.path)
        try:
            with reading(self.path) as raw, _opened(raw) as archive:
                try:
                    for member in _headers(archive):
                        if member.issym() or member.islnk():
                            links.add(member)
                        elif member.isfile():
                            links.place(member)
                            if self._is_picture(archive, member, member.name):
                                yield _Member(names.key(member.name), archive, member)
                    for name, at in links.resolved():
                        header = None if at is None else _header_at(archive, at)
                        if not self._is_picture(archive, header, name):
                            continue
                        key = names.key(name)
                        error = None
                        if header is None:
                            error = f"{one_line(key)} is a link to a file that is not in the shard"
                        yield _Member(key, archive, header, error)
                except Exception as error:
                    yield _Member(whole, error=self._damage(error))
        except tarfile.TarError as error:
            yield _Member(whole, error=self._damage(error))
        except OSError as error:
            yield _Member(whole, error=container_error(self.path, error))

    def _is_picture(self, archive: Any, member: tarfile.TarInfo | None, name: str) -> bool:
        """`member`: the file with the content; None for a link without a target."""
        if is_hidden(name) or is_excluded(name, self.exclude):
            return False
        # WebDataset treats everything after the first dot as the type: "0001.left.jpg".
        if os.path.splitext(name)[1].lower() in _UNTYPED:
            return True
        return looks_like_picture(name, lambda: _beginning(archive, member, HEAD_BYTES) if member else b"")

    def _damage(self, error: Exception) -> str:
        return f"{one_line(self.path)} is damaged or not a tar file ({reason(error)}); copy it again"


@dataclass
class _Links:
    """The links of a tar, and the positions of the files in it to which they may lead. Nothing outside is
    read."""

    files: dict[str, int] = field(default_factory=dict)
    soft: dict[str, str] = field(default_factory=dict)
    hard: dict[str, int | None] = field(default_factory=dict)

    def place(self, member: tarfile.TarInfo) -> None:
        """A file; the last one of a name counts, as when the tar is unpacked."""
        name = posixpath.normpath(member.name)
        self.files[name] = member.offset
        self.soft.pop(name, None)
        self.hard.pop(name, None)

    def add(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if member.issym():
            self.soft[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            return
        target = posixpath.normpath(member.linkname)
        if target in self.soft:
            self.soft[name] = self.soft[target]
        else:
            self.hard[name] = self.files.get(target, self.hard.get(target))

    def resolved(self) -> list[tuple[str, int | None]]:
        """The names of all links with the positions of their targets: first links without a target (None), then
        in the order of the tar, so that a compressed tar is read only once."""
        found = list(self.hard.items())
        found += [(name, self._target(name)) for name in self.soft]
        return sorted(found, key=lambda one: (-1 if one[1] is None else one[1], one[0]))

    def _target(self, name: str) -> int | None:
        for _ in range(_LINKS_IN_A_ROW):
            if name in self.files:
                return self.files[name]
            if name in self.hard:
                return self.hard[name]
            # A link, or a path through a linked folder.
            parts = name.split("/")
            for end in range(1, len(parts) + 1):
                head = "/".join(parts[:end])
                if head in self.soft:
                    name = posixpath.normpath(posixpath.join(self.soft[head], *parts[end:]))
                    break
            else:
                return None
        return None


class _Header(tarfile.TarInfo):
    """A member's header. Anything else than a header or the zeros at the end is damage; `tarfile` would treat
    it as the end and silently skip the pictures after it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise


def _headers(archive: Any) -> Iterator[tarfile.TarInfo]:
    """All headers, including those of concatenated tars."""
    while True:
        member = archive.next()
        # Otherwise `archive.members` would grow with every member.
        archive.members.clear()
        if member is not None:
            yield member
        elif not _goes_on(archive):
            return


def _goes_on(archive: Any) -> bool:
    """Whether another tar follows the zeros at the end; reading then continues there."""
    archive.fileobj.seek(archive.offset)
    at = archive.offset
    while at - archive.offset < _MOST_PADDING and (block := archive.fileobj.read(1 << 20)):
        if (zeros := len(block) - len(block.lstrip(b"\0"))) < len(block):
            archive.offset = at + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            return True
        at += len(block)
    return False


def _header_at(archive: Any, offset: int) -> tarfile.TarInfo:
    archive.offset = offset
    # `next` seeks by itself, except to the first position.
    archive.fileobj.seek(offset)
    member = archive.next()
    archive.members.clear()
    if member is None:
        raise tarfile.ReadError("a link leads to nothing")
    found: tarfile.TarInfo = member
    return found


def _beginning(archive: Any, member: tarfile.TarInfo, size: int) -> bytes:
    file = archive.extractfile(member)
    return bytes(file.read(size)) if file else b""


def _opened(raw: IO[bytes]) -> tarfile.TarFile:
    """Raises `TarError` for damage and `OSError` for system errors."""
    try:
        return tarfile.open(fileobj=raw, mode="r:*", tarinfo=_Header)
    except (tarfile.TarError, OSError):
        raise
    except Exception as error:  # EOFError, or an exception of the decompressor
        raise tarfile.ReadError(one_line(str(error))) from error
