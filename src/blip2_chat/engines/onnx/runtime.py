"""ONNX Runtime sessions that read and write the caller's arrays in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]


class Runner:
    """One graph. Inputs and outputs are numpy arrays that stay where they are (I/O binding)."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Patterns are kept per input shape, and each prompt has its own.
        options.enable_mem_pattern = False
        # Warnings of the runtime say nothing that a user could act upon.
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Binding:
        """Arrays bound once for many runs."""
        return Binding(self._session, inputs, outputs)

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """One run, after which the memory of its activations is given back: the next may be minutes away."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.bind(inputs, outputs).run({}, {}, options)


class Binding:
    """A graph with arrays bound to some of its names; the rest is bound at each run."""

    def __init__(
        self, session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        # Kept alive: the binding holds their addresses only.
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
