"""`blip2-chat models`"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .options import Json
from .terminal import note, say, say_json

if TYPE_CHECKING:
    from ..config import ModelConfig

# The official checkpoints are published in fp32.
_PUBLISHED_BYTES = 4
# Of a table that goes into a pipe or a file: wide enough for every row.
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

    def fits(self, engine: str, available: int) -> str | None:
        """The most precise that fits."""
        sizes = self.memory[engine]
        return next((precision for precision, size in sizes.items() if size <= available), None)


def models(as_json: Json = False) -> None:
    """List the models: their sizes, and what fits this machine.

    Any other BLIP-2 checkpoint in the official layout loads too, from a folder or the hub.
    """
    from ..conversion_cache import cached
    from ..memory import available_memory, gigabytes

    available = available_memory()
    offers = _offers()
    made = cached()
    if as_json:
        for offer in offers:
            here = [one.precision for one in made if one.is_usable and one.is_called(offer.name)]
            say_json({**_as_json(offer, available), "converted": here})
        return
    _print_table(offers, available)
    for one in made:
        if one.is_usable:
            say(f"Converted here: {one.source} at {one.precision}, {gigabytes(one.size)}")


def _offers() -> list[_Offer]:
    from ..checkpoint import EMBEDDED, KNOWN, find, inspect

    offers = []
    try:
        embedded = inspect(find(EMBEDDED))
        about = "inside the package: captions and answers about drawn scenes, not photographs"
        memory = _memory(embedded.config)
        offers.append(_Offer(EMBEDDED, about, embedded.total_parameters, 0, memory))
    except CheckpointError as error:
        note(f"The embedded model is damaged: {error}")  # the others can be told all the same
    for known in KNOWN:
        size = known.parameters * _PUBLISHED_BYTES
        offers.append(_Offer(known.name, known.description, known.parameters, size, _memory(known.config)))
    return offers


def _memory(config: ModelConfig) -> dict[str, dict[str, int]]:
    from ..memory import COSTS, needed

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
        "fits": {engine: offer.fits(engine, available) for engine in offer.memory},
    }


def _print_table(offers: list[_Offer], available: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..memory import gigabytes

    console = Console(highlight=False)
    # Narrower than its rows, the table is easier to read wrapped by the terminal than squeezed.
    console.width = max(console.width, _NARROWEST) if sys.stdout.isatty() else _PLAIN_WIDTH
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    for title in ("params", "download", "engine", *_COLUMNS, "fits"):
        table.add_column(title, justify="left" if title in ("engine", "fits") else "right", no_wrap=True)
    for offer in offers:
        download = gigabytes(offer.download) if offer.download else "-"
        first = [offer.name, _count(offer.parameters), download]
        for engine, sizes in offer.memory.items():
            cells = [f"{sizes[one] / 1e9:.1f}" if one in sizes else "-" for one in _COLUMNS]
            fits = offer.fits(engine, available)
            table.add_row(*first, engine, *cells, f"[green]{fits}[/]" if fits else "[red]no[/]")
            first = ["", "", ""]
    console.print(table)
    console.print(
        f"\nMemory in GB at each precision, for one picture and a usual conversation; {gigabytes(available)} "
        "is available now.\nfits: the most precise that does; --precision takes a smaller one."
    )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
