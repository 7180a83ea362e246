"""The small files of a model folder (JSON, tokenizer): regular files of a bounded size, read whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

# The largest real ones are an index and a manifest of about 200 kB.
MOST_JSON_BYTES = 16_000_000
# The official tokenizers take 2.4 and 3.6 MB.
MOST_TOKENIZER_BYTES = 64_000_000

# Small files that shape a model, its prompts and its pictures, under the names the hub uses.
SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
# The tokenizer of a Q-Former that reads text: where official checkpoints have it, and what a folder of ours, in
# which all files lie side by side, calls it.
QFORMER_TOKENIZER = "qformer_tokenizer/tokenizer.json"
OWN_QFORMER_TOKENIZER = "qformer_tokenizer.json"
# With those of tokenizers' older formats: whatever tokenizer and preprocessor may need.
COMPANIONS = (*SETTINGS, "vocab.json", "merges.txt", "spiece.model", OWN_QFORMER_TOKENIZER)


# What makes a folder one of our own conversions: what is in it.
MANIFEST = "blip2-chat.json"


class MissingFileError(CheckpointError):
    """There is no such file."""


def shown(value: object, most: int = 60) -> str:
    """A value from a file as a message shows it: quoted as Python would, control characters escaped, and short."""
    return short(ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value), most)


def plain(name: str) -> str:
    """A name from a file within a sentence: as it is, or as `shown` where that would not be one line."""
    return short(name, 100) if name.isprintable() else shown(name, 100)


def short(text: str, most: int) -> str:
    """`text`, or its beginning where it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_small(path: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    A device or a pipe would give bytes without end, or none for ever: it is not even waited for. Raises
    `MissingFileError` when nothing is there, and another `CheckpointError`, naming the file, for all else.
    """
    try:
        # Without this flag, opening a pipe waits for somebody to write to it; Windows has neither.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(
                    f"{path} is not a regular file; put the checkpoint's own in its place", path=path
                )
            # One more than is allowed, since a file may grow and those of some file systems have no size.
            content = file.read(most + 1)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} is missing; copy it from where the checkpoint came from", path=path
        ) from None
    except (OSError, ValueError) as error:
        # Windows and Python refuse to open folders and sockets, each with another error.
        if path.exists() and not path.is_file():
            raise CheckpointError(
                f"{path} is not a regular file; put the checkpoint's own in its place", path=path
            ) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{path} cannot be read: {reason}", path=path) from None
    if len(content) > most:
        raise CheckpointError(
            f"{path} is larger than {most / 1e6:.0f} MB; no such file of a BLIP-2 checkpoint is; fetch it again",
            path=path,
        )
    return content


def read_json(path: Path) -> Any:
    """The parsed file; raises as `read_small` does, and `CheckpointError` when it is not JSON."""
    content = read_small(path)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({short(str(error), 100)}); fetch it again", path=path
        ) from None
