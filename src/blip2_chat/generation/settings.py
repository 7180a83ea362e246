"""How the next token is chosen: the settings, and what they do to one row of logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from typing_extensions import TypedDict, Unpack

from ..errors import GenerationError


class Settings(TypedDict, total=False):
    """`Decoding`'s fields as keyword arguments, each optional; `stop` may be one string."""

    max_new_tokens: int
    min_new_tokens: int
    num_beams: int
    length_penalty: float
    early_stopping: bool
    num_answers: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    stop: str | Iterable[str]


# What other libraries call a setting, where no similar spelling would lead to ours.
_ELSEWHERE = {
    "num_return_sequences": "num_answers",
    "n": "num_answers",
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_length": "min_new_tokens",
    "do_sample": "temperature",
    "beam_size": "num_beams",
    "stop_strings": "stop",
}
_WHOLE = ("max_new_tokens", "min_new_tokens", "num_beams", "num_answers", "no_repeat_ngram_size")
_WHOLE_OR_NONE = ("top_k", "seed")
_NUMBERS = ("length_penalty", "temperature", "repetition_penalty")
_NUMBERS_OR_NONE = ("top_p",)


@dataclass(frozen=True)
class Decoding:
    """Decoding settings, named and defined as in transformers' `generate`, greedy by default.

    `temperature` 0 takes the likeliest token; above 0 tokens are drawn (then `top_k`, `top_p` and `seed`
    count). `num_beams` above 1 searches, and ranks by sum of log-probabilities / length ** `length_penalty`.
    `num_answers` returns the n best beams, or n draws. `stop` strings end an answer and are not part of it.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_answers: int = 1
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._require_types()
        for wrong, rule in self._faults():
            if wrong:
                raise GenerationError(rule)

    def _require_types(self) -> None:
        """Numbers of NumPy count as Python's; True and False are no numbers here."""
        for names, kind, said, optional in (
            (_WHOLE, Integral, "a whole number", False),
            (_WHOLE_OR_NONE, Integral, "a whole number or None", True),
            (_NUMBERS, Real, "a number", False),
            (_NUMBERS_OR_NONE, Real, "a number or None", True),
        ):
            for name in names:
                value = getattr(self, name)
                right = isinstance(value, kind) and not isinstance(value, bool)
                if not right and not (optional and value is None):
                    raise GenerationError(f"{name} is {value!r}; give {said}")
        wrong = [one for one in self.stop if not isinstance(one, str) or not one]
        if wrong:
            raise GenerationError(f"stop holds {wrong[0]!r}; give strings of at least one character")

    def _faults(self) -> list[tuple[bool, str]]:
        sampling = self.temperature > 0
        return [
            (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}; give at least 1"),
            (self.min_new_tokens < 0, f"min_new_tokens is {self.min_new_tokens}; give 0 or more"),
            (
                self.min_new_tokens > self.max_new_tokens,
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}",
            ),
            (self.num_beams < 1, f"num_beams is {self.num_beams}; give at least 1"),
            (self.num_answers < 1, f"num_answers is {self.num_answers}; give at least 1"),
            (not 0 <= self.temperature < float("inf"), f"temperature is {self.temperature}; give 0 or more"),
            (self.top_k is not None and self.top_k < 1, f"top_k is {self.top_k}; give at least 1"),
            (
                self.top_p is not None and not 0 < self.top_p <= 1,
                f"top_p is {self.top_p}; give more than 0 and at most 1",
            ),
            (
                not sampling and (self.top_k is not None or self.top_p is not None),
                "top_k and top_p choose among drawn tokens: set a temperature above 0, such as 0.7",
            ),
            (self.seed is not None and self.seed < 0, f"seed is {self.seed}; give 0 or more"),
            (sampling and self.num_beams > 1, "beams and a temperature exclude each other: set one of them"),
            (
                self.num_beams > 1 and self.num_answers > self.num_beams,
                f"num_answers {self.num_answers} is more than num_beams {self.num_beams}",
            ),
            (
                # Beyond, powers of an answer's length overflow float32.
                not -10 <= self.length_penalty <= 10,
                f"length_penalty is {self.length_penalty}; give -10 to 10 (0 ranks by the sum alone)",
            ),
            (
                # transformers' third choice, "never", would pass for True.
                not isinstance(self.early_stopping, bool),
                f"early_stopping is {self.early_stopping!r}; give True or False",
            ),
            (
                self.num_answers > 1 and self.num_beams == 1 and not sampling,
                "several answers need beams (num_beams) or draws (temperature above 0): one greedy answer exists",
            ),
            (
                # Beyond, quotients overflow float32.
                not 0.01 <= self.repetition_penalty <= 100,
                f"repetition_penalty is {self.repetition_penalty}; give 0.01 to 100 (1 changes nothing)",
            ),
            (
                self.no_repeat_ngram_size < 0,
                f"no_repeat_ngram_size is {self.no_repeat_ngram_size}; give 0 or more",
            ),
        ]

    @classmethod
    def of(cls, **settings: Unpack[Settings]) -> Decoding:
        """From keyword arguments; an unknown name is a `GenerationError` that suggests a known one, and lists
        all."""
        known = list(cls.__dataclass_fields__)
        unknown = sorted(set(settings) - set(known))
        if unknown:
            close = _ELSEWHERE.get(unknown[0]) or next(iter(get_close_matches(unknown[0], known, 1)), None)
            meant = f" (did you mean {close}?)" if close else ""
            raise GenerationError(f"unknown setting {unknown[0]!r}{meant}; known: {', '.join(known)}")
        stop = settings.get("stop") or ()
        if isinstance(stop, str):
            stop = (stop,)
        if not isinstance(stop, Iterable):
            raise GenerationError(f"stop is {stop!r}; give a string, or several in a list")
        given: dict[str, Any] = {**settings, "stop": tuple(stop)}
        return cls(**given)
