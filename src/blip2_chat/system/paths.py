"""Where this package keeps files of its own."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from ..errors import Blip2ChatError

CACHE_VARIABLE = "BLIP2_CHAT_CACHE"


class NoHomeFolderError(Blip2ChatError):
    """There is no home folder, and so no place for a cache."""


def cache_folder() -> Path:
    """BLIP2_CHAT_CACHE, or this system's usual place; it need not exist.

    Linux: $XDG_CACHE_HOME or ~/.cache; macOS: ~/Library/Caches; Windows: %LOCALAPPDATA%. Raises
    `NoHomeFolderError` when neither the variable nor a home folder says where.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return platformdirs.user_cache_path("blip2-chat", appauthor=False)
    except RuntimeError:
        raise NoHomeFolderError(
            f"there is no home folder to cache in; set {CACHE_VARIABLE} to a folder"
        ) from None
