"""One conversion in a process of its own, so that its peak memory can be told."""

from __future__ import annotations

import sys
from pathlib import Path

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import convert
from blip2_chat.system.memory import peak_memory

from .child import tell


def main() -> None:
    source, target, precision = sys.argv[1:]
    convert(inspect(source), Path(target), precision, name="synthetic")
    tell({"convert_memory": peak_memory()})


if __name__ == "__main__":
    main()
