"""The command line: `blip2-chat caption | ask | chat | …`, a module for each command.

Importing this module imports only typer; each command imports numpy, Pillow and engines when it runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import Annotated

import typer

from .._version import __version__
from .alt import alt
from .ask import ask
from .caption import caption
from .chat import chat
from .compare import compare
from .convert import cache, convert
from .doctor import doctor
from .evaluate import evaluate
from .index import index
from .match import match
from .mcp import mcp
from .models import models
from .report import report
from .run import run
from .search import search
from .serve import serve
from .tune import tune
from .typer_groups import add

app = typer.Typer(
    name="blip2-chat",
    help="Describe pictures and answer questions about them with BLIP-2.",
    epilog="Without --model, commands use the small embedded model, which knows drawn scenes but not "
    "photographs; for photographs: --model Salesforce/blip2-opt-2.7b, and for match, index and search, which have a "
    "small model of their own: --model Salesforce/blip2-itm-vit-g",
    no_args_is_help=True,
    # Users see one line (typer_groups.py); developers can ask for the plain traceback.
    pretty_exceptions_enable=False,
    # Boxes waste space in narrow terminals, and every --help would import rich; help.py groups options instead.
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
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


for command in (
    caption,
    ask,
    chat,
    match,
    models,
    convert,
    cache,
    serve,
    mcp,
    doctor,
    evaluate,
    compare,
    tune,
    run,
    report,
    alt,
    index,
    search,
):
    add(app, command)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """The entry point `blip2-chat`."""
    if os.getpid() == 1:
        # The first process of a container gets no signal that it has no handler for; a model that is loaded for
        # minutes would have to be killed.
        signal.signal(signal.SIGTERM, _end)
    for name in ("stdin", "stdout", "stderr"):
        # It is None if the caller closed it (`2>&-`).
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks are shown as "?" instead of ending the program.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="replace")
    app(prog_name="blip2-chat")  # also as `python -m blip2_chat`
