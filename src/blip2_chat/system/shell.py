"""Commands for a user to paste, made of names that come from files."""

from __future__ import annotations

import shlex
import subprocess
import sys


def python_command(code: str, *arguments: str) -> str:
    """`python -c CODE ARGUMENTS`, for this system's shell.

    `code` is ours: it holds no name (those are its arguments), no double quote and nothing that shells expand. A name
    with control characters cannot be shown, let alone pasted: it is asked for instead.
    """
    return f'python -c "{code}" {" ".join(map(quoted, arguments))}'


def quoted(text: str) -> str:
    """One word of a command."""
    if not text.isprintable():
        return "NAME (which holds control characters; rename it first)"
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)
