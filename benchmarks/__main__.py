"""Everything that is measured on a CPU, one after the other, on a machine that does nothing else.

    python -m benchmarks              # make bench; about 15 minutes, 22 GB of memory and 30 GB of disk on 2 cores

opt-2.7b's true shape in every runtime, whole collections, and the server under load. docs/*.json, the plot and the
tables in the documents are rewritten.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from .documents import ROOT


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="blip2-chat-bench-") as work:
        for name, *options in (
            ("full_size", "--work", work),
            ("run_throughput", "--work", work),
            ("serve_load",),
        ):
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
