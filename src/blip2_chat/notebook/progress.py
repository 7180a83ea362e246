"""A bar under the cell while a model downloads, converts or loads."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from IPython.display import DisplayHandle, display

from ..sizes import amounts

# Seconds before the bar appears, and between updates.
_PATIENCE = 0.5
_BETWEEN = 0.1


class LoadingBar:
    """`blip2_chat.load(name, on_progress=LoadingBar())`: one line with the current step and a progress bar.

    It disappears at the end, so that it is not saved with the notebook.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._drawn = 0.0
        self._handle: DisplayHandle | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        over = done >= total
        if self._handle is None and (over or now - self._started < _PATIENCE):
            return
        if not over and now - self._drawn < _BETWEEN:
            return
        self._drawn = now
        self._show({"text/html": "", "text/plain": ""} if over else _bundle(what, done, total))

    def _show(self, bundle: dict[str, Any]) -> None:
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]


def _bundle(what: str, done: int, total: int) -> dict[str, Any]:
    line = f"{what}: {amounts(done, total)}"
    bar = f'<progress max="{max(total, 1)}" value="{done}" aria-label="{escape(what)}"></progress>'
    return {"text/html": f"{bar} {escape(line)}", "text/plain": line}
