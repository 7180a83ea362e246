"""Which pictures an agent may see: files below the folders that whoever started the server named, and data URLs."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..errors import PictureError
from ..images import Picture, PictureLimits, open_picture
from ..images.naming import NamedBytes, file_name, one_line

# Names of other pictures in a message about one that is not there.
_NAMES = 20
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")


class Pictures:
    """Opens what an agent names. `roots`: folders; none of them means data URLs only."""

    def __init__(self, roots: Sequence[Path], limits: PictureLimits | None = None) -> None:
        """Raises `PictureError` for a root that is no folder."""
        self._limits = limits or PictureLimits()
        self.roots = []
        for root in roots:
            if not root.is_dir():
                raise PictureError(f"there is no folder {one_line(str(root))}; give one that has pictures")
            self.roots.append(root.resolve())

    def open(self, source: str) -> Picture:
        """A path, relative to a root or absolute, or a data URL. Raises `PictureError`, in a line that says what to
        give instead."""
        if source[:5].lower() == "data:":
            return open_picture(source, limits=self._limits)
        if "://" in source:
            raise PictureError(f"addresses are not fetched; {self._instead}", fault="refused")
        if not self.roots:
            raise PictureError(
                f"files are not opened, because no --root was given; {self._instead}", fault="refused"
            )
        path = self._found(source)
        return open_picture(NamedBytes(self._content(path), path.name), limits=self._limits)

    def allows(self, path: Path) -> bool:
        """Whether `open` would look for this file."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self.roots)

    @property
    def _instead(self) -> str:
        folders = " or ".join(str(root) for root in self.roots)
        return f"give a path below {folders}, or a data: URL" if folders else "give a data: URL"

    def _found(self, source: str) -> Path:
        """The file itself: links are followed first, and must not lead out of the roots."""
        if "\0" in source:
            raise PictureError("a path cannot contain a null character", fault="refused")
        is_below = False
        for root in self.roots:
            path = Path(os.path.normpath(root / source))
            # What is said of a path does not depend on what there is outside of the roots.
            if not path.is_relative_to(root):
                continue
            is_below = True
            try:
                real = path.resolve(strict=True)
            except (OSError, RuntimeError):
                continue
            if any(real.is_relative_to(one) for one in self.roots):
                return real
        shown = one_line(source)
        if not is_below:
            raise PictureError(f"{shown} is outside of the allowed folders; {self._instead}", fault="refused")
        raise PictureError(
            f"there is no {shown}{self._others(source)}", name=file_name(source), fault="missing"
        )

    def _others(self, source: str) -> str:
        """The pictures in the folder where one was looked for, or in the root."""
        for root in self.roots:
            for folder in (Path(os.path.normpath(root / source)).parent, root):
                real = Path(os.path.realpath(folder))
                if any(real.is_relative_to(one) for one in self.roots) and real.is_dir():
                    names = _names(real)
                    if names:
                        return f"; in {one_line(str(folder))} there are: {', '.join(names)}"
        return f"; {self._instead}"

    def _content(self, path: Path) -> bytes:
        name = one_line(path.name)
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0)
        )
        try:
            # The last part was no link a moment ago, and may not have become one.
            with os.fdopen(os.open(path, flags), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise PictureError(
                        f"{name} is not a file{self._others(str(path / name))}", name=name, fault="missing"
                    )
                return file.read(self._limits.max_bytes + 1)
        except OSError as error:
            raise PictureError(
                f"{name} cannot be read ({error.strerror})", name=name, fault="unreadable"
            ) from None


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(one_line(one.name) for one in entries if one.name.lower().endswith(_SUFFIXES))
    except OSError:
        return []
    return [*found[:_NAMES], "..."] if len(found) > _NAMES else found
