"""`--where FILE`: a picture of what an answer depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError
from .display.terminal import ProgressBar, note

if TYPE_CHECKING:
    from ..chat import Chat

Where = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also save the picture with the regions that the last answer depends on in colour (.png or .jpg).",
    ),
]
_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
# Seconds that it may take unannounced.
_WORTH_SAYING = 10


def check(where: Path | None) -> None:
    """`BadParameter`, before a model is loaded, for a file that cannot be written."""
    if where is None:
        return
    if where.suffix.lower() not in _KINDS:
        raise typer.BadParameter(f"--where {where}: its name ends in .png or .jpg")
    if not where.absolute().parent.is_dir():
        raise typer.BadParameter(f"--where {where}: there is no folder {where.parent}")


def save(chat: Chat, where: Path) -> None:
    """Writes the last turn's map. Raises `Blip2ChatError`."""
    from ..attribution import ENCODINGS
    from ..system.whole_files import replacing

    if not chat.turns or not chat.turns[-1].text:
        note(f"There is no answer, so there is nothing to show in {where}")
        return
    seconds = ENCODINGS * chat.turns[-1].answer.first_word_seconds
    if seconds > _WORTH_SAYING:
        note(f"Looking at up to {ENCODINGS} covered pictures takes about {seconds:.0f} s")
    with ProgressBar("looking") as progress:
        image = chat.show(on_progress=progress).image
    try:
        with replacing(where, survives_power_loss=False) as file:
            image.save(file, _KINDS[where.suffix.lower()], quality=92)
    except OSError as error:
        raise Blip2ChatError(f"{where} cannot be written: {error.strerror or error}") from None
    note(f"What the answer depends on is in {where}")
