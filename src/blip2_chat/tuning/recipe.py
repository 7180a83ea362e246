"""How an adapter is trained, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained.

    rank, alpha, dropout: of LoRA (Hu et al. 2021).
    rate: AdamW's learning rate, which falls linearly to zero over `epochs` passes, in steps of `batch` examples.
    patience: epochs without a lower held-out loss before training ends.
    held_out: the share of the pictures that is not trained on.
    replayed: old examples per new one in an epoch.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    rate: float = 1e-3
    epochs: int = 20
    batch: int = 16
    patience: int = 4
    held_out: float = 0.1
    replayed: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """Of examples that are not trained on. loss: the mean over examples of the mean over an answer's tokens, its
    end token included. accuracy: the share of answers of which every token is the likeliest, which is what greedy
    decoding writes exactly."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """A pass over the examples; number 0 is the model before training. loss: of the training examples, while
    they were learnt (before training: None). new: of held-out examples. old: of held-out ones among those that are
    replayed."""

    number: int
    loss: float | None
    new: Score
    old: Score | None = None

    @property
    def criterion(self) -> float:
        """What decides which epoch is the best: lower is better."""
        return self.new.loss + (0 if self.old is None else self.old.loss)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Epoch:
        old = raw["old"]
        return cls(raw["number"], raw["loss"], Score(**raw["new"]), None if old is None else Score(**old))

    def __str__(self) -> str:
        start = "before training" if self.loss is None else f"epoch {self.number}: loss {self.loss:.3f}"
        old = "" if self.old is None else f"; of old examples {self.old.accuracy:.1%}"
        return f"{start}, held out {self.new.loss:.3f}, {self.new.accuracy:.1%} of its answers right{old}"


def best(history: list[Epoch]) -> Epoch:
    """The epoch whose adapter is kept."""
    return min(history[1:], key=lambda epoch: epoch.criterion)
