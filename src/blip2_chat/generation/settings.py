"""Decoding settings: one table of names, types, defaults, bounds and help, from which all else comes.

`Decoding` holds the values and checks them; the command line's options, the fields of HTTP requests and the page's
sliders are made from `SETTINGS`, which is `Decoding`'s fields with what is known of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

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


@dataclass(frozen=True)
class Slider:
    """The range in which a setting is worth trying, and where to start: narrower than what is allowed."""

    title: str
    least: float
    most: float
    step: float
    start: float


@dataclass(frozen=True)
class Setting:
    """What is known of one field of `Decoding`. Bounds are None where there is none."""

    name: str
    type: type
    is_optional: bool
    default: Any
    help: str
    metavar: str
    least: float | None
    above: float | None
    most: float | None
    note: str
    slider: Slider | None

    def check(self, value: object) -> None:
        """Raises `GenerationError`. NumPy's numbers count as Python's; True and False are no numbers."""
        if self.is_optional and value is None:
            return
        is_bool = isinstance(value, bool)
        if self.type is bool:
            right, rule = is_bool, "give True or False"
        elif self.type is int:
            right, rule = isinstance(value, Integral) and not is_bool, "give a whole number"
        else:
            right, rule = isinstance(value, Real) and not is_bool, "give a number"
        if not right:
            rule += " or None" if self.is_optional else ""
        elif self.type is not bool and not self._is_within(value):
            right, rule = False, self.rule
        if not right:
            raise GenerationError(setting=self.name, value=value, rule=rule)

    def _is_within(self, value: Any) -> bool:
        return bool(
            abs(value) < float("inf")
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    @property
    def rule(self) -> str:
        """The bounds in words."""
        if self.least is not None and self.most is not None:
            words = f"give {self.least:g} to {self.most:g}"
        elif self.above is not None:
            words = f"give more than {self.above:g}" + (f" and at most {self.most:g}" if self.most else "")
        elif self.least:
            words = f"give at least {self.least:g}"
        else:
            words = "give 0 or more"
        return f"{words} ({self.note})" if self.note else words


def _setting(default: Any, help: str, metavar: str, **known: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, **known})


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


@dataclass(frozen=True)
class Decoding:
    """Decoding settings, named and defined as in transformers' `generate`, greedy by default.

    `temperature` 0 takes the likeliest token; above 0 tokens are sampled (then `top_k`, `top_p` and `seed` count).
    `num_beams` above 1 is beam search, which ranks by sum of log-probabilities / length ** `length_penalty`.
    `num_answers` returns the n best beams, or n samples. `stop` strings end an answer and are not part of it.
    Raises `GenerationError` with the `setting`, its `value` and the `rule` that it breaks.
    """

    max_new_tokens: int = _setting(
        50, "Maximum length in tokens.", "N", least=1, slider=Slider("Maximum length", 5, 100, 5, 50)
    )
    min_new_tokens: int = _setting(0, "Minimum length in tokens.", "N", least=0)
    num_beams: int = _setting(
        1, "Number of beams for beam search.", "N", least=1, slider=Slider("Beams", 2, 8, 1, 4)
    )
    # Beyond these, powers of an answer's length overflow float32.
    length_penalty: float = _setting(
        1.0,
        "Beam search: above 1 favours longer text, below 1 shorter.",
        "X",
        least=-10,
        most=10,
        note="0 ranks by the sum alone",
    )
    # transformers' third choice, "never", would pass for True.
    early_stopping: bool = _setting(
        False, "Beam search: end as soon as there are as many complete texts as beams.", ""
    )
    num_answers: int = _setting(
        1, "Number of answers to return, best first; needs beam search or sampling.", "N", least=1
    )
    temperature: float = _setting(
        0.0,
        "Sampling temperature; 0 always takes the likeliest token.",
        "X",
        least=0,
        slider=Slider("Temperature", 0.1, 1.5, 0.1, 0.7),
    )
    top_k: int | None = _setting(None, "Top-k sampling: sample from the K likeliest tokens.", "K", least=1)
    top_p: float | None = _setting(
        None,
        "Nucleus sampling: sample from the smallest set of tokens whose probabilities add up to P.",
        "P",
        above=0,
        most=1,
        slider=Slider("Top-p", 0.1, 1, 0.05, 0.9),
    )
    seed: int | None = _setting(
        None, "Random seed for sampling; the same seed gives the same text.", "N", least=0
    )
    # Beyond these, quotients overflow float32.
    repetition_penalty: float = _setting(
        1.0,
        "Above 1 makes repeated tokens less likely.",
        "X",
        least=0.01,
        most=100,
        note="1 changes nothing",
    )
    no_repeat_ngram_size: int = _setting(0, "Never repeat a sequence of N tokens; 0 allows it.", "N", least=0)
    stop: tuple[str, ...] = _setting((), "Stop before this text, which is left out.", "TEXT")

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            if name != "stop":
                setting.check(getattr(self, name))
        wrong = [one for one in self.stop if not isinstance(one, str) or not one]
        if wrong:
            raise GenerationError(f"stop holds {wrong[0]!r}; give strings of at least one character")
        for name, rule in self._conflicts():
            raise GenerationError(setting=name, value=getattr(self, name), rule=rule)

    def _conflicts(self) -> list[tuple[str, str]]:
        """Settings that another one forbids, with the reason."""
        sampling, beams = self.temperature > 0, self.num_beams > 1
        found = []
        if self.min_new_tokens > self.max_new_tokens:
            found.append(
                ("min_new_tokens", f"give at most {{max_new_tokens}}, which is {self.max_new_tokens}")
            )
        for name in ("top_k", "top_p"):
            if getattr(self, name) is not None and not sampling:
                found.append((name, "it applies to sampling only: set {temperature} above 0, such as 0.7"))
        if sampling and beams:
            found.append(
                ("temperature", f"beam search ({{num_beams}} is {self.num_beams}) does not sample: use one")
            )
        if beams and self.num_answers > self.num_beams:
            found.append(("num_answers", f"give at most {{num_beams}}, which is {self.num_beams}"))
        if self.num_answers > 1 and not beams and not sampling:
            rule = "greedy decoding has only one answer: set {num_beams} above 1 or {temperature} above 0"
            found.append(("num_answers", rule))
        return found

    @classmethod
    def of(cls, **settings: Unpack[Settings]) -> Decoding:
        """From keyword arguments; an unknown name is a `GenerationError` that suggests a known one, and lists all."""
        unknown = sorted(set(settings) - set(SETTINGS))
        if unknown:
            name = unknown[0]
            close = _ELSEWHERE.get(name) or next(iter(get_close_matches(name, SETTINGS, 1)), None)
            meant = f" (did you mean {close}?)" if close else ""
            raise GenerationError(
                f"unknown setting {name!r}{meant}; known: {', '.join(SETTINGS)}", setting=name
            )
        stop = settings.get("stop") or ()
        if isinstance(stop, str):
            stop = (stop,)
        if not isinstance(stop, Iterable):
            raise GenerationError(setting="stop", value=stop, rule="give a string, or several in a list")
        given: dict[str, Any] = {**settings, "stop": tuple(stop)}
        return cls(**given)


def instruct_settings() -> Settings:
    """The settings with which InstructBLIP's authors let it answer: those of LAVIS's `generate`
    (lavis/models/blip2_models/blip2_t5_instruct.py)."""
    return {
        "num_beams": 5,
        "max_new_tokens": 256,
        "min_new_tokens": 1,
        "repetition_penalty": 1.5,
        "length_penalty": 1.0,
    }


def _table() -> dict[str, Setting]:
    hints = get_type_hints(Decoding)
    bare: dict[str, Any] = {"least": None, "above": None, "most": None, "note": "", "slider": None}
    table = {}
    for field in dataclasses.fields(Decoding):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        table[field.name] = Setting(
            field.name, kinds[0], NoneType in kinds, field.default, **{**bare, **field.metadata}
        )
    return table


SETTINGS = _table()
