"""Sidecar files: a text file next to each picture, as trainers of image generators read it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import Parameter
from ...images.sidecar_names import SidecarNames
from ...system.text_files import encoding
from ...system.whole_files import replacing
from ..errors import RunError
from ..inputs.folders import SIDECAR_ENDINGS
from ..items import Item
from ..journal import Journal
from ..result import Result
from ..storage import reason


@dataclass(frozen=True)
class Sidecar:
    """Names and contents of sidecar files: one line per caption (or all answers on one line), between `prefix`
    and `suffix`, after `trigger` and a comma.

    A text file from another program is kept; with `overwrite` it is replaced, and with `join` "append" or
    "prepend" the new text is added after or before its content.
    """

    ending: str = "txt"
    prefix: str = ""
    suffix: str = ""
    trigger: str = ""
    overwrite: bool = False
    join: Literal["append", "prepend"] | None = None

    def __post_init__(self) -> None:
        if self.ending not in SIDECAR_ENDINGS:
            raise RunError(Parameter("sidecar", self.ending), f" is none of {', '.join(SIDECAR_ENDINGS)}")
        if self.overwrite and self.join:
            raise RunError(
                Parameter("overwrite", True),
                " replaces what ",
                Parameter("join", self.join),
                " keeps: give one of them",
            )

    def text(self, result: Result) -> str:
        """The content of a picture's sidecar file."""
        lines = result.captions or (", ".join(result.answers.values()),)
        return "".join(f"{self._line(line)}\n" for line in lines)

    def _line(self, text: str) -> str:
        # Several lines mean several captions, so each caption has to be one line.
        whole = " ".join(f"{self.prefix}{text}{self.suffix}".split())
        return f"{self.trigger}, {whole}" if self.trigger else whole

    def joined(self, present: bytes, content: bytes) -> bytes:
        """The UTF-8 content of a text file with the new text added: after a comma if both are one line,
        otherwise as new lines. A file that already contains it there is unchanged."""
        kind = encoding(present[:4])
        old = present.decode(kind, "surrogateescape").strip()
        new = content.decode().strip()
        if not old:
            return content
        is_there = old.endswith(new) if self.join == "append" else old.startswith(new)
        if is_there:
            return present
        between = "\n" if "\n" in old or "\n" in new else ", "
        both = (old.rstrip(","), new) if self.join == "append" else (new, old)
        return f"{between.join(both)}\n".encode("utf-8", "surrogateescape")


@dataclass
class SidecarWriter:
    """Writes sidecar files, and replaces files of other programs only if configured to.

    The journal stores a hash of what was written; a file that still has this hash is ours and may be replaced.
    """

    sidecar: Sidecar
    journal: Journal
    told: Counter[str] = field(default_factory=Counter)  # "written", "kept", "nowhere"
    names: SidecarNames = field(init=False)

    def __post_init__(self) -> None:
        self.names = SidecarNames(self.sidecar.ending)

    def is_left_alone(self, item: Item) -> bool:
        """Whether a picture without a result keeps a text file of another program, so that it needs no
        caption."""
        return not self.journal.has(item.key) and is_left_alone(self.sidecar, self.names, item)

    def begin_again(self) -> None:
        """From here on, every picture is visited once: counts what is there and not what was seen before."""
        del self.told["kept"], self.told["nowhere"]

    def write(self, results: Iterable[tuple[str, str | None, Result]]) -> None:
        """Writes the files for (key, local path of the picture, result). `RunError` if one cannot be
        written."""
        marks = []
        for key, picture, result in results:
            if result.error is not None:
                continue
            if picture is None:
                self.told["nowhere"] += 1
                continue
            path = self.names.path(picture)
            try:
                content = self._content(path, self.sidecar.text(result).encode(), key)
                if content is None:
                    self.told["kept"] += 1
                    continue
                self._put(path, content)
            except OSError as error:
                raise RunError(
                    f"{path} cannot be written ({reason(error)}); the results are kept: "
                    "run the same command again when it can be"
                ) from error
            marks.append((key, _mark(path, content)))
        if marks:
            self.journal.set_sidecars(marks)

    def _content(self, path: Path, content: bytes, key: str) -> bytes | None:
        """The new content of the file; None to leave it unchanged."""
        try:
            present = path.read_bytes()
        except FileNotFoundError:
            return content
        if self.sidecar.overwrite or present == content:
            return content
        is_ours = _mark(path, present) == self.journal.sidecar(key)
        if self.sidecar.join:
            # Our file may also contain another program's text, to which we added.
            return present if is_ours else self.sidecar.joined(present, content)
        return content if is_ours else None

    def _put(self, path: Path, content: bytes) -> None:
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        # The journal is on the disk, and they are written again from it; waiting for the disk would cost much time.
        with replacing(path, survives_power_loss=False) as file:
            file.write(content)
        self.told["written"] += 1


def is_left_alone(sidecar: Sidecar, names: SidecarNames, item: Item) -> bool:
    """Whether the sidecar file of a picture without a caption exists and is kept."""
    if item.file is None or sidecar.overwrite or sidecar.join:
        return False
    return names.path(item.file).exists()


def _mark(path: Path, content: bytes) -> str:
    return hashlib.sha256(os.fsencode(path) + b"\0" + content).hexdigest()
