"""What `blip2_chat` exports: each name is there, is documented by its own module, and type checkers see it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import blip2_chat
from blip2_chat import errors

SOURCE = Path(blip2_chat.__file__).read_text("utf-8")


def test_every_exported_name_leads_to_what_has_that_name() -> None:
    assert len(set(blip2_chat.__all__)) == len(blip2_chat.__all__)
    for name in blip2_chat.__all__:
        found = getattr(blip2_chat, name)
        assert name == "__version__" or found.__name__ == name
    assert dir(blip2_chat) == sorted(blip2_chat.__all__)


def test_type_checkers_see_the_same_names() -> None:
    block = next(
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    imported = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == blip2_chat._HOMES


def test_all_errors_are_exported() -> None:
    kinds = {
        kind.__name__ for kind in errors.Blip2ChatError.__subclasses__() if kind.__module__ == errors.__name__
    }
    assert kinds <= set(blip2_chat.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("numpy", "PIL", "onnxruntime", "torch")
    code = f"import sys, blip2_chat; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
