"""The names of files that belong to a picture and are next to it."""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

from .kinds import is_picture_file

# Folders whose names are remembered.
_FOLDERS = 16


class SidecarNames:
    """The sidecar file of each picture: `name.txt` next to `name.png`. If another picture in the folder has the
    same name except for the extension, the whole name is kept: `name.png.txt` and `name.jpg.txt`. This depends
    only on the content of the folder, not on which pictures a run reads."""

    def __init__(self, ending: str) -> None:
        self._ending = ending
        # Pictures come folder by folder.
        self._in = lru_cache(_FOLDERS)(_pictures_in)

    def __reduce__(self) -> tuple[type[SidecarNames], tuple[str]]:
        # In another process it looks into the folders itself.
        return SidecarNames, (self._ending,)

    def path(self, picture: str) -> Path:
        folder, name = os.path.split(picture)
        stem = os.path.splitext(name)[0]
        stems, names = self._in(folder)
        # Some file systems ignore case.
        is_shared = stems[stem.casefold()] > 1 or (stem != name and stem.casefold() in names)
        return Path(folder, f"{name if is_shared else stem}.{self._ending}")


def _pictures_in(folder: str) -> tuple[Counter[str], frozenset[str]]:
    """The pictures of a folder: the number of pictures for each name without extension, and the whole names."""
    try:
        names = [name for name in os.listdir(folder or ".") if is_picture_file(os.path.join(folder, name))]
    except OSError:
        names = []  # writing will report the error
    stems = Counter(os.path.splitext(name)[0].casefold() for name in names)
    return stems, frozenset(name.casefold() for name in names)
