"""From a caption to an alternative text."""

from __future__ import annotations

import re

# Screen readers say "image" before the text, and some stop after about so many characters.
MOST_CHARACTERS = 125
_PREAMBLE = re.compile(
    r"(?:(?:this|there|it)\s+(?:is|are)\s+|(?:this|the)\s+(?:picture|image|photo)\s+shows\s+)?"
    r"(?:(?:an?|the)\s+)?(?:(?:close[- ]?up|black and white|blurry|old|vintage)\s+)*"
    r"(?:picture|image|photo|photograph|shot|view|close[- ]?up)\s+(?:of|showing|shows)\s+|there\s+(?:is|are)\s+",
    re.IGNORECASE,
)


def alt_text(caption: str) -> str:
    """A caption as alternative text: without "a picture of", without a full stop, beginning with a capital, and
    short."""
    text = " ".join(caption.split())
    text = _PREAMBLE.sub("", text, count=1) if _PREAMBLE.match(text) else text
    text = text.rstrip(" .")
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - 1].rpartition(' ')[0].rstrip(' ,;')}…"
    return text[:1].upper() + text[1:]
