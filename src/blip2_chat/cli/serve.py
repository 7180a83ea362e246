"""`blip2-chat serve`"""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError, MissingExtraError, Parameter
from .display.terminal import ProgressBar, note
from .options import MODEL, ModelOptions
from .serve_cluster import ClusterOptions, on_cluster
from .several_models import beside, load_all
from .started import Started
from .wording import PIXELS_OPTION

if TYPE_CHECKING:
    from ..model import Model
    from ..search.index import Index
    from ..web.settings import Settings

_NETWORK = "Network and access"
_LIMITS = "Limits"


def serve(
    *,
    model: ModelOptions,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[+ADAPTER][:PRECISION]",
            help="Serve another model as well, or the same one with a LoRA adapter or at another precision; may be "
            "repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX",
            help="Search the pictures of this index, which `blip2-chat index` made; all of them can be seen by "
            "everyone who reaches the server.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to bind to; others than 127.0.0.1 need --api-key.",
            rich_help_panel=_NETWORK,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Port to bind to; 0 chooses a free one.",
            rich_help_panel=_NETWORK,
        ),
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="BLIP2_CHAT_API_KEY",
            help="Require this key from clients. Prefer the environment variable: other users of this "
            "machine can see command lines.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow binding to a public address without a key.", rich_help_panel=_NETWORK
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Accept this host name in requests as well; may be repeated.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Answer the pages of this site as well, such as https://app.example; * is every site; may be "
            "repeated.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            help="Let clients give pictures as URLs on the public internet.",
            rich_help_panel=_NETWORK,
        ),
    ] = False,
    slots: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=64,
            help="Number of answers generated at the same time.",
            rich_help_panel=_LIMITS,
        ),
    ] = 8,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of requests that may wait; further ones get status 429.",
            rich_help_panel=_LIMITS,
        ),
    ] = 64,
    max_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Maximum length of an answer, in tokens.", rich_help_panel=_LIMITS
        ),
    ] = 256,
    max_picture_mib: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=1024, help="Largest picture file, in MiB.", rich_help_panel=_LIMITS
        ),
    ] = 20,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1, help="Time limit of a request, in seconds.", rich_help_panel=_LIMITS
        ),
    ] = 120,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Write prompts and answers to the log.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    cluster: ClusterOptions,
) -> None:
    """Serve a web page and an OpenAI-compatible API.

    The server listens on localhost by default. Ctrl-C finishes the running requests and stops; a second Ctrl-C stops
    immediately.
    """
    if any(
        find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
    ):
        raise MissingExtraError("serve", "web")
    from ..web.server import LOCAL_NAMES, bind, is_loopback, log_to_stderr, origins, require_safe
    from ..web.settings import MIB, Settings

    if cluster.is_wanted and (also or index):
        raise Blip2ChatError(
            "with ",
            Parameter("ray"),
            " each replica holds one model: leave ",
            Parameter("also" if also else "index"),
            " out",
        )
    others = beside(model, also or [])
    require_safe(host, api_key, insecure)
    listener = bind(host, port)  # before the model, whose loading may take minutes
    names = (*LOCAL_NAMES, host.lower(), *(name.lower() for name in allowed_host or ()))
    settings = Settings(
        api_key=api_key,
        # Where others reach it they use names that are not known here; there the key keeps strangers out.
        allowed_hosts=names if is_loopback(host) or allowed_host else (),
        allowed_origins=origins(allowed_origin or ()),
        allow_urls=allow_urls,
        slots=slots,
        queue=queue,
        max_tokens=max_tokens,
        max_picture_bytes=max_picture_mib * MIB,
        # Base64 takes a third more; and there is text around it.
        max_body_bytes=max_picture_mib * MIB * 3 // 2 + 2 * MIB,
        max_held_bytes=max(256, 8 * max_picture_mib) * MIB,
        max_pixels=(model.max_megapixels or 40) * 1_000_000,
        pixels_option=f"blip2-chat serve {PIXELS_OPTION}",
        time_limit=time_limit,
        log_text=log_text,
    )
    if cluster.is_wanted:
        started = on_cluster(cluster, model, settings, listener.getsockname()[1])
    else:
        started = _here(load_all(model, others), index, settings)
    log_to_stderr()
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    note(f"{' and '.join(started.models)} at {url}")
    ids = " or ".join(f'"{one}"' for one in started.ids)
    for line in started.notes:
        note(line)
    note(f'The page: {url}/   The API: base_url="{url}/v1", model {ids}')
    if insecure and api_key is None and not is_loopback(host):
        note("WARNING: --insecure: everyone who reaches this address can use it; it has no key.")
    if started.is_embedded:
        model.tell_limits("blip2-chat serve --model Salesforce/blip2-opt-2.7b")
    if open_browser:
        webbrowser.open(url)
    try:
        started.server.run(sockets=[listener])
    finally:
        started.close()


def _here(models: Sequence[Model], index: str | None, settings: Settings) -> Started:
    """The models in this process."""
    from ..web.server import make_server

    searched = None if index is None else _opened(index)
    server, service = make_server(models, settings, index=searched)
    notes: tuple[str, ...] = ()
    if searched is not None:
        notes = (f"{len(searched):,} pictures of {index} can be searched, with {searched.retriever.name}",)

    def close() -> None:
        for one in models:
            one.close()
        if searched is not None:
            searched.close()

    return Started(
        server,
        tuple(f"{one.name} ({one.engine.name}, {one.engine.precision})" for one in models),
        tuple(served.id for served in service.models),
        all(served.is_embedded for served in service.models),
        notes,
        close,
    )


def _opened(index: str) -> Index:
    from ..search.index import Index

    with ProgressBar("loading the model of the index") as progress:
        return Index.open(index, on_progress=progress)
