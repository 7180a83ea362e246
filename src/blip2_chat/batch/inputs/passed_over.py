"""Files that a run skips because they are not pictures, counted by kind for the summary."""

from __future__ import annotations

import mimetypes
import os
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

from ...images.kinds import CAMERA_RAW

PassedOver: TypeAlias = "Counter[str]"
"""How many of each kind: the kinds are `kind_of`'s, and what else the caller names, in the singular."""

_OTHER = "other file"
# Extensions that are missing in the standard library's table, or listed as "applications" there.
_ENDINGS = {
    "text file": "json jsonl ndjson caption lst list md yaml yml xml srt xmp aae",
    "video": "mkv mts m2ts flv wmv m4v 3gp",
    "audio file": "flac ogg opus m4a wma",
    "data file": "csv tsv parquet arrow xls xlsx ods db sqlite npy npz",
    "archive": "tar zip gz tgz bz2 tbz2 xz txz 7z rar zst",
    "drawing": "svg svgz psd xcf ai eps ico tga exr",
    "document": "pdf doc docx odt ppt pptx odp",
}
_KINDS = {f".{ending}": kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
_KINDS |= dict.fromkeys(CAMERA_RAW, "camera raw file")
_BY_TYPE = {"text": "text file", "video": "video", "audio": "audio file"}
# The built-in table, because the system's own files differ between machines.
_TYPES = mimetypes.MimeTypes().types_map[True]


def kind_of(name: str) -> str:
    """The kind of a file by its extension, in the singular: "video", "text file" ... or "other file"."""
    ending = os.path.splitext(name)[1].lower()
    return _KINDS.get(ending) or _BY_TYPE.get(_TYPES.get(ending, "").split("/")[0], _OTHER)


def told(passed: Mapping[str, int]) -> str:
    """ "3 videos, 1 text file": the most frequent first."""
    ordered = sorted(passed.items(), key=lambda one: (one[0] == _OTHER, -one[1], one[0]))
    return ", ".join(f"{count:,} {kind if count == 1 else f'{kind}s'}" for kind, count in ordered if count)
