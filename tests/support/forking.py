"""Processes of their own, started in milliseconds: a server that has imported everything heavy forks them.

`blip2_chat` is the command line as a user meets it: a process with its own arguments, environment, streams and exit
status. What is promised about the start of the program itself (signals, imports, terminals) is tested with `command`
of tests/support/batch.py, which starts Python anew. Where processes cannot be forked they are spawned.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What commands import, except what reads the environment when imported (huggingface_hub) and what starts threads
# (lancedb): of these the libraries that they import in turn. One that is not installed is passed over.
_PRELOADED = [
    "blip2_chat.batch.ray_run",
    "blip2_chat.batch.run",
    "blip2_chat.cli",
    "blip2_chat.engines.onnx",
    "blip2_chat.engines.onnx.convert",
    "blip2_chat.evaluation.compare",
    "blip2_chat.loading",
    "blip2_chat.retriever_loading",
    "tests.support.batch",
    "fsspec",
    "httpx",
    "httpx2",
    "lance_namespace",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow.dataset",
    "rich.progress",
    "tqdm.auto",
    "yaml",
]


def process(target: Callable[..., Any], *arguments: Any) -> Any:
    """A process that calls `target`, which has to be importable; not started."""
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(_PRELOADED)  # before the server starts, which is once in a test run
    return context.Process(target=target, args=arguments)


def called(
    target: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> tuple[int, str, str]:
    """Calls `target` in a process of its own, in this one's working directory: exit status, stdout and stderr.

    `environment` is by default this process's; what takes longer than `seconds` is killed."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        settings = dict(os.environ if environment is None else environment)
        started = process(_inside, target, arguments, settings, os.getcwd(), *map(str, streams))
        started.start()
        started.join(seconds)
        if started.exitcode is None:
            started.kill()
            started.join()
            raise subprocess.TimeoutExpired(str(target), seconds)
        out, err = (stream.read_text() if stream.exists() else "" for stream in streams)
        return started.exitcode, out, err


def _inside(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    folder: str,
    out: str,
    err: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT),
        (2, err, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    target(*arguments)


def _main(arguments: list[str]) -> None:
    from blip2_chat.cli import main

    sys.argv = ["blip2-chat", *arguments]
    main()


def blip2_chat(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `blip2-chat ...`."""
    return called(_main, [str(one) for one in arguments], environment=environment)
