"""`blip2-chat chat [PICTURE]`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint.embedded import SAMPLES, suggested_questions
from .display.output import STDIN, open_source
from .display.screen import Screen
from .options import ModelOptions, WritingOptions
from .repl import Talk

# Inside the package, and within what the embedded model can talk about.
_SAMPLE = SAMPLES / "dog-and-apple.png"


def chat(
    model: ModelOptions,
    writing: WritingOptions,
    picture: Annotated[
        str | None, typer.Argument(metavar="PICTURE", help="A path or URL (default: a sample picture).")
    ] = None,
    no_picture: Annotated[
        bool, typer.Option("--no-picture", help="Do not show the picture in the terminal.")
    ] = False,
) -> None:
    """Chat about a picture interactively.

    Every line is a question or a command; /help lists the commands. In a pipe, each question gives one line on
    stdout, an empty one if it failed (the exit status is then 1), and everything else goes to stderr.
    """
    settings = writing.settings()
    if picture == STDIN:
        raise typer.BadParameter("the questions come from stdin: give the picture as a path or URL")
    source = str(_SAMPLE) if picture is None else picture
    if "://" not in source:
        open_source(
            source, model.picture_limits()
        )  # report a wrong path before loading the model, which may take minutes
    interactive = sys.stdin.isatty()
    running = model.load()
    path = Path(source)
    questions = suggested_questions(path) if path.is_file() else ()
    talk = Talk(running, source, settings, interactive, questions, Screen(interactive, not no_picture))
    model.tell_limits()
    if interactive:
        talk.welcome()
    talk.run()
    if talk.failed and not interactive:
        raise typer.Exit(1)
