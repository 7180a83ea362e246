"""A text file beside each picture, as trainers of picture generators read it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import RunError
from .journal import Journal
from .result import Result
from .storage import reason

ENDINGS = ("txt", "caption")


@dataclass(frozen=True)
class Sidecar:
    """What the files are called and what is in them: one line per caption (or all answers on one line),
    `prefix` before and `suffix` after it, `trigger` and a comma in front of all."""

    ending: str = "txt"
    prefix: str = ""
    suffix: str = ""
    trigger: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.ending not in ENDINGS:
            raise RunError(f"--sidecar {self.ending!r} is none of {', '.join(ENDINGS)}")

    def text(self, result: Result) -> str:
        """The whole content of a picture's file."""
        lines = result.captions or (", ".join(result.answers.values()),)
        return "".join(f"{self._line(line)}\n" for line in lines)

    def _line(self, text: str) -> str:
        # A file of several lines means several captions, so a caption is one line.
        whole = " ".join(f"{self.prefix}{text}{self.suffix}".split())
        return f"{self.trigger}, {whole}" if self.trigger else whole

    def path(self, picture: str) -> Path:
        return Path(os.path.splitext(picture)[0] + "." + self.ending)


@dataclass
class SidecarWriter:
    """Writes files, and never over one that somebody else wrote, unless told to.

    The journal keeps a hash of what was written: a file that still has it is ours to replace.
    """

    sidecar: Sidecar
    journal: Journal
    told: Counter[str] = field(default_factory=Counter)  # "written", "kept", "nowhere"

    def write(self, results: Iterable[tuple[str, str | None, Result]]) -> None:
        """(key, the picture's path on this machine, result) -> files. `RunError` when one cannot be written."""
        marks = []
        for key, picture, result in results:
            if result.error is not None:
                continue
            if picture is None:
                self.told["nowhere"] += 1
                continue
            path = self.sidecar.path(picture)
            content = self.sidecar.text(result).encode()
            mark = hashlib.sha256(os.fsencode(path) + b"\0" + content).hexdigest()
            try:
                if not self._is_ours(path, content, key):
                    self.told["kept"] += 1
                    continue
                self._put(path, content)
            except OSError as error:
                raise RunError(
                    f"{path} cannot be written ({reason(error)}); the results are kept: "
                    "give the same command again when it can be"
                ) from error
            marks.append((key, mark))
        if marks:
            self.journal.set_sidecars(marks)

    def _is_ours(self, path: Path, content: bytes, key: str) -> bool:
        if self.sidecar.overwrite:
            return True
        try:
            present = path.read_bytes()
        except FileNotFoundError:
            return True
        if present == content:
            return True
        return hashlib.sha256(os.fsencode(path) + b"\0" + present).hexdigest() == self.journal.sidecar(key)

    def _put(self, path: Path, content: bytes) -> None:
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        draft = path.with_name(f".{path.name}.part")
        try:
            draft.write_bytes(content)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self.told["written"] += 1
