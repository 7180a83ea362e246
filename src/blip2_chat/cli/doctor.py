"""`blip2-chat doctor`"""

from __future__ import annotations

from typing import Any

from .display.terminal import say, say_json
from .options import Json


def doctor(as_json: Json = False) -> None:
    """Print what a bug report needs: versions, machine, engines.

    The output contains no secrets, and the home folder is shown as ~.
    """
    from .machine import facts

    found = facts()
    if as_json:
        say_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        say(f"{name:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
