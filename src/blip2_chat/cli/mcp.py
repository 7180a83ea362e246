"""`blip2-chat mcp`"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MissingExtraError
from .display.terminal import note
from .options import ModelOptions


def mcp(
    model: ModelOptions,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder whose pictures may be opened, with all its subfolders; may be repeated. Without it, only "
            "pictures that are sent along (data URLs) are accepted.",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP on 127.0.0.1 instead of stdin and stdout.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port for --http; the path is /mcp.")
    ] = 8001,
) -> None:
    """Offer tools to agents: caption, ask and choose (MCP).

    They speak the Model Context Protocol. Hosts such as Claude Desktop, Claude Code and VS Code start this command
    and talk to it through stdin and stdout.
    """
    if find_spec("mcp") is None:
        raise MissingExtraError("mcp", "mcp")
    from ..agents.pictures import Pictures
    from ..agents.tools import Loading, make_server

    pictures = Pictures(root or [], model.picture_limits())
    server = make_server(Loading(lambda progress: model.load(progress)), pictures)
    if not http:
        server.run("stdio")
        return
    note(f"MCP at http://127.0.0.1:{port}/mcp")
    # A picture of 20 MiB as base64, and what is around it.
    server.run("streamable-http", host="127.0.0.1", port=port, max_request_body_size=32 * 1024 * 1024)
