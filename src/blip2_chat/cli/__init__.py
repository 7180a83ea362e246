"""The command line: `blip2-chat caption | ask | chat | …`, a module for each command.

Importing this brings typer alone; what needs numpy, Pillow or an engine is imported by the command that runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Annotated

import typer

from .._version import __version__
from .ask import ask
from .caption import caption
from .chat import chat
from .compare import compare
from .convert import cache, convert
from .doctor import doctor
from .evaluate import evaluate
from .models import models
from .report import report
from .run import run
from .serve import serve
from .typer_groups import add

app = typer.Typer(
    name="blip2-chat",
    help="Chat with pictures through BLIP-2, on the computer you already own.",
    epilog="Without --model the small embedded model answers: it knows drawn scenes, not photographs.",
    no_args_is_help=True,
    # A user is shown one line (command.py); a developer, who asks for it, the plain traceback.
    pretty_exceptions_enable=False,
    # Boxes cost the narrow terminal its room, and every --help the import of rich.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"blip2-chat {__version__}")
        raise typer.Exit


@app.callback()
def _blip2_chat(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    pass


for command in (caption, ask, chat, models, convert, cache, serve, doctor, evaluate, compare, run, report):
    add(app, command)


def main() -> None:
    """The entry point `blip2-chat`."""
    for name in ("stdin", "stdout", "stderr"):
        # Python has none where the caller closed it (`2>&-`).
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A name or an answer that the terminal's encoding lacks is shown with "?", and never ends the run.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="replace")
    app(prog_name="blip2-chat")  # also as `python -m blip2_chat`
