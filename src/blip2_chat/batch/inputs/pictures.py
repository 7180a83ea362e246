"""Opening one picture of a collection: its pixels and properties, or the reason why it cannot be opened."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from ...errors import PictureError
from ...images import PictureLimits, PreparedPicture, Preprocess, open_picture, prepare
from ...images.naming import NamedBytes
from ...system.recent import Recent
from ..errors import RunError
from ..items import Item
from ..storage import UNPLUGGED, is_remote, parent, reading, reason, scheme


@dataclass(frozen=True)
class Opened:
    """An item's picture as the model reads it, or the `error` why there is none."""

    item: Item
    picture: PreparedPicture | None = None
    error: str | None = None

    def about(self) -> dict[str, Any]:
        """What a `Result` says of the picture itself."""
        about: dict[str, Any] = {"path": self.item.path, "error": self.error}
        if self.picture is not None:
            width, height = self.picture.size
            advice = tuple(one.message for one in self.picture.advice)
            about |= {"width": width, "height": height, "digest": self.picture.digest, "advice": advice}
        return about


class Opener:
    """Opens pictures in any thread. A picture that cannot be opened is a result with an error. A folder that
    vanishes ends the run; otherwise an unplugged disk would turn every further picture into an error."""

    def __init__(self, preprocess: Preprocess, limits: PictureLimits) -> None:
        self._preprocess = preprocess
        self._limits = limits
        self._folders = _Folders()

    def __call__(self, item: Item) -> Opened:
        if item.error is not None:
            return Opened(item, error=item.error)
        source = item.picture
        try:
            # `open_picture` handles file:// URLs itself.
            if isinstance(source, str) and is_remote(source) and scheme(source) != "file":
                source = self._fetched(source)
            picture = open_picture(source, limits=self._limits)
        except PictureError as error:
            self._folders.require(item.file, error)
            return Opened(item, error=str(error))
        self._folders.remember(item.file)
        return Opened(item, prepare(picture, self._preprocess))

    def _fetched(self, address: str) -> NamedBytes:
        try:
            with reading(address) as file:
                return NamedBytes(file.read(self._limits.max_bytes + 1), address)
        except RunError as error:
            if isinstance(error.__cause__, ImportError):
                raise  # a missing library is missing for all pictures
            raise PictureError(str(error), name=address, fault="unreadable") from error
        except FileNotFoundError as error:
            raise PictureError(
                f"{address} was not found; check the address", name=address, fault="missing"
            ) from error
        except OSError as error:
            raise PictureError(
                f"{address} cannot be read ({reason(error)})", name=address, fault="unreadable"
            ) from error


class _Folders:
    """The folders of recent pictures, and the device of each."""

    def __init__(self, most: int = 64) -> None:
        self._seen: Recent[str, tuple[int, int]] = Recent(most)
        self._lock = threading.Lock()

    def remember(self, file: str | None) -> None:
        if file is None:
            return
        folder = parent(file)
        with self._lock:
            if self._seen.get(folder) is not None:
                return
        try:
            status = os.stat(folder)
        except OSError:
            return  # it existed a moment ago; the next picture will show it
        with self._lock:
            self._seen.put(folder, (status.st_dev, status.st_ino))

    def require(self, file: str | None, error: PictureError) -> None:
        """Raises `RunError` if a picture could not be read because its disk is gone: its folder has vanished,
        and so has a folder of earlier pictures. (Only one of these means a wrong entry in a list, or a finished
        folder that was moved.)"""
        if file is None or not isinstance(error.__cause__, OSError):
            return
        mine = parent(file)
        with self._lock:
            seen = dict(self._seen.items())
        gone = None
        if error.__cause__.errno in UNPLUGGED:
            gone = mine
        elif _lost(mine, seen.get(mine)):
            gone = next((one for one, at in seen.items() if _lost(one, at)), None)
        if gone is not None:
            raise RunError(
                f"{gone} is no longer there: was the disk unplugged? What was done is saved: "
                "run the same command again when it is back"
            ) from error


def _lost(folder: str, where: tuple[int, int] | None) -> bool:
    """Whether a folder cannot be listed, or is on another device than before (a mount point without its
    disk)."""
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
        status = os.stat(folder)
    except OSError:
        return True
    return where is not None and (status.st_dev, status.st_ino) != where
