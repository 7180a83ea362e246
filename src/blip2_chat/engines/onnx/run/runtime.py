"""ONNX Runtime sessions that read and write the caller's arrays in place.

Some weights stay in their file: ONNX Runtime is handed a memory map of them, whose pages are given back once the
graph is loaded. The scales of block-quantised matrices are copied while it loads and not read again; of a table
a run reads a few rows.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort

from ..manifest import MappedTensor

Array = np.ndarray[Any, Any]

# A program that imported ONNX Runtime before this package has its telemetry running already (see the package's
# `__init__`): what this package does is kept out of it at least.
if os.environ.get("ORT_DISABLE_TELEMETRY") in ("1", "true"):
    ort.disable_telemetry_events()


class Runner:
    """One graph. Inputs and outputs are numpy arrays that stay where they are (I/O binding)."""

    def __init__(self, path: Path, threads: int | None = None, mapped: Sequence[MappedTensor] = ()) -> None:
        """Loads `path`, whose weights are in `path`.data; `mapped` of them stay there."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Memory patterns are kept per input shape, and each prompt has its own.
        options.enable_mem_pattern = False
        # The runtime's warnings are nothing that a user could act on.
        options.log_severity_level = 3
        # The session has only the addresses of the maps, so they are kept alive as long as it is.
        self._mapped = _MappedFile(path.with_name(f"{path.name}.data"), mapped) if mapped else None
        if self._mapped:
            for name, value in self._mapped.values.items():
                options.add_initializer(name, value)
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if self._mapped:
            self._mapped.give_back()

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Binding:
        """Arrays bound once for many runs."""
        return Binding(self._session, inputs, outputs)

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """One run, after which the memory of its activations is given back: the next may be minutes away."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.bind(inputs, outputs).run({}, {}, options)


class _MappedFile:
    """Tensors mapped from a file; pages that are not read take no memory."""

    def __init__(self, path: Path, tensors: Sequence[MappedTensor]) -> None:
        # Each has a map of its own: a look into one map of the whole file also brings in the pages beside it, which
        # are the other weights'.
        self._maps = [np.memmap(path, np.dtype(one.dtype), "r", one.offset, one.shape) for one in tensors]
        self.values = {
            one.name: ort.OrtValue.ortvalue_from_numpy(array)
            for one, array in zip(tensors, self._maps, strict=True)
        }

    def give_back(self) -> None:
        """Releases the pages read so far; the next access reads the file again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not available on Windows, which trims by itself
            for array in self._maps:
                cast(mmap.mmap, array.base).madvise(mmap.MADV_DONTNEED)


class Binding:
    """A graph with arrays bound to some of its names; the rest is bound at each run."""

    def __init__(
        self, session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        # Kept alive, because the binding has only their addresses.
        self._arrays: dict[str, Array] = {}
        self._bind(inputs, outputs)

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        options: ort.RunOptions | None = None,
    ) -> None:
        self._bind(inputs, outputs)
        self._session.run_with_iobinding(self._binding, options)

    def _bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        for arrays, bind in ((inputs, self._binding.bind_input), (outputs, self._binding.bind_output)):
            for name, array in arrays.items():
                if not array.flags.c_contiguous:
                    raise ValueError(f"{name} must be contiguous to be bound in place")
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
                self._arrays[name] = array
