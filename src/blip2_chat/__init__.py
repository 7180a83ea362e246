"""Chat with pictures through BLIP-2, on the computer you already own.

    import blip2_chat

    model = blip2_chat.load()                                # the embedded model, or a checkpoint's name
    chat = model.chat("photo.jpg")
    print(chat.caption())
    print(chat.ask("what is on the left?"))

Nothing heavy is imported before it is used, so that `blip2-chat --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ._version import __version__

# ONNX Runtime 1.29 and later writes a device id and a database below the home folder, and sends events to its makers,
# from the moment it is imported; its own function for switching that off comes too late. Every way in imports this
# module before it, and child processes inherit the environment. A user who set the variable has chosen already.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# `as` tells type checkers that the name is public.
if TYPE_CHECKING:
    from .batch.api import caption_all as caption_all
    from .batch.result import Result as Result
    from .chat import Chat as Chat
    from .conversation_file import Turn as Turn
    from .errors import Blip2ChatError as Blip2ChatError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConversationError as ConversationError
    from .errors import GenerationError as GenerationError
    from .errors import MetadataError as MetadataError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import NotEnoughMemoryError as NotEnoughMemoryError
    from .errors import PageError as PageError
    from .errors import PictureError as PictureError
    from .errors import RunError as RunError
    from .generation.answer import Answer as Answer
    from .generation.settings import Decoding as Decoding
    from .generation.settings import instruct_settings as instruct_settings
    from .images import PictureLimits as PictureLimits
    from .loading import load as load
    from .metadata.files import write_caption as write_caption
    from .model import Model as Model
    from .prompts import PromptTemplate as PromptTemplate
    from .retriever import Match as Match
    from .retriever import Retriever as Retriever
    from .retriever_loading import load_retriever as load_retriever
    from .search.index import Hit as Hit
    from .search.index import Index as Index
    from .tagging import Tagger as Tagger

# Where each public name lives: imported when it is first used.
_HOMES = {
    "load": "loading",
    "load_retriever": "retriever_loading",
    "Model": "model",
    "Chat": "chat",
    "Match": "retriever",
    "Retriever": "retriever",
    "Index": "search.index",
    "Hit": "search.index",
    "Tagger": "tagging",
    "Turn": "conversation_file",
    "Answer": "generation.answer",
    "Result": "batch.result",
    "caption_all": "batch.api",
    "write_caption": "metadata.files",
    "Decoding": "generation.settings",
    "instruct_settings": "generation.settings",
    "PictureLimits": "images",
    "PromptTemplate": "prompts",
    "Blip2ChatError": "errors",
    "CheckpointError": "errors",
    "ConversationError": "errors",
    "GenerationError": "errors",
    "MetadataError": "errors",
    "MissingExtraError": "errors",
    "NotEnoughMemoryError": "errors",
    "PageError": "errors",
    "PictureError": "errors",
    "RunError": "errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
