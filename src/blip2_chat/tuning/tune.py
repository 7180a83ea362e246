"""`tune`: from a model's name and files of examples to an adapter."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..checkpoint.inspect import Checkpoint, find, inspect
from ..checkpoint.tokenizer import Tokenizer
from ..errors import Blip2ChatError, CheckpointError, MissingExtraError, Parameter
from ..images import Preprocess
from ..prompts import TEMPLATES
from ..sizes import gigabytes
from ..system.memory import available_memory
from ..system.progress import Progress, silent
from .examples import Example, Split, check_lengths, read_examples, split
from .memory import training_memory
from .recipe import Epoch, Recipe, best
from .record import HISTORY, STATE, Record

_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Lesson:
    """The examples of a training: what is taught, and old ones that are replayed, so that the model does not forget
    them."""

    new: Split
    old: Split = field(default_factory=Split)

    @classmethod
    def read(cls, data: str | Path, replay: str | Path | None, recipe: Recipe) -> Lesson:
        """Raises `Blip2ChatError`, in one line with the first bad rows; pictures are checked, too."""
        files = [data] if replay is None else [data, replay]
        return cls(*(split(read_examples(one), recipe.held_out, recipe.seed) for one in files))

    @property
    def parts(self) -> list[Sequence[Example]]:
        """New examples for training and held out, and the same of old ones."""
        return [self.new.training, self.new.held_out, self.old.training, self.old.held_out]

    @property
    def everything(self) -> list[Example]:
        return [example for part in self.parts for example in part]


def require_packages() -> None:
    """`MissingExtraError` where training is not installed."""
    if any(find_spec(name) is None for name in _PACKAGES):
        raise MissingExtraError("training", "tune")


def tune(
    lesson: Lesson,
    out: str | Path,
    *,
    model: str | Path = "demo",
    recipe: Recipe | None = None,
    device: str = "auto",
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_progress: Progress = silent,
) -> list[Epoch]:
    """Trains a LoRA adapter of `model` and writes it to the folder `out`, from where `load(model, adapter=out)` takes
    it. Returns the epochs, the model before training first; `recipe.best` names the one whose adapter is kept.

    In fp32 on a CPU; on a GPU ("cuda", "mps") the picture encoder and the language model are in bf16, the Q-Former
    and the adapter in fp32. `tell` is told of the memory that it needs. When it is killed, the same call goes on;
    when it is over, the same call returns what came of it.

    Raises `CheckpointError` and `MissingExtraError`, and `Blip2ChatError` where memory does not suffice, before
    anything is loaded; for examples that do not fit the model; and for a folder that holds something else.
    """
    require_packages()
    recipe, out = recipe or Recipe(), Path(out)
    folder = find(model, on_progress=lambda done, total: on_progress("downloading", done, total))
    checkpoint = inspect(folder)
    if checkpoint.kind == "converted":
        raise CheckpointError(
            f"{model} is a conversion; name the checkpoint that it was made from", path=folder
        )
    tokenizer = Tokenizer.from_folder(folder, checkpoint.config)
    record = Record(out, str(model), recipe, _digest(checkpoint, lesson, recipe))
    if (epochs := record.finished()) is not None:
        _remove_state(out)  # a kill may have come between the two
        return epochs
    _make(out)
    pictures = len({example.picture for example in lesson.everything})
    device, precision = _placed(checkpoint, str(model), recipe, pictures, device, force, tell)

    from ..engines.torch.folder import standard_folder
    from ..engines.torch.loading import load_weights
    from .learner import Learner
    from .training import Training

    with standard_folder(checkpoint) as standard:
        weights = load_weights(standard, checkpoint.config, precision, device, on_progress)
    config = checkpoint.config
    preprocess = Preprocess.for_model(folder, config.vision.image_size)
    learner = Learner(weights, config, tokenizer, preprocess, TEMPLATES[config.family], recipe, str(model))
    check_lengths(lesson.everything, learner.tokens, config.prompt_budget)
    training = Training(learner, recipe, out, record.digest)
    training.run(lesson.new, lesson.old, on_epoch, on_progress)
    record.write(training.epochs, [len(part) for part in lesson.parts])
    _remove_state(out)
    return training.epochs


def _placed(
    checkpoint: Checkpoint,
    name: str,
    recipe: Recipe,
    pictures: int,
    device: str,
    force: bool,
    tell: Callable[[str], None],
) -> tuple[str, str]:
    """(Device, precision), when there is room."""
    from ..engines.torch.loading import accelerator, free_gpu_memory

    device = (accelerator() or "cpu") if device == "auto" else device
    precision = "fp32" if device == "cpu" else "bf16"
    size = training_memory(checkpoint.config, precision, recipe, pictures)
    free = sum(free_gpu_memory(device)) if device.startswith("cuda") else available_memory()
    tell(f"Training at {precision} on {device} needs about {gigabytes(size)} of the {gigabytes(free)} free")
    if size > free and not force and device != "mps":
        raise Blip2ChatError(
            f"training {name} at {precision} on {device} needs about {gigabytes(size)} of memory, and "
            f"{gigabytes(free)} is free; a smaller ",
            Parameter("batch"),
            " needs less, and ",
            Parameter("force", True),
            " tries regardless",
        )
    return device, precision


def _digest(checkpoint: Checkpoint, lesson: Lesson, recipe: Recipe) -> str:
    """Of what decides the outcome: the model's weights by name, size and time, the rows, and the recipe."""
    files = [(checkpoint.folder / name).stat() for name in checkpoint.weight_files]
    weights = [(one.st_size, one.st_mtime_ns) for one in files]
    rows = [[asdict(example) for example in part] for part in lesson.parts]
    return hashlib.sha256(json.dumps([weights, rows, asdict(recipe)]).encode()).hexdigest()


def _remove_state(out: Path) -> None:
    with contextlib.suppress(OSError):  # it is read no more
        (out / STATE).unlink()


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # What a run that was killed at its first save left behind is a draft.
        others = [one for one in out.iterdir() if not (one.name.startswith(".") and one.suffix == ".part")]
        if others and not (out / STATE).is_file():
            raise Blip2ChatError(f"{out} holds something else already; name a new folder")
    except OSError as error:
        raise Blip2ChatError(f"{out} cannot be written to: {error.strerror or error}") from None


__all__ = ["HISTORY", "Epoch", "Lesson", "Recipe", "best", "require_packages", "tune"]
