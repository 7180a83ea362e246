"""Everything that is measured on a CPU, one after the other, on a machine that does nothing else.

    python -m benchmarks              # make bench; 10 to 20 minutes, 22 GB of memory and 31 GB of disk on 2 cores

opt-2.7b's true shape in every runtime, whole collections, and the server under load. docs/*.json, the plot and the
tables in the documents are rewritten. It ends within 20 minutes (`--minutes`): what does not fit becomes a row that
says so. Interrupted, the same command resumes from the folder bench-work, which is removed at the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from .child import Deadline, run_bounded
from .documents import ROOT

WORK = ROOT / "bench-work"
# Of 20 minutes, what is set aside for the parts that come later. A runtime without fast kernels for this processor
# (bfloat16 and bitsandbytes' int8 on AVX2) takes its whole bound.
STEPS = (("full_size", 7 / 20), ("run_throughput", 3 / 20), ("serve_load", 0.5 / 20))
# Seconds that a step has to write its tables after its own deadline.
_GRACE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="every benchmark of a CPU; see docs/benchmark.md")
    parser.add_argument("--minutes", type=float, default=20, help="for all of it")
    seconds = 60 * parser.parse_args().minutes
    deadline = Deadline(seconds)
    failed = []
    for name, later in STEPS:
        left = deadline.left(later * seconds)
        options = ["--seconds", f"{left:.0f}", *(() if name == "serve_load" else ("--work", str(WORK)))]
        why = run_bounded([sys.executable, "-m", f"benchmarks.{name}", *options], left + _GRACE)
        if why:
            failed.append(f"{name}: {why}")
    # Kept where a step failed: what it had measured is not measured again.
    if not failed:
        shutil.rmtree(WORK, ignore_errors=True)
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    main()
