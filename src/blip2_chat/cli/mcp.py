"""`blip2-chat mcp`"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MissingExtraError
from .display.terminal import note
from .options import ModelOptions

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from ..agents.pictures import Pictures


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
    index: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX",
            help="Offer a search, too, in this index, which `blip2-chat index` made, and match texts with its model.",
        ),
    ] = None,
    match_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Match texts with pictures, too, with this retrieval model: a folder, or a name such as "
            "Salesforce/blip2-itm-vit-g.",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP on 127.0.0.1 instead of stdin and stdout.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port for --http; the path is /mcp.")
    ] = 8001,
) -> None:
    """Offer tools to agents (MCP): caption, ask, match, search.

    They speak the Model Context Protocol. Hosts such as Claude Desktop, Claude Code and VS Code start this command
    and talk to it through stdin and stdout.
    """
    if find_spec("mcp") is None:
        raise MissingExtraError("mcp", "mcp")
    from ..agents.loading import Loading
    from ..agents.pictures import Pictures
    from ..agents.tools import make_server

    if index is not None and find_spec("lancedb") is None:
        raise MissingExtraError("mcp --index", "search")
    pictures = Pictures(root or [], model.picture_limits())
    server = make_server(Loading(lambda progress: model.load(progress)), pictures)
    loading = {"threads": model.threads, "force": model.force, "limits": model.picture_limits()}
    if index is not None:
        _add_index(server, pictures, index, match_model, loading)
    elif match_model is not None:
        _add_match(server, pictures, match_model, loading)
    if not http:
        server.run("stdio")
        return
    note(f"MCP at http://127.0.0.1:{port}/mcp")
    # A picture of 20 MiB as base64, and what is around it.
    server.run("streamable-http", host="127.0.0.1", port=port, max_request_body_size=32 * 1024 * 1024)


def _add_index(
    server: MCPServer, pictures: Pictures, index: str, model: str | None, loading: dict[str, Any]
) -> None:
    from ..agents.finding import add_match, add_search
    from ..agents.loading import Loading
    from ..search.index import Index

    opened = Loading(lambda progress: Index.open(index, model, on_progress=progress, **loading))
    add_match(server, opened, pictures)
    add_search(server, opened, pictures)


def _add_match(server: MCPServer, pictures: Pictures, model: str, loading: dict[str, Any]) -> None:
    from ..agents.finding import add_match
    from ..agents.loading import Loading
    from ..retriever_loading import load_retriever

    add_match(
        server, Loading(lambda progress: load_retriever(model, on_progress=progress, **loading)), pictures
    )
