"""The epochs of a training, early stopping, and going on after a kill.

After each epoch the held-out examples are scored; the adapter that scored best is kept, and training ends when it no
longer improves. What a killed run needs to go on is written now and then, as safetensors in one file. All that is
random follows from the recipe's seed and the step, so a run that was killed ends with the same numbers as one that
was not.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import Blip2ChatError, Parameter
from ..system.progress import Progress, silent
from ..system.whole_files import replacing
from .examples import Example, Split
from .learner import Learner
from .recipe import Epoch, Recipe, Score, best
from .record import STATE

# Seconds of work that a kill may cost.
_SAVED_EVERY = 60.0


@dataclass
class _Place:
    """Where a training is: whole epochs, and of the one that runs the steps done and the sum of their losses."""

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    loss: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> _Place:
        return cls([Epoch.from_json(one) for one in raw["epochs"]], raw["steps"], raw["loss"])


class Training:
    """One training. `run` it; `epochs` has what happened, also before an earlier run was killed."""

    def __init__(self, learner: Learner, recipe: Recipe, out: Path, digest: str) -> None:
        """out: the folder of the adapter and of what a later run goes on from. digest: of everything that decides
        what comes of it; a state of another training is refused."""
        self._learner, self._recipe, self._out, self._digest = learner, recipe, out, digest
        self._place = _Place()
        self._optimiser = torch.optim.AdamW(learner.weights.values(), lr=recipe.rate, weight_decay=0.0)
        self._saved = time.monotonic()

    @property
    def epochs(self) -> list[Epoch]:
        return self._place.epochs

    def run(
        self,
        new: Split,
        old: Split,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        on_progress: Progress = silent,
    ) -> Epoch:
        """Trains until the held-out loss no longer falls, and returns the best epoch, whose adapter is in `out`.

        new, old: examples to learn, and examples of what the model should not forget. `on_epoch` is told of each
        epoch, and first of the model as it was.
        """
        self._resume()
        self._learner.encode([*new.training, *new.held_out, *old.training, *old.held_out], on_progress)
        if not self.epochs:
            self._close_epoch(None, new, old, on_epoch)
        while not self._is_over:
            self._pass(new.training, old.training, on_progress)
            self._close_epoch(self._place.loss / max(1, self._place.steps), new, old, on_epoch)
        return best(self.epochs)

    @property
    def _is_over(self) -> bool:
        done = len(self.epochs) - 1
        return done >= self._recipe.epochs or (
            done > 0 and done - best(self.epochs).number >= self._recipe.patience
        )

    def _pass(self, new: Sequence[Example], old: Sequence[Example], on_progress: Progress) -> None:
        recipe, place = self._recipe, self._place
        number = len(self.epochs)
        order = self._order(number, new, old)
        steps = -(-len(order) // recipe.batch)
        self._learner.train()
        while place.steps < steps:
            done = (number - 1) * steps + place.steps
            for settings in self._optimiser.param_groups:
                settings["lr"] = recipe.rate * (1 - done / (recipe.epochs * steps))
            torch.manual_seed(recipe.seed + 1 + done)  # of the dropout
            start = place.steps * recipe.batch
            loss = self._loss(order[start : start + recipe.batch])
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._learner.weights.values(), 1.0)
            self._optimiser.step()
            place.loss += loss.item()
            if not np.isfinite(place.loss):
                raise Blip2ChatError("the loss is no longer a number: give a lower ", Parameter("rate"))
            place.steps += 1
            on_progress(f"epoch {number} of {recipe.epochs}", place.steps, steps)
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self._save()

    def _order(
        self, number: int, new: Sequence[Example], old: Sequence[Example]
    ) -> list[tuple[Example, bool]]:
        """The examples of an epoch, and whether each is new. Of the old ones others by turns."""
        recipe = self._recipe
        turns = list(old)
        random.Random(recipe.seed).shuffle(turns)
        count = min(len(turns), round(recipe.replayed * len(new)))
        start = (number - 1) * count
        replayed = [turns[(start + place) % len(turns)] for place in range(count)]
        order = [*((one, True) for one in new), *((one, False) for one in replayed)]
        random.Random(f"{recipe.seed} {number}").shuffle(order)
        return order

    def _loss(self, group: Sequence[tuple[Example, bool]]) -> Tensor:
        """The mean over a step's examples: of new ones the loss, of old ones the drift."""
        new, old = ([one for one, is_new in group if is_new is kind] for kind in (True, False))
        parts = [self._learner.losses(new)[0]] if new else []
        if old:
            parts.append(self._learner.drifts(old))
        return torch.cat(parts).mean()

    def _close_epoch(
        self, loss: float | None, new: Split, old: Split, on_epoch: Callable[[Epoch], None]
    ) -> None:
        scores = [self._score(one.held_out) if one.held_out else None for one in (new, old)]
        assert scores[0] is not None
        epoch = Epoch(len(self.epochs), loss, scores[0], scores[1])
        self.epochs.append(epoch)
        self._place.steps, self._place.loss = 0, 0.0
        if epoch.number and best(self.epochs) is epoch:
            self._save_adapter()
        self._save()
        on_epoch(epoch)

    @torch.no_grad()
    def _score(self, examples: Sequence[Example]) -> Score:
        self._learner.adapted.eval()
        losses, right = 0.0, 0
        for start in range(0, len(examples), self._recipe.batch):
            found, hits = self._learner.losses(examples[start : start + self._recipe.batch])
            losses += found.sum().item()
            right += int(hits.sum())
        return Score(losses / len(examples), right / len(examples))

    def _save_adapter(self) -> None:
        """As PEFT saves it; each file takes the place of the old one as a whole."""
        draft = self._out / ".adapter.part"
        # Embeddings are not trained, and PEFT would ask the hub whether they have changed.
        self._learner.adapted.save_pretrained(str(draft), save_embedding_layers=False)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (draft / name).replace(self._out / name)
        shutil.rmtree(draft)

    def _save(self) -> None:
        tensors = {f"weight {name}": one.detach().cpu().contiguous() for name, one in self._weights()}
        for name, one in self._weights():
            for kind, value in self._optimiser.state[one].items():
                tensors[f"{kind} {name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        about = {"training": json.dumps({"digest": self._digest, "place": self._place.as_json()})}
        with replacing(self._out / STATE, survives_power_loss=True) as file:
            file.write(save(tensors, about))
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Goes on where an earlier run of the same training was killed, if there is one in `out`."""
        path = self._out / STATE
        if not path.is_file():
            return
        try:
            with safe_open(path, "pt") as file:
                raw = json.loads(file.metadata()["training"])
                if raw["digest"] != self._digest:
                    raise Blip2ChatError(
                        f"{self._out} holds a training of other examples, another model or other settings; name "
                        "another folder, or delete this one"
                    )
                kept = set(file.keys())
                for name, one in self._weights():
                    one.data.copy_(file.get_tensor(f"weight {name}"))
                    if f"step {name}" in kept:
                        self._optimiser.state[one] = {
                            "step": file.get_tensor(f"step {name}"),
                            **{
                                kind: file.get_tensor(f"{kind} {name}").to(one.device)
                                for kind in ("exp_avg", "exp_avg_sq")
                            },
                        }
            self._place = _Place.from_json(raw["place"])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise Blip2ChatError(f"{path} is damaged ({error}); delete it to begin anew") from None

    def _weights(self) -> Sequence[tuple[str, torch.nn.Parameter]]:
        return sorted(self._learner.weights.items())
