"""`blip2-chat convert` and `blip2-chat cache`: explicit conversions, and those that the cache keeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .display.terminal import ProgressBar, note, say, say_json
from .options import AdapterName, Json

if TYPE_CHECKING:
    from ..conversion.cache import Cached

# Seconds that calibration or a comparison may take unannounced.
_WORTH_SAYING = 5


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name on the hub such as Salesforce/blip2-opt-2.7b, or a folder."
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder to create.")],
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="Precision of the weights: int8, int4 or fp32.")
    ] = "int8",
    block_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of weights that share a scale: 16, 32, 64 …; smaller blocks are more accurate, and larger "
            "on disk (default: 128; int4: 256).",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch, tag or commit of a model on the Hugging Face hub."),
    ] = None,
    processor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Use the tokenizer and picture settings of this model or folder."),
    ] = None,
    adapter: AdapterName = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Calibrate int8 or int4 with the pictures in this folder instead of the included ones.",
        ),
    ] = None,
    no_calibrate: Annotated[
        bool,
        typer.Option(
            "--no-calibrate", help="Round int8 or int4 from the weights alone: faster, less accurate."
        ),
    ] = False,
    no_check: Annotated[
        bool,
        typer.Option("--no-check", help="Do not compare int8 or int4 with fp32 at the end."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier conversion in the folder.")
    ] = False,
) -> None:
    """Convert a checkpoint for the onnx engine, into a folder.

    Other commands convert automatically, once, into a cache (see `blip2-chat cache`). Use this command for a folder
    that you can copy to another machine, for another block size, or for calibration.
    """
    from ..checkpoint.inspect import find, find_adapter, inspect_any, is_chat
    from ..conversion.cache import folder_size
    from ..conversion.calibration import Calibration
    from ..conversion.convert import convert as convert_into
    from ..conversion.fidelity import described, seconds_to_measure
    from ..engines.onnx.manifest import Manifest
    from ..sizes import gigabytes
    from ..system.shell import quoted

    if calibrate is not None and precision == "fp32":
        raise typer.BadParameter("--calibrate is for int8 and int4: fp32 rounds nothing")
    if calibrate is not None and no_calibrate:
        raise typer.BadParameter("--calibrate and --no-calibrate exclude each other")
    calibration = Calibration(not no_calibrate, calibrate)
    begun = time.monotonic()
    with ProgressBar(f"reading {source}") as progress:

        def downloading(done: int, total: int) -> None:
            progress("downloading", done, total)

        folder = find(source, revision=revision, on_progress=downloading)
        checkpoint = inspect_any(
            folder,
            None if processor is None else find(processor, weights=False),
            None if adapter is None else find_adapter(adapter, on_progress=downloading),
        )
        if checkpoint.kind == "official" and (
            (seconds := calibration.seconds(checkpoint, precision)) > _WORTH_SAYING
        ):
            progress.note(f"Calibrating {precision} takes about {seconds:.0f} s; --no-calibrate skips that")
        check = not no_check and precision != "fp32" and checkpoint.kind == "official"
        if check and (seconds := seconds_to_measure(checkpoint)) > _WORTH_SAYING:
            progress.note(
                f"At the end {precision} is compared with fp32, about {seconds:.0f} s; --no-check skips that"
            )
        made = convert_into(
            checkpoint,
            out,
            precision,
            name=source if revision is None else f"{source}@{revision}",
            block_size=block_size,
            calibration=calibration,
            check=check,
            force=force,
            on_progress=progress,
        )
    seconds = time.monotonic() - begun
    # The path alone on stdout, for scripts.
    merged = "" if adapter is None else f" with {adapter}"
    note(f"{source}{merged} at {precision}: {gigabytes(folder_size(made))} in {seconds:.0f} s")
    fidelity = Manifest.from_folder(made).fidelity
    if fidelity is not None:
        note(described(fidelity, precision, is_retrieval=not is_chat(checkpoint)))
    say(str(made))
    if is_chat(checkpoint):
        note(f"Talk with it: blip2-chat chat photo.jpg --model {quoted(out)}")
    else:
        note(f'Use it: blip2-chat match photo.jpg "a dog" "a cat" --model {quoted(out)}')


def cache(
    name: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="With --clear: remove only this model's conversions."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove conversions; they are repeated when needed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List or remove cached conversions."""
    from ..conversion.cache import cached, conversions_folder
    from ..conversion.cache import clear as remove
    from ..sizes import gigabytes

    if name is not None and not clear:
        raise typer.BadParameter("NAME needs --clear")
    entries = remove(name) if clear else cached()
    for entry in entries:
        if as_json:
            say_json(_as_dict(entry))
        else:
            state = "" if entry.is_usable else "  (damaged, or of another version)"
            say(f"{entry.title}  {entry.precision}  {gigabytes(entry.size)}{state}")
    total = gigabytes(sum(entry.size for entry in entries))
    if clear:
        note(f"Removed {len(entries)} ({total}) from {conversions_folder()}")
    elif entries:
        note(f"{total} in {conversions_folder()}; `blip2-chat cache --clear [NAME]` removes them")
    else:
        note(f"Nothing is cached at {conversions_folder()}")


def _as_dict(entry: Cached) -> dict[str, object]:
    return {
        "source": entry.source,
        "adapter": entry.adapter,
        "precision": entry.precision,
        "bytes": entry.size,
        "usable": entry.is_usable,
        "folder": str(entry.folder),
    }
