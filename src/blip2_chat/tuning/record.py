"""The files beside an adapter that say how it was made: its history, a plot of the losses, and a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._version import __version__
from ..checkpoint.hub import is_hub_name
from ..errors import Blip2ChatError
from ..system.whole_files import replacing
from .plot import loss_plot
from .recipe import Epoch, Recipe, best

HISTORY, PLOT, CARD = "training.json", "loss.svg", "README.md"
STATE = "training.safetensors"
"""What a killed run goes on from; it is gone when the training is over."""


class Record:
    """What a training leaves in its folder."""

    def __init__(self, out: Path, base: str, recipe: Recipe, digest: str) -> None:
        """base: the model's name, as it was given. digest: of what decides the outcome."""
        self._out, self._base, self._recipe, self.digest = out, base, recipe, digest

    def finished(self) -> list[Epoch] | None:
        """The epochs of the same training, if it is over. `Blip2ChatError` where another one is."""
        path = self._out / HISTORY
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            epochs = [Epoch.from_json(one) for one in raw["epochs"]]
            is_same = raw["digest"] == self.digest
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Blip2ChatError(f"{path} cannot be read ({error}); name a new folder") from None
        if not is_same:
            raise Blip2ChatError(
                f"{self._out} holds an adapter of other examples, another model or other settings; name another "
                "folder"
            )
        return epochs

    def write(self, epochs: list[Epoch], counts: Sequence[int]) -> None:
        """counts: of new examples for training and held out, and the same of old ones."""
        kept = best(epochs)
        history = {
            "digest": self.digest,
            "model": self._base,
            "best": kept.number,
            "recipe": asdict(self._recipe),
            "examples": dict(
                zip(("training", "held_out", "old_training", "old_held_out"), counts, strict=True)
            ),
            "epochs": [asdict(epoch) for epoch in epochs],
        }
        self._put(PLOT, loss_plot(epochs, kept))
        self._put(CARD, self._card(epochs, kept, counts))
        self._put(HISTORY, json.dumps(history, indent=2) + "\n")  # last: it says that all is there

    def _put(self, name: str, text: str) -> None:
        with replacing(self._out / name, survives_power_loss=True) as file:
            file.write(text.encode())

    def _card(self, epochs: Sequence[Epoch], kept: Epoch, counts: Sequence[int]) -> str:
        """A model card as the hub reads it, in Markdown with a head in YAML."""
        tags = ["blip-2", "lora"]
        head: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "image-text-to-text"}
        if is_hub_name(self._base):
            head["base_model"] = self._base
            tags.append(f"base_model:adapter:{self._base}")
        head["tags"] = tags
        training, held_out, old, old_held_out = counts
        replayed = f" {old} old examples were mixed in ({old_held_out} held out)." if old else ""
        first = epochs[0]
        rows = [("new examples", held_out, first.new, kept.new)]
        if first.old is not None and kept.old is not None:
            rows.append(("old examples", old_held_out, first.old, kept.old))
        recipe = self._recipe
        # JSON is YAML, and quotes what needs it.
        lines = [
            "---",
            *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
            "---",
            "",
            f"# An adapter of {self._base}",
            "",
            f"LoRA adapter of {self._base}, trained on {training} examples; {held_out} were held out.{replayed}",
            "",
            "| held out | examples | right before | right after | loss before | loss after |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {name} | {count} | {before.accuracy:.1%} | {after.accuracy:.1%} | {before.loss:.3f} "
                f"| {after.loss:.3f} |"
                for name, count, before, after in rows
            ),
            "",
            "An answer is right when it is the expected one in every token. The epoch was chosen by these examples, "
            "so measure on others before you rely on it.",
            "",
            f"![Loss by epoch]({PLOT})",
            "",
            "## Use",
            "",
            "```sh",
            f"blip2-chat chat photo.jpg --model {self._base} --adapter {self._out.name}",
            "```",
            "",
            "PEFT loads it, too: `PeftModel.from_pretrained(model, folder)`.",
            "",
            "## Training",
            "",
            f"Rank {recipe.rank}, alpha {recipe.alpha} and dropout {recipe.dropout:g} on the linear layers of the "
            f"Q-Former, the projection and the language model; AdamW at {recipe.rate:g}, falling linearly over at "
            f"most {recipe.epochs} epochs of batches of {recipe.batch}; the adapter of epoch {kept.number} of "
            f"{epochs[-1].number} is kept. Made by blip2-chat {__version__}; `{HISTORY}` has all figures.",
            "",
            "Write here what the examples were, what the adapter is for, and what it is not for.",
            "",
        ]  # fmt: skip
        return "\n".join(lines)
