"""For notebooks: a live chat about a picture.

    from blip2_chat.notebook import ChatWidget

    ChatWidget(model)               # or the name of a model, which it then loads

`ChatWidget` needs the [widget] extra (which [notebook] includes); nothing else here does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from .progress import LoadingBar
    from .widget import ChatWidget

__all__ = ["ChatWidget", "LoadingBar"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name == "ChatWidget":
            from .widget import ChatWidget

            return ChatWidget
        from .progress import LoadingBar

        return LoadingBar
    except ImportError as error:
        raise MissingExtraError(f"{name} ({error.name} is not installed)", "notebook") from None


def __dir__() -> list[str]:
    return __all__
