"""Running the application: binding, and shutting down."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import sys
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from ..errors import Blip2ChatError, Parameter
from ..images import PictureLimits
from ..model import Model
from ..search.index import Index
from .app import make_app
from .middleware.connection import Connection
from .service import Service
from .settings import Settings

# Names of this machine, whatever the bind address.
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


class BindError(Blip2ChatError):
    """An address that cannot be bound to, or should not be without a key."""


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe(host: str, api_key: str | None, insecure: bool) -> None:
    """Raises `BindError` for a public address without a key, unless `insecure`."""
    if api_key is not None and not api_key.strip():
        raise BindError("the API key is empty; give one of some length, such as `openssl rand -hex 24` makes")
    if api_key is not None and not (
        api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()
    ):
        raise BindError(
            "the API key has characters that clients cannot send in a header: give one of ASCII's letters, digits "
            "and signs, without spaces around it"
        )
    if not (is_loopback(host) or api_key is not None or insecure):
        raise BindError(
            f"{host} can be reached by others: give ",
            Parameter("api_key"),
            " (or BLIP2_CHAT_API_KEY) so that only those who have the key are answered, or ",
            Parameter("insecure", True),
            " if everyone may use this model and this machine's time",
        )


def origins(given: Iterable[str]) -> tuple[str, ...]:
    """Origins as browsers send them; `BindError` for what is none."""
    found = []
    for one in given:
        origin = one.strip().lower().rstrip("/")
        parts = urlsplit(origin)
        if origin not in ("*", "null") and (origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc):
            raise BindError(
                Parameter("allowed_origin", one),
                " is not an origin; give one such as https://app.example",
            )
        found.append(origin)
    return tuple(found)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 chooses a free port. `BindError` if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # on Windows it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        # Another port does not help with an invalid name, or with an address of another machine.
        elsewhere = isinstance(error, (socket.gaierror, UnicodeError)) or (
            getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        )
        raise BindError(
            f"{host} port {port} cannot be bound ({reason}); choose another with ",
            Parameter("host" if elsewhere else "port"),
        ) from None
    return listener


def make_server(
    models: Sequence[Model],
    settings: Settings,
    limits: PictureLimits | None = None,
    index: Index | None = None,
) -> tuple[uvicorn.Server, Service]:
    """A server that is not running yet: `server.run(sockets=[...])`. The first of `models` answers requests that
    name none. `limits`: by default those of `settings`. `index`: the pictures that can be searched."""
    service = Service(models, settings, limits, index)
    return serving(make_app(service), settings), service


def serving(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """A server of `app` that is not running yet."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # record.py's lines say less
        server_header=False,
        proxy_headers=False,
        http=Connection,
        # Connections beyond what could be answered wait in the kernel or are refused.
        limit_concurrency=4 * (settings.slots + settings.queue) + 64,
        # SIGTERM: what runs is finished, and no request runs longer than this.
        timeout_graceful_shutdown=int(settings.time_limit) + 5,
        timeout_keep_alive=min(30, int(settings.time_limit)),
    )
    return uvicorn.Server(config)


def log_to_stderr() -> None:
    """One line per request, and what uvicorn has to say."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    for name, level in (("blip2_chat.web", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
