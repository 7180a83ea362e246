"""One row of a run's output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# Types of the fields that are not None, checked in what is read back.
_TEXTS = ("path", "error", "digest", "model", "precision", "duplicate_of")
_NUMBERS = ("score", "seconds", "width", "height")


@dataclass(frozen=True)
class Written:
    """What the model wrote about one picture."""

    captions: tuple[str, ...]
    answers: dict[str, str]
    score: float


@dataclass(frozen=True)
class Result:
    """The captions and answers for one picture, or the reason why there are none.

    path: location of the picture: a path, a URL, `shard.tar/member` or `table.parquet#row`.
    captions: best first; empty if only questions were asked. answers: by question.
    score: mean log-probability per token of the first caption, or averaged over the answers; at best 0.
    error: the reason why there is neither caption nor answer.
    digest: SHA-256 of the decoded pixels; pictures with the same digest are captioned once.
    seconds: this picture's share of the time of its batch.
    duplicate_of: the path of the first picture with the same pixels.
    advice: properties of the picture that may make the text worse (dark, blurred, tiny ...).
    """

    path: str
    captions: tuple[str, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    score: float | None = None
    error: str | None = None
    width: int | None = None
    height: int | None = None
    digest: str | None = None
    seconds: float = 0.0
    model: str = ""
    precision: str = ""
    duplicate_of: str | None = None
    advice: tuple[str, ...] = ()

    @property
    def caption(self) -> str | None:
        return self.captions[0] if self.captions else None

    @property
    def text(self) -> str:
        """The caption, the answers or the error, for a progress line."""
        return self.caption or ", ".join(self.answers.values()) or self.error or ""

    def saying(self, words: Written | Result, **more: Any) -> Result:
        """With the words of what the model wrote, or of another result; `more` are further fields."""
        return replace(self, captions=words.captions, answers=words.answers, score=words.score, **more)

    def as_row(self) -> dict[str, Any]:
        """As JSONL and Parquet have it."""
        fields = asdict(self)
        return {
            "path": fields.pop("path"),
            "caption": self.caption,
            "captions": list(fields.pop("captions")),
            "answers": dict(fields.pop("answers")),
            **fields,
            "advice": list(self.advice),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Result:
        """The inverse of `as_row`."""
        known: dict[str, Any] = {
            name: row[name] for name in cls.__dataclass_fields__ if row.get(name) is not None
        }
        known["captions"] = tuple(known.get("captions", ()))
        known["advice"] = tuple(known.get("advice", ()))  # earlier versions did not record it
        # Parquet has every question in every row.
        known["answers"] = {name: text for name, text in known.get("answers", {}).items() if text is not None}
        return cls(**known)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_row(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The inverse of `to_json`. Raises `ValueError` for anything else."""
        row = json.loads(text)
        captions, answers = (
            (row.get("captions"), row.get("answers")) if isinstance(row, dict) else (None, None)
        )
        is_sound = (
            isinstance(captions, list)
            and isinstance(answers, dict)
            and all(isinstance(one, str) for one in (*captions, *answers.values()))
            and isinstance(row.get("path"), str)
            and all(isinstance(row.get(name), (str, type(None))) for name in _TEXTS)
            and all(isinstance(row.get(name), (int, float, type(None))) for name in _NUMBERS)
        )
        if not is_sound:
            raise ValueError("a result in it is not one that a run writes")
        return cls.from_row(row)
