"""What is written into a picture's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What XML 1.0 cannot hold, not even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class CaptionText:
    """A picture's caption with what belongs to it. Empty texts and keywords are not written.

    description: `dc:description`, in the default language. alt: `Iptc4xmpCore:AltTextAccessibility`.
    tags: keywords, `dc:subject`. model: the name of the model that wrote them; date: when, as ISO 8601.
    """

    description: str = ""
    alt: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        for name in ("description", "alt", "model", "date"):
            object.__setattr__(self, name, in_xml(getattr(self, name)))
        unique = {tag.casefold(): tag for tag in reversed([in_xml(one) for one in self.tags]) if tag}
        object.__setattr__(self, "tags", tuple(reversed(unique.values())))


def in_xml(text: str) -> str:
    """`text` without the characters that XML cannot hold, and without spaces around it."""
    return _NOT_IN_XML.sub("", text).strip()
