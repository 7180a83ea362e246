"""`blip2-chat tune DATA --out FOLDER`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint.embedded import EMBEDDED
from .display.terminal import ProgressBar, note, say
from .options import ModelName

_TRAINING = "Training"


def tune(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="CSV or JSON lines with picture, question (empty for captions) and answer, or a folder of pictures "
            "with .txt files beside them.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write the adapter to; run the same command again to resume a run that was killed.",
        ),
    ],
    model: ModelName = EMBEDDED,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Examples of what the model already knows and should not forget, in the same formats.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device to train on: cpu, cuda, cuda:N, mps or auto.")
    ] = "auto",
    epochs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Maximum passes over the examples.", rich_help_panel=_TRAINING),
    ] = 20,
    patience: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop after this many epochs without a lower held-out loss.",
            rich_help_panel=_TRAINING,
        ),
    ] = 4,
    rate: Annotated[
        float, typer.Option(metavar="X", min=1e-7, max=1.0, help="Learning rate.", rich_help_panel=_TRAINING)
    ] = 1e-3,
    rank: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Rank of the adapter.", rich_help_panel=_TRAINING)
    ] = 16,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Examples per step; fewer need less memory.", rich_help_panel=_TRAINING
        ),
    ] = 16,
    held_out: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0.01,
            max=0.9,
            help="Share of the pictures that is not trained on, and tells when to stop.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Seed of the split and of the training.", rich_help_panel=_TRAINING
        ),
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if the memory check says it will not fit.")
    ] = False,
) -> None:
    """Teach a model from examples: train a LoRA adapter.

    All examples are checked first. A share of the pictures is held out; training stops when the loss on them no
    longer falls, and the adapter of the best epoch is kept. Use it with --adapter.
    """
    from ..tuning import recipe as recipes
    from ..tuning.tune import Lesson, require_packages
    from ..tuning.tune import tune as train

    require_packages()
    recipe = recipes.Recipe(
        rank=rank,
        alpha=2 * rank,
        rate=rate,
        epochs=epochs,
        batch=batch,
        patience=patience,
        held_out=held_out,
        seed=seed,
    )
    lesson = Lesson.read(data, replay, recipe)
    counts = [len(part) for part in lesson.parts]
    old = f"; old ones: {counts[2]} to replay, {counts[3]} held out" if replay is not None else ""
    note(f"{counts[0]} examples to train on, {counts[1]} held out{old}")
    with ProgressBar(f"loading {model}") as progress:
        history = train(
            lesson,
            out,
            model=model,
            recipe=recipe,
            device=device,
            force=force,
            tell=progress.note,
            on_epoch=lambda epoch: progress.note(str(epoch)),
            on_progress=progress,
        )
    kept = recipes.best(history)
    note(f"Kept: {kept}")
    say(str(out))
    note(f"Use it: blip2-chat chat photo.jpg --model {shlex.quote(model)} --adapter {shlex.quote(str(out))}")
