"""Whether a converted folder holds what this version of the package would have written.

A graph is a program, and its weights are wherever it says: folders that come from elsewhere could make the
runtime read other files, or write more than was asked for. The graphs follow from the configuration alone, in a
tenth of a second for the largest checkpoint; so they are built again and compared, and only the weights are
taken on trust. It also recognises conversions that an older version made differently, which are then repeated.
"""

from __future__ import annotations

from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

import onnx

from ...checkpoint.retrieval_config import AnyConfig, read_config
from ...checkpoint.tensor_names import HEAD, expected_tensors
from ...errors import CheckpointError
from ...system.small_files import read_small
from .convert import Plan, Schemes, plan
from .graph.builder import Graph, Scheme
from .graph_file import layout
from .manifest import EMBEDDINGS_FILE, Manifest, Verified

# Weights are beside the graphs, which have at most 0.4 MB for official checkpoints.
_MOST_GRAPH_BYTES = 16_000_000
_LARGEST_BLOCK = 1 << 16


def verify(folder: Path) -> Verified:
    """Checks all of a converted folder but its weights' values. `CheckpointError` when a file is not what `convert`
    writes."""
    manifest, planned = verified_plan(folder)
    return Verified(folder, manifest, planned.config)


def verified_plan(folder: Path) -> tuple[Manifest, Plan]:
    """`verify`, and the plan that the folder was written by."""
    manifest = Manifest.from_folder(folder)
    config = read_config(folder)
    if config.family != manifest.family:
        raise _unlike(folder, "config.json", "the configuration that the manifest is for")
    expected_tensors(config)  # refuses sizes that no model has, before graphs of them are built
    parsed = {name: _parsed(folder, name) for name in manifest.graphs}
    tied_head = "language" not in parsed or _is_tied(parsed["language"])
    planned = _plan(folder, manifest, config, tied_head)
    for graph in planned.graphs:
        _check_graph(folder, manifest, graph, parsed[graph.name])
    if planned.embeddings is not None:
        size = prod(planned.embeddings.shape) * planned.embeddings_dtype.itemsize
        wanted = (planned.embeddings_dtype.name, size)
        if wanted != (manifest.embeddings_dtype, manifest.sizes[EMBEDDINGS_FILE]):
            raise _unlike(folder, EMBEDDINGS_FILE, "the table that its config.json asks for")
    return manifest, planned


def _is_tied(language: onnx.ModelProto) -> bool:
    """Whether the head is the token embeddings. This depended on the checkpoint's weights; in the graph, a
    separate head has a name of its own."""
    # protobuf gives a damaged name, which is not UTF-8, as bytes.
    names = (weight.name for weight in language.graph.initializer if isinstance(weight.name, str))
    return not any(name.startswith(HEAD) for name in names)


def _plan(folder: Path, manifest: Manifest, config: AnyConfig, tied_head: bool) -> Plan:
    if not 16 <= manifest.block_size <= _LARGEST_BLOCK:
        raise _unlike(folder, "the manifest", "one with a block size that a conversion may have")
    try:
        how = None if manifest.schemes is None else _schemes(manifest.schemes)
        precision: Any = manifest.precision  # one of `Precision`, as the manifest's own check saw to
        return plan(config, precision, manifest.block_size, tied_head=tied_head, how=how)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded: {error}; convert the checkpoint again", path=folder
        ) from None


def _schemes(raw: dict[str, Any]) -> Schemes:
    made = Schemes(**{part: Scheme(**scheme) for part, scheme in raw.items() if scheme is not None})
    for scheme in (getattr(made, field.name) for field in fields(made)):
        if scheme is None:
            continue
        size = scheme.block_size
        if (
            scheme.kind not in ("float", "columns", "blocks")
            or scheme.bits not in (4, 8)
            or type(size) is not int
            or not 16 <= size <= _LARGEST_BLOCK
            or size & (size - 1)
        ):
            raise ValueError("its manifest has schemes that do not exist")
    return made


def _parsed(folder: Path, name: str) -> onnx.ModelProto:
    content = read_small(folder / f"{name}.onnx", _MOST_GRAPH_BYTES)
    try:
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(content)
        return parsed
    except Exception:  # protobuf's implementations each have their own
        raise _unlike(folder, f"{name}.onnx", "a graph") from None


def _check_graph(folder: Path, manifest: Manifest, graph: Graph, found: onnx.ModelProto) -> None:
    file = f"{graph.name}.onnx"
    expected = layout(graph)
    if found != expected.model:
        raise _unlike(folder, file, "the graph that this version of blip2-chat makes")
    if manifest.sizes[f"{file}.data"] != expected.data_size:
        raise _unlike(folder, f"{file}.data", "the weights of its graph")
    if manifest.graphs[graph.name] != expected.mapped:
        raise _unlike(folder, "the manifest", f"the one that belongs to {file}")


def _unlike(folder: Path, file: str, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be loaded: {file} is not {expected}; convert the checkpoint again", path=folder
    )
