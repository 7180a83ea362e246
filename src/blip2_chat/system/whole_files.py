"""Files that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(
    path: Path, *, survives_power_loss: bool, last_check: Callable[[], None] | None = None
) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when the block ends, and is gone if the block raises.

    `survives_power_loss` waits for the disk, for what takes long to make or cannot be made again. Without it the
    system may write the new name before the content: right for what is made again from what is durable.
    `last_check` is called when the new file is whole, right before it takes the place of the old one; what it
    raises leaves the old one there.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
            if survives_power_loss:
                file.flush()
                os.fsync(file.fileno())
        if last_check is not None:
            last_check()
        draft.replace(path)
        if survives_power_loss:
            _sync_folder(path.absolute().parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable, where the system has that notion."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
