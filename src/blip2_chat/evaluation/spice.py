"""SPICE (Anderson et al. 2016), by its authors' program: it needs Java, pycocoevalcap and the parser's models."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import Blip2ChatError

_MODELS = "stanford-corenlp-3.6.0-models.jar"


def why_not() -> str | None:
    """What SPICE lacks on this machine, in one line; None when it can be computed. Nothing is downloaded."""
    if shutil.which("java") is None:
        return "SPICE is left out: it needs Java"
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        return "SPICE is left out: it needs pycocoevalcap (pip install pycocoevalcap)"
    folder = Path(next(iter(found.submodule_search_locations))) / "spice"
    if not (folder / "lib" / _MODELS).is_file():
        return (
            f"SPICE is left out: {folder / 'lib'} lacks the parser's models (400 MB); "
            'python -c "from pycocoevalcap.spice.spice import Spice; Spice()" downloads them'
        )
    return None


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SPICE of captions [N] against one or more references each, 0 to 1. `Blip2ChatError` when its program fails."""
    from pycocoevalcap.spice.spice import Spice

    places = range(len(captions))
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            score, _ = Spice().compute_score(
                {at: list(references[at]) for at in places}, {at: [captions[at]] for at in places}
            )
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise Blip2ChatError(f"SPICE's Java program failed: {error}") from None
    return float(score)
