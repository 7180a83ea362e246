"""`blip2-chat models`"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Blip2ChatError, CheckpointError
from .display.terminal import complain, note, say, say_json
from .options import Json

if TYPE_CHECKING:
    from ..checkpoint.catalogue import KnownCheckpoint
    from ..checkpoint.retrieval_config import AnyConfig
    from ..conversion.cache import Cached

# The official checkpoints are published in fp32.
_PUBLISHED_BYTES = 4
# The width of a table in a pipe or file: enough for every row.
_PLAIN_WIDTH = 120
_NARROWEST = 80
_COLUMNS = ("fp32", "bf16", "int8", "int4")


@dataclass(frozen=True)
class _Offer:
    """One model: what it is, and the memory in bytes that each engine needs for it at each precision."""

    name: str
    description: str
    parameters: int
    download: int  # bytes; 0 for what is here already
    memory: dict[str, dict[str, int]]
    fits: dict[str, str | None]  # what `load` chooses with each engine; None: nothing fits


def models(
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove conversions whose checkpoint is gone, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --prune: remove without asking.")] = False,
    as_json: Json = False,
) -> None:
    """List known models, their sizes, and what fits this machine.

    Any other BLIP-2 checkpoint in the official layout loads as well, from a folder or from the Hugging Face hub.
    """
    from ..conversion.cache import cached
    from ..conversion.fidelity import described
    from ..conversion.prune import is_orphan
    from ..sizes import gigabytes
    from ..system.memory import available_memory

    if yes and not prune:
        raise typer.BadParameter("--yes needs --prune")
    made = cached()
    if prune:
        _prune([one for one in made if is_orphan(one)], yes, as_json)
        return
    available = available_memory()
    offers = _offers(available)
    if as_json:
        for offer in offers:
            here = [
                one.precision
                for one in made
                if one.is_usable and one.is_called(offer.name) and one.adapter is None
            ]
            adapted = [
                {"adapter": one.adapter, "precision": one.precision}
                for one in made
                if one.is_usable and one.is_called(offer.name) and one.adapter is not None
            ]
            closeness = {
                one.precision: asdict(one.fidelity)
                for one in made
                if one.is_usable
                and one.is_called(offer.name)
                and one.adapter is None
                and one.fidelity is not None
            }
            entry = {**_as_json(offer, available), "converted": here, "fidelity": closeness}
            say_json({**entry, "adapted": adapted})
        return
    _print_table(offers, available)
    orphans = [one for one in made if is_orphan(one)]
    for one in made:
        if one.is_usable:
            gone = " (its checkpoint is gone)" if one in orphans else ""
            say(f"Converted here: {one.title} at {one.precision}, {gigabytes(one.size)}{gone}")
            if one.fidelity is not None:
                say(f"  {described(one.fidelity, one.precision)}")
    if orphans:
        total = gigabytes(sum(one.size for one in orphans))
        note(f"`blip2-chat models --prune` removes the conversions whose checkpoint is gone ({total})")


def _prune(orphans: list[Cached], yes: bool, as_json: bool) -> None:
    from ..conversion.cache import conversions_folder
    from ..conversion.prune import prune
    from ..sizes import gigabytes

    if not orphans:
        note(f"Nothing to remove: no conversion in {conversions_folder()} has lost its checkpoint")
        return
    for one in orphans:
        note(f"{one.title} at {one.precision}, {gigabytes(one.size)}: its checkpoint is gone")
    total = gigabytes(sum(one.size for one in orphans))
    if not yes:
        try:
            typer.confirm(
                f"Remove {len(orphans)} ({total}) from {conversions_folder()}?", abort=True, err=True
            )
        except typer.Abort:
            raise Blip2ChatError("nothing was removed; --yes removes without asking") from None
    removed, kept = prune(orphans)
    for one in removed:
        if as_json:
            say_json({"source": one.source, "precision": one.precision, "bytes": one.size})
        else:
            say(f"Removed {one.title} at {one.precision}, {gigabytes(one.size)}")
    for other in kept:
        complain(f"{other.entry.title} at {other.entry.precision} was not removed: {other.reason}")
    note(f"{gigabytes(sum(one.size for one in removed))} freed")
    if kept:
        raise typer.Exit(1)


def _offers(available: int) -> list[_Offer]:
    from ..checkpoint.catalogue import KNOWN, KNOWN_RETRIEVERS
    from ..checkpoint.embedded import embedded_models
    from ..checkpoint.inspect import find, inspect_any

    offers = []
    for name, about in embedded_models().items():
        try:
            embedded = inspect_any(find(name))
        except CheckpointError as error:
            note(f"The embedded model {name} is damaged: {error}")  # the others can be told all the same
            continue
        config, parameters = embedded.config, embedded.total_parameters
        offers.append(_Offer(name, about, parameters, 0, _memory(config), _fits(config, available)))
    official: list[KnownCheckpoint[AnyConfig]] = [*KNOWN, *KNOWN_RETRIEVERS]
    for known in official:
        size = known.parameters * _PUBLISHED_BYTES
        config = known.config
        memory, fits = _memory(config), _fits(config, available)
        offers.append(_Offer(known.name, known.description, known.parameters, size, memory, fits))
    return offers


def _fits(config: AnyConfig, available: int) -> dict[str, str | None]:
    from ..checkpoint.requirements import COSTS
    from ..loading import default_precision

    return {engine: default_precision(config, engine, available) for engine in COSTS}


def _memory(config: AnyConfig) -> dict[str, dict[str, int]]:
    from ..checkpoint.requirements import COSTS, needed

    return {
        engine: {precision: needed(config, precision, engine) for precision in costs.precisions}
        for engine, costs in COSTS.items()
    }


def _as_json(offer: _Offer, available: int) -> dict[str, Any]:
    return {
        "model": offer.name,
        "description": offer.description,
        "parameters": offer.parameters,
        "download_bytes": offer.download,
        "memory_bytes": offer.memory,
        "available_bytes": available,
        "fits": offer.fits,
    }


def _print_table(offers: list[_Offer], available: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..sizes import gigabytes

    console = Console(highlight=False)
    # Narrower than its rows, the table is easier to read wrapped by the terminal than squeezed.
    console.width = max(console.width, _NARROWEST) if sys.stdout.isatty() else _PLAIN_WIDTH
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    for title in ("params", "files", "engine", *_COLUMNS, "fits"):
        table.add_column(title, justify="left" if title in ("engine", "fits") else "right", no_wrap=True)
    for offer in offers:
        download = f"{offer.download / 1e9:.1f}" if offer.download else "-"
        first = [offer.name, _count(offer.parameters), download]
        for engine, sizes in offer.memory.items():
            cells = [f"{sizes[one] / 1e9:.1f}" if one in sizes else "-" for one in _COLUMNS]
            fits = offer.fits[engine]
            table.add_row(*first, engine, *cells, f"[green]{fits}[/]" if fits else "[red]no[/]")
            first = ["", "", ""]
    console.print(table)
    console.print(
        f"\nIn GB: the files, which are downloaded once, and memory at each precision, for one picture and a usual "
        f"conversation; {gigabytes(available)} is available now.\n"
        "fits: what is loaded if you do not give --precision."
    )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
