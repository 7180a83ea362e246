"""A saved conversation: what `Chat.save`, and the page's download, write, and `Model.load_chat` reads.

    {
      "format": "blip2-chat conversation 1",
      "model": "Salesforce/blip2-opt-2.7b",
      "picture": {"name": "dog.jpg", "source": "photos/dog.jpg", "digest": "..."},
      "turns": [
        {
          "question": "what is this?",      null: a caption
          "answer": {"text": "a dog", ...}, the fields of `Answer`; only the text is required
          "start": "",                      the first words of a caption
          "dropped_turns": 0
        }
      ]
    }

`source` is a path, a URL, or a `data:` URL with the picture itself; `digest` is that of its pixels. The page writes
the same in web/page/export.js, which a test holds to this description.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import ConversationError
from .generation.answer import Answer
from .system.whole_files import replacing

FORMAT = "blip2-chat conversation 1"


@dataclass(frozen=True)
class Turn:
    """A question and its answer; or a caption, whose `question` is None and whose `start` the caption goes on
    from. `dropped_turns` of the oldest turns did not fit into the model's context with this question."""

    question: str | None
    answer: Answer
    start: str = ""
    dropped_turns: int = 0

    @property
    def text(self) -> str:
        return self.answer.text


@dataclass(frozen=True)
class SavedPicture:
    """The picture of a conversation, by its place and by what it is."""

    name: str
    source: str
    digest: str


@dataclass(frozen=True)
class SavedConversation:
    """All of a saved conversation."""

    model: str
    picture: SavedPicture
    turns: tuple[Turn, ...]

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "format": FORMAT,
            "model": self.model,
            "picture": asdict(self.picture),
            "turns": [_saved_turn(turn) for turn in self.turns],
        }

    @classmethod
    def of(cls, raw: Any, where: str) -> SavedConversation:
        """From parsed JSON; `ConversationError`, which calls it `where`, when it is not as described."""
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ConversationError(f"{where} is not a conversation saved by blip2-chat")
        try:
            about = raw["picture"]
            texts = (raw["model"], about["name"], about["source"], about["digest"])
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("the model and the picture's name, source and digest are texts")
            picture = SavedPicture(about["name"], about["source"], about["digest"])
            return cls(raw["model"], picture, tuple(_turn(turn) for turn in raw["turns"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConversationError(f"{where} is damaged: {error!r}") from None

    @classmethod
    def read(cls, path: Path) -> SavedConversation:
        """From a file; raises `ConversationError`."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConversationError(f"{path} cannot be read as a conversation: {error}", path=path) from None
        return cls.of(raw, str(path))

    def write(self, path: Path) -> None:
        """To a file, whole or not at all: a full disk does not cost the conversation that is there already."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        try:
            # What a person said cannot be made again.
            with replacing(path, survives_power_loss=True) as file:
                # Half a pair of surrogates (a question from a terminal of another encoding, a file's name) is
                # written as JSON's own escape for it.
                file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise ConversationError(
                f"{path} cannot be written: {error.strerror or error}", path=path
            ) from None


def _saved_turn(turn: Turn) -> dict[str, Any]:
    answer = {**asdict(turn.answer), "others": [asdict(other) for other in turn.answer.others]}
    return {**asdict(turn), "answer": answer}


def _turn(raw: Any) -> Turn:
    unknown = sorted(raw.keys() - {field.name for field in fields(Turn)})
    if unknown:
        raise TypeError(f"a turn has {unknown[0]!r}")
    answer = dict(raw["answer"])
    others = tuple(_answer({**other, "others": ()}) for other in answer.pop("others", ()))
    question, start, dropped = raw["question"], raw.get("start", ""), raw.get("dropped_turns", 0)
    if not isinstance(question, str | None) or not isinstance(start, str) or type(dropped) is not int:
        raise TypeError(f"a turn is {question!r}, {start!r}, {dropped!r}")
    return Turn(question, _answer({**answer, "others": others}), start, dropped)


def _answer(raw: dict[str, Any]) -> Answer:
    if not isinstance(raw["text"], str):
        raise TypeError(f"an answer is {raw['text']!r}")
    if raw.get("finish_reason", "stop") not in ("stop", "length", "interrupted"):
        raise TypeError(f"an answer ends by {raw['finish_reason']!r}")
    lists = {name: tuple(raw.get(name, ())) for name in ("tokens", "logprobs")}
    return Answer(**{**raw, **lists})
