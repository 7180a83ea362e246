"""From a picture's address in a page to the picture: only files below a folder, and remote ones only on demand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from ..errors import Parameter, PictureError
from ..images import PictureLimits
from ..images.naming import one_line, url_name
from ..images.public_addresses import is_public

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


@dataclass(frozen=True)
class Addresses:
    """root: the folder of the site, which no picture may be outside of. limits: of the pictures. is_remote: fetch
    pictures from the network; is_allowed: those of such IP addresses only, because a page may name anything.
    """

    root: Path
    limits: PictureLimits
    is_remote: bool = False
    is_allowed: Callable[[str], bool] = is_public

    def resolved(self, address: str, page: Path, base: str = "") -> str:
        """A path, an http(s) or a data: URL, for `open_picture`. Raises `PictureError`."""
        address = re.sub(r"[\t\n\r]", "", address.strip())
        if address[:5].lower() == "data:":
            return address
        joined = urljoin(base, address) if base else address
        if joined.startswith("//"):
            joined = f"https:{joined}"
        scheme = _SCHEME.match(joined)
        if scheme and scheme[1].lower() in ("http", "https"):
            if not self.is_remote:
                raise PictureError(
                    f"{url_name(joined)} is on the network; ",
                    Parameter("remote", True),
                    " fetches such pictures",
                    name=url_name(joined),
                    fault="refused",
                )
            return joined
        if scheme:
            raise PictureError(
                f"{one_line(joined)} is neither a path nor an http(s) address",
                name=one_line(joined),
                fault="refused",
            )
        return self._local(unquote(urlsplit(joined).path), page)

    def _local(self, path: str, page: Path) -> str:
        folder = self.root if path.startswith("/") else page.parent
        inside = os.path.realpath(self.root)
        try:
            found = os.path.realpath(folder / path.lstrip("/"))
            is_inside = os.path.commonpath([inside, found]) == inside
        except ValueError:  # a NUL in it, or another drive
            is_inside = False
        if not is_inside:
            raise PictureError(
                f"{one_line(path)} is outside of {one_line(str(self.root))}; give the folder of the whole site as ",
                Parameter("root"),
                name=one_line(path),
                fault="refused",
            )
        return found

    def picture_limits(self) -> PictureLimits:
        return replace(self.limits, allow_urls=self.is_remote, check_address=self._require_allowed)

    def _require_allowed(self, address: str) -> None:
        """Whoever wrote the page may not make this machine ask what only it can reach."""
        if not self.is_allowed(address):
            raise PictureError(f"{address} is not on the public internet", name=address, fault="refused")
