"""Imports point one way: from what people use down to what it is made of. Lazy and type-only imports count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blip2_chat

PACKAGE = Path(blip2_chat.__file__).parent
# The top of the package, which names what is public and imports it when it is asked for, is above everything.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


def imported(name: str) -> Iterator[str]:
    """The modules of this package that a module imports anywhere in its text."""
    path = MODULES[name]
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            start = ".".join(
                [*[part for part in folder if part][: len(folder) - node.level + 1], node.module or ""]
            )
        elif (node.module or "").split(".")[0] == "blip2_chat":
            start = (node.module or "").removeprefix("blip2_chat").removeprefix(".")
        else:
            continue
        for alias in node.names:
            inner = f"{start.rstrip('.')}.{alias.name}".lstrip(".")
            target = inner if inner in MODULES else start.rstrip(".")
            assert target in MODULES, f"{name} imports {target or 'nothing'}, which is not there"
            if target != name:
                yield target


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of names each of which reaches all others of its group."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in arrows.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {name: reached(name) for name in arrows}
    found = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in arrows if a in reach[a]}
    return [set(group) for group in found]


def arrows_between_folders(depth: int) -> dict[str, set[str]]:
    """Imports between the folders `depth` levels down (a module that is in none of them stands for itself)."""
    arrows: dict[str, set[str]] = {}
    for name in MODULES:
        if name == "":
            continue  # the package's own top may import anything, lazily
        for target in imported(name):
            here, there = (".".join(one.split(".")[:depth]) for one in (name, target))
            if here != there and there:
                arrows.setdefault(here, set()).add(there)
    return arrows


def test_no_module_imports_one_that_imports_it() -> None:
    arrows = {name: set(imported(name)) for name in MODULES if name}
    assert circles(arrows) == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_folder_imports_one_that_imports_it(depth: int) -> None:
    assert circles(arrows_between_folders(depth)) == []


def test_no_module_imports_the_package_itself() -> None:
    assert [name for name in MODULES if "" in imported(name)] == []


def test_the_checker_finds_a_circular_import() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
