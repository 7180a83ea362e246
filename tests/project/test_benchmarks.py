"""The benchmarks as programs: a failure stays one row, nothing measured is lost, only their own memory is read."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import full_size, run_throughput, serve_load
from benchmarks.child import Deadline, Kept, figures_of

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="signals")


@posix
def test_memory_that_a_runtime_gives_back_is_not_read() -> None:
    """What happened with bfloat16 on AVX2: buffers that were there when the model was loaded, and later were not."""
    program = """
import mmap, numpy as np
from benchmarks.bandwidth import Reader

theirs = mmap.mmap(-1, 2**26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
values = np.frombuffer(theirs, np.int64)
values[:] = 1
reader = Reader()
del values
theirs.close()
assert all(reader.read() > 0 for _ in range(3))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `benchmarks.NAME` from a program that reports its first figure before it runs."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"__path__ = [{str(ROOT / 'benchmarks')!r}, {str(folder)!r}]")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))

    def make(name: str, program: str) -> str:
        begin = "from benchmarks.child import tell\ntell({'load': 1.5})\n"
        (folder / f"{name}.py").write_text(begin + program)
        return name

    return make


@posix
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", r"ended by SIGSEGV"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", r"ended by SIGKILL \(out of memory\?\)"),
        ("raise SystemExit(3)", r"failed with code 3"),
        ("import os\nos.abort()", r"ended by SIGABRT"),
        ("import time\ntime.sleep(60)", r"longer than 3 s"),
        ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)", r"longer than 3 s"),
    ],
    ids=["segmentation fault", "killed", "failed", "aborted", "too long", "too long and stubborn"],
)
def test_a_measurement_that_fails_keeps_what_it_had(
    module: Any, tmp_path: Path, program: str, reason: str
) -> None:
    bounds: dict[str, Any] = {"seconds": 3, "root": tmp_path, "patience": 0.5}
    figures = figures_of(module("bad", program), **bounds)
    assert figures.pop("failed") and figures == {"load": 1.5}
    figures = figures_of("bad", **bounds)
    assert re.fullmatch(reason, figures["failed"])


@posix
def test_the_processes_of_a_measurement_end_with_it(module: Any, tmp_path: Path) -> None:
    """Such as the server under load, or the process that converts."""
    note = tmp_path / "pid"
    program = f"""
import subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
open({str(note)!r}, "w").write(str(started.pid))
time.sleep(120)
"""
    assert "longer than" in figures_of(module("parent", program), seconds=4, root=tmp_path)["failed"]
    pid = int(note.read_text())
    ends = time.monotonic() + 20
    while alive(pid) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """A process that has ended and that nobody has waited for does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.is_file() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_an_exhausted_budget_starts_no_measurement() -> None:
    assert figures_of("no_such_module", seconds=Deadline(0).left()) == {
        "failed": "not measured: no time left"
    }
    assert Deadline(100).left(reserve=1000) == 0


def test_figures_are_kept_as_they_come_and_only_for_the_same_conditions(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Kept(path, {"machine": "a"}).put("x", {"load": 1.5, "failed": "ended by SIGSEGV"})
    assert Kept(path, {"machine": "a"}).get("x") == {"load": 1.5, "failed": "ended by SIGSEGV"}
    assert Kept(path, {"machine": "b"}).get("x") is None
    path.write_text(path.read_text()[:-20])
    assert Kept(path, {"machine": "a"}).get("x") is None, "cut short"


ROWS: list[dict[str, Any]] = [
    {"runtime": "transformers", "precision": "fp32", "load": 4.0, "first_word": 3.0, "disk": 10**9},
    {"runtime": "transformers", "precision": "bf16", "load": 2.0, "failed": "ended by SIGSEGV"},
    {"runtime": "blip2-chat", "precision": "int8", "failed": "conversion: longer than 120 s"},
]


def test_a_failed_runtime_is_a_row_that_says_so(tmp_path: Path) -> None:
    results = {"model": "x", "machine": {"cores": 2}, "runs": ROWS}
    for shown in (full_size.short_table(results), full_size.long_table(results)):
        assert "| transformers bf16 |" in shown and "| – |" in shown
        assert "transformers bf16 (ended by SIGSEGV)" in shown
        assert "blip2-chat int8 (conversion: longer than 120 s)" in shown
    assert "2 s (2.0×)" in full_size.long_table(results)
    full_size.plot(results, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("not measured") >= 8


def test_a_failed_loop_or_server_is_a_row_that_says_so() -> None:
    loop = {"model": "m", "by": "loop", "failed": "longer than 150 s"}
    run = {"model": "m", "by": "run", "per_minute": 30.0, "precision": "int4", "batch": 9, "cpu_seconds": 1.0}
    rows = run_throughput.rows_of([loop, {**run, "peak_memory": 10**9}])
    assert rows[0][2] == "could not be measured: longer than 150 s"
    assert rows[1][2] == "30", "nothing to compare with"
    assert "longer than 9 s" in run_throughput.memory_line({"failed": "longer than 9 s"})
    assert "failed with code 1" in serve_load.table([{"model": "m", "failed": "failed with code 1"}])


@pytest.mark.slow
def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    """The whole of it on a tiny shape: killed after the first runtime, the others are measured by the next call."""
    command = [sys.executable, "-m", "benchmarks.full_size", "--quick", "--work", str(tmp_path)]
    command += ["--only", "transformers-fp32", "blip2-chat-fp32", "blip2-chat-int8"]
    kept = tmp_path / "full_size.json"
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not kept.exists() and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    first.wait()
    before = json.loads(kept.read_text())["figures"]
    assert list(before) == ["transformers-fp32"]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0 and "measured before" in second.stderr
    after = json.loads(kept.read_text())["figures"]
    assert after["transformers-fp32"] == before["transformers-fp32"]
    assert list(after) == ["transformers-fp32", "blip2-chat-fp32", "blip2-chat-int8"]
    for figures in after.values():
        wanted = {"load", "encode", "first_word", "per_word", "follow_up", "peak_memory", "disk"}
        assert wanted | {"bandwidth", "share_of_limit"} <= figures.keys() and "failed" not in figures
