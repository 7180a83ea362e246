"""WebDataset shards: tar files whose members are pictures and what belongs to them."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ..images.naming import one_line
from .errors import RunError
from .items import PICTURE_SUFFIXES, Item, content_key, showable
from .storage import NamedBytes, reading, reason

if TYPE_CHECKING:
    from typing_extensions import Self

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# WebDataset keeps pictures without their type as "img" or "image" too.
_MEMBERS = PICTURE_SUFFIXES | {".img", ".image"}


@dataclass(frozen=True)
class Shard:
    """The pictures of a tar file, read in one pass from its beginning to its end."""

    path: str

    def items(self) -> Iterator[Item]:
        """A damaged shard gives its pictures up to the damage, then an item that says so."""
        for archive, member, key in self._members():
            if archive is None or member is None:
                yield Item(key, showable(self.path), error=key)
                continue
            try:
                file = archive.extractfile(member)
                data = file.read() if file else b""
                if len(data) < member.size:
                    raise OSError("it is cut short")
            except Exception as error:  # tarfile's, or those of gzip, xz and bzip2 below it
                # Past the damage nothing can be trusted to begin where a member begins.
                yield Item(
                    key, key, error=f"{one_line(key)} is damaged ({reason(error)}); copy the shard again"
                )
                return
            yield Item(content_key(key, data), key, NamedBytes(data, member.name))

    def count(self) -> int:
        return sum(1 for _ in self._members())

    def _members(self) -> Iterator[tuple[tarfile.TarFile | None, tarfile.TarInfo | None, str]]:
        archive: Any  # typeshed does not have `members`
        seen: Counter[str] = Counter()
        try:
            with reading(self.path) as raw, _opened(raw) as archive:
                while True:
                    try:
                        member = archive.next()
                    except Exception as error:
                        yield None, None, self._damage(error)
                        return
                    if member is None:
                        return
                    # `archive.members` would grow with every member; nothing looks back.
                    archive.members.clear()
                    if not member.isfile() or not _is_picture(member.name):
                        continue
                    seen[member.name] += 1
                    again = f" ({seen[member.name]})" if seen[member.name] > 1 else ""
                    yield archive, member, showable(f"{self.path}/{member.name}{again}")
        except tarfile.TarError as error:
            yield None, None, self._damage(error)
        except OSError as error:
            raise RunError(f"{one_line(self.path)} cannot be read ({reason(error)})") from error

    def _damage(self, error: Exception) -> str:
        return f"{one_line(self.path)} is damaged or no tar file ({reason(error)}); copy it again"


class _Header(tarfile.TarInfo):
    """A member's header. What is neither one nor the zeros of the archive's end is damage: `tarfile` alone would
    take it for the end, and the pictures behind it would be missed in silence."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise


def _opened(raw: IO[bytes]) -> tarfile.TarFile:
    """Raises `TarError` for damage, `OSError` for what the system says."""
    try:
        return tarfile.open(fileobj=raw, mode="r:*", tarinfo=_Header)
    except (tarfile.TarError, OSError):
        raise
    except Exception as error:  # EOFError, or what the decompressor raises
        raise tarfile.ReadError(one_line(str(error))) from error


def _is_picture(name: str) -> bool:
    base = os.path.basename(name)
    # WebDataset takes everything after the first dot for the type: "0001.left.jpg".
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in _MEMBERS
