"""`--where FILE`: a picture of what an answer depends on, or a page with a picture for each of its words."""

from __future__ import annotations

from html import escape
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
        help="Also save the picture with the regions that the last answer depends on in colour (.png or .jpg), or a "
        "page that shows this word by word (.html).",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--where-method",
        metavar="METHOD",
        help="How --where finds these regions: by occlusion (the default), or with the torch engine by gradient or "
        "attention, which are faster.",
    ),
]
_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".html": None}
# Seconds that it may take unannounced.
_WORTH_SAYING = 10


def check(where: Path | None, method: str | None) -> None:
    """`BadParameter`, before a model is loaded, for a file that cannot be written or a method that is not there."""
    if method is not None:
        from ..attribution import METHODS

        if where is None:
            raise typer.BadParameter(
                f"--where-method {method} says how --where finds regions: add --where FILE"
            )
        if method not in METHODS:
            raise typer.BadParameter(f"--where-method {method} is none of {', '.join(METHODS)}")
    if where is None:
        return
    if where.suffix.lower() not in _KINDS:
        raise typer.BadParameter(f"--where {where}: its name ends in .png, .jpg or .html")
    if not where.absolute().parent.is_dir():
        raise typer.BadParameter(f"--where {where}: there is no folder {where.parent}")


def save(chat: Chat, where: Path, method: str | None) -> None:
    """Writes the last turn's map. Raises `Blip2ChatError`."""
    from ..attribution import ENCODINGS
    from ..system.whole_files import replacing

    if not chat.turns or not chat.turns[-1].text:
        note(f"There is no answer, so there is nothing to show in {where}")
        return
    method = method or "occlusion"
    seconds = ENCODINGS * chat.turns[-1].answer.first_word_seconds
    if seconds > _WORTH_SAYING and method == "occlusion":
        note(f"Looking at up to {ENCODINGS} covered pictures takes about {seconds:.0f} s")
    kind = _KINDS[where.suffix.lower()]
    with ProgressBar("looking") as progress:
        shown = chat.show(words=kind is None, method=method, on_progress=progress)
    try:
        with replacing(where, survives_power_loss=False) as file:
            if kind is None:
                file.write(_page(shown.html, shown.answer).encode())
            else:
                shown.image.save(file, kind, quality=92)
    except OSError as error:
        raise Blip2ChatError(f"{where} cannot be written: {error.strerror or error}") from None
    note(f"What the answer depends on is in {where}")


def _page(content: str, title: str) -> str:
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f'<body style="font-family:system-ui,sans-serif;margin:2em">{content}</body></html>\n'
    )
