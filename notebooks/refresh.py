"""Runs the notebooks and writes them back as they are committed: with their outputs.

    python notebooks/refresh.py            # needs the [notebook] extra

Left out are live widgets, which only a running kernel can show, progress bars, and whatever tells of the machine: the
error stream and the metadata. `execute` and `as_committed` are also what the tests run.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOTEBOOKS = (FOLDER / "Chat_with_BLIP_2.ipynb", FOLDER / "Chat_with_BLIP_2_[int8_bitsandbytes].ipynb")
_WIDGET = "application/vnd.jupyter.widget-view+json"
# The first of these that an output has is kept: the plain text of a picture or an answer is its repr, paths included.
_KINDS = ("image/png", "text/html", "text/plain")


def execute(
    path: Path,
    change: Callable[[str, str], str] = lambda cell, source: source,
    seconds: int = 600,
    environment: dict[str, str] | None = None,
) -> Any:
    """The notebook after all its cells ran; `change(cell id, source)` may alter a cell before."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = change(cell.id, cell.source)
    client = NotebookClient(
        notebook,
        timeout=seconds,
        startup_timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    # Cells may have no memory of how this process runs, and the other way round.
    return client.execute(env={**os.environ, **(environment or {})})


def as_committed(notebook: Any) -> Any:
    """A copy with its outputs and nothing of the machine that it ran on; cells are numbered from the top."""
    clean = copy.deepcopy(notebook)
    clean.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    number = 0
    for cell in clean.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.outputs = [kept for output in cell.outputs if (kept := _kept(output, number))]
    return clean


def _kept(output: Any, number: int) -> Any:
    """An output as it is committed, or None."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    if _WIDGET in data or not any(data.values()):  # a bar that is done is empty
        return None
    kind = next(one for one in _KINDS if one in data)
    kept = {kind: data[kind]}
    if output.output_type == "execute_result":
        return nbformat.v4.new_output("execute_result", kept, execution_count=number)
    return nbformat.v4.new_output("display_data", kept)


def main() -> None:
    for path in NOTEBOOKS:
        print(path.name, file=sys.stderr)
        nbformat.write(as_committed(execute(path)), path)


if __name__ == "__main__":
    main()
