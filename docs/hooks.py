"""Pages that MkDocs builds in addition to the files of this folder, from files of the repository and from the code.

`index.md` is README.md; `changelog.md`, `contributing.md`, `model-card.md` and `security.md` are the files of that
name; `cli.md` is the `--help` of each command; and `api.md` lists the public names, whose docstrings mkdocstrings
renders.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/blip2-chat/blip2-chat/blob/main"
# Files outside docs/ that become pages, and the pictures in them.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "MODEL_CARD.md": "model-card.md",
    "SECURITY.md": "security.md",
}
PICTURES = {"training/loss_curve.png": "loss_curve.png"}
_LINK = re.compile(r"(\]\()(?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    for name, content in {**pages, "cli.md": command_line(), "api.md": python()}.items():
        files.append(File.generated(config, name, content=relink(content, "") if name in pages else content))
    for source, name in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    generated = page.file.generated_by is not None
    return markdown if generated else relink(markdown, "docs")


def relink(markdown: str, folder: str) -> str:
    """Rewrites the links of a file in `folder` of the repository: to pages of the site, otherwise to the repository.
    A link to a file that does not exist is left unchanged, so that MkDocs reports it."""

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        anchor = match[3] or ""
        if (page := {**PAGES, **PICTURES}.get(path)) is not None:
            return f"{match[1]}{page}{anchor})"
        if path.startswith("docs/") and not path.endswith(".json"):
            return f"{match[1]}{path.removeprefix('docs/')}{anchor})"
        there = (ROOT / path.replace("%5B", "[").replace("%5D", "]")).exists()
        return f"{match[1]}{REPOSITORY}/{path}{anchor})" if there else match[0]

    return _LINK.sub(target, markdown)


def command_line() -> str:
    """Every command's `--help`."""
    import typer.main

    from blip2_chat.cli import app

    top = typer.main.get_command(app)
    parts = ["# The command line\n", "The `--help` of each command.\n"]

    def add(command: Any, name: str, parent: Any = None) -> None:
        settings = {**command.context_settings, "terminal_width": 80}
        context = command.context_class(command, info_name=name, parent=parent, **settings)
        title = context.command_path
        parts.append(f"## {title}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
        for key in getattr(command, "commands", {}):
            add(command.commands[key], key, context)

    add(top, "blip2-chat")
    return "\n".join(parts)


def python() -> str:
    """The public names, in the order in which the package lists them, `load` first."""
    import blip2_chat

    names = [name for name in blip2_chat.__all__ if not name.startswith("_")]
    names.sort(key=lambda name: (name != "load", name.endswith("Error")))
    parts = ["# Python\n", "Everything that `import blip2_chat` offers.\n"]
    return "\n".join([*parts, *(f"::: blip2_chat.{name}\n" for name in names)])
