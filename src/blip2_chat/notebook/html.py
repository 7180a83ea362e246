"""HTML and PNG of pictures, answers and conversations, as a notebook shows them at the end of a cell.

Plain elements with few inline styles and no colours of their own: they look right on light and dark pages, and
where a page strips styles (GitHub does) they still read well. All text is escaped.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from ..answers import Answer
    from ..chat import Chat, Turn
    from ..images import Picture

# Pixels of the longer side; a notebook is saved with every picture it shows.
_SHOWN = 384


def picture_png(picture: Picture, side: int) -> bytes:
    """The picture as a PNG file, at most `side` pixels on its longer side."""
    return _file(_shrunk(picture, side), "png")


def picture_url(picture: Picture, side: int = _SHOWN) -> str:
    """The picture, made smaller, as a `data:` URL: PNG where it has few colours, JPEG where that is smaller."""
    image = _shrunk(picture, side)
    files = {"png": _file(image, "png"), "jpeg": _file(image, "jpeg", quality=88)}
    kind = min(files, key=lambda one: len(files[one]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind]).decode('ascii')}"


def answer_html(answer: Answer) -> str:
    """The text, how long it took, and the further answers if several were asked for."""
    took = f"{answer.seconds:.1f} s" if answer.seconds >= 0.1 else f"{answer.seconds * 1000:.0f} ms"
    about = f"{len(answer.tokens)} tokens in {took}"
    if answer.finish_reason != "stop":
        about += {"length": ", cut at max_new_tokens", "interrupted": ", interrupted"}[answer.finish_reason]
    others = "".join(f"<li>{_text(other)}</li>" for other in answer.others)
    return (
        f'<div class="blip2-answer"><strong>{_text(answer)}</strong> <small style="opacity:.65">{about}</small>'
        + (f"<ol start=2>{others}</ol>" if others else "")
        + "</div>"
    )


def chat_html(chat: Chat) -> str:
    """The picture with its captions under it, and the questions with their answers."""
    captions = [turn for turn in chat.turns if turn.question is None]
    said = [turn for turn in chat.turns if turn.question is not None]
    alt = _words(captions[-1]) if captions else chat.picture.name
    under = "<br>".join(escape(_words(turn)) for turn in captions) or escape(chat.picture.name)
    rows = "".join(
        f'<p style="margin:0 0 .7em"><span style="opacity:.75">{escape(turn.question or "")}</span><br>'
        f"<strong>{_text(turn.answer)}</strong></p>"
        for turn in said
    )
    return (
        '<div class="blip2-chat" style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        '<figure style="margin:0;max-width:100%">'
        f'<img src="{picture_url(chat.picture)}" alt="{escape(alt)}" style="max-width:100%;border-radius:4px">'
        f'<figcaption style="max-width:24em"><em>{under}</em></figcaption></figure>'
        + (f'<div style="flex:1 1 16em">{rows}</div>' if said else "")
        + "</div>"
    )


def _shrunk(picture: Picture, side: int) -> Image.Image:
    """At most `side` pixels on its longer side; never larger than it is."""
    image = picture.image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _file(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind.upper(), optimize=True, **options)
    return file.getvalue()


def _words(turn: Turn) -> str:
    """A caption, whole: its start and what the model went on with."""
    return f"{turn.start} {turn.text}".strip()


def _text(answer: Answer) -> str:
    return escape(answer.text) or "<i>(nothing)</i>"
