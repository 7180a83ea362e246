"""Which parts of a picture an answer depends on.

    occlusion.py  what covering each region costs: asks the whole model, with any engine
    inside.py     attention and integrated gradients, where an engine can be looked into (torch)
    words.py      the words of an answer, each of which is a part with a map of its own
    found.py      what a method gives
    shown.py      maps over pictures

`benchmarks/pointing.py` measures the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Engine, Floats
from ..errors import GenerationError
from ..generation.rows import Choice
from ..system.progress import Progress, silent
from .found import Found, Steps
from .inside import attending, integrating
from .occlusion import ENCODINGS, occluding
from .shown import Attribution, WordAttribution, coloured, overlay, stretched
from .words import words_of

_METHODS: dict[str, Callable[[Engine, Tokenizer, Floats, str, Choice, Sequence[slice]], Steps]] = {
    "occlusion": occluding,
    "gradient": integrating,
    "attention": attending,
}
METHODS = tuple(_METHODS)

_WHOLE = slice(None)


def attribute(
    engine: Engine,
    tokenizer: Tokenizer,
    pixels: Floats,
    prompt: str,
    answer: Choice,
    parts: Sequence[slice] = (_WHOLE,),
    *,
    method: str = "occlusion",
    on_progress: Progress = silent,
) -> list[Found]:
    """How much each place of a picture [1, 3, S, S] supports `answer` after `prompt`, and parts of it: one map for
    each of `parts`, slices of its tokens. `GenerationError` for a method that is not there, or not for this engine.
    """
    work = _steps(method)(engine, tokenizer, pixels, prompt, answer, parts)
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            found: list[Found] = end.value
            return found
        on_progress("looking", done, total)


def looking(
    engine: Engine,
    tokenizer: Tokenizer,
    pixels: Floats,
    prompt: str,
    answer: Choice,
    method: str = "occlusion",
) -> Generator[tuple[int, int], None, Floats]:
    """The map of the whole answer [S, S], in steps, between which other work may be done: yields (done, in all)
    after each, and returns the map."""
    (whole,) = yield from _steps(method)(engine, tokenizer, pixels, prompt, answer, (_WHOLE,))
    return whole.heat


def _steps(method: str) -> Callable[..., Steps]:
    if method not in METHODS:
        raise GenerationError(f"method {method!r} is none of {', '.join(METHODS)}")
    return _METHODS[method]


__all__ = [
    "ENCODINGS",
    "METHODS",
    "Attribution",
    "Found",
    "WordAttribution",
    "attribute",
    "coloured",
    "looking",
    "overlay",
    "stretched",
    "words_of",
]
