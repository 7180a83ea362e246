"""Runs the notebooks and writes them back as they are committed: with their pictures, and no other output.

    python notebooks/refresh.py            # needs the [notebook] extra

Text, numbers and live widgets are for whoever runs a notebook; the pictures are for whoever reads it on a web page.
`execute` and `as_committed` are also what the tests run.
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
# What a page keeps of an output. The chats' HTML has the picture in it too, but a web page strips its layout.
_PICTURES = ("image/png",)


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
    """A copy with no output but pictures, no counts, and nothing of the machine that it ran on."""
    clean = copy.deepcopy(notebook)
    clean.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in clean.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [
            nbformat.v4.new_output(
                "display_data", {kind: output.data[kind] for kind in _PICTURES if kind in output.data}
            )
            for output in cell.outputs
            if any(kind in output.get("data", {}) for kind in _PICTURES)
        ]
    return clean


def main() -> None:
    for path in NOTEBOOKS:
        print(path.name, file=sys.stderr)
        nbformat.write(as_committed(execute(path)), path)


if __name__ == "__main__":
    main()
