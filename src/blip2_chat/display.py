"""HTML and PNG of pictures, answers and conversations, as a notebook shows them at the end of a cell.

Plain elements with few inline styles and no colours of their own: they look right on light and dark pages, and
where a page strips styles (GitHub does) they still read well. All text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

# Pixels of the longer side; a notebook is saved with every picture it shows.
_SHOWN = 384


@dataclass(frozen=True)
class ShownAnswer:
    """An answer in plain values: its text, how many tokens it has, and the seconds they took.

    finish_reason: "stop", "length" or "interrupted". others: the texts of the further answers, best first.
    """

    text: str
    tokens: int
    seconds: float
    finish_reason: str
    others: Sequence[str] = ()


def picture_png(image: Image.Image, side: int) -> bytes:
    """The picture as a PNG file, at most `side` pixels on its longer side."""
    return _file(_shrunk(image, side), "png")


def picture_url(image: Image.Image, side: int = _SHOWN) -> str:
    """The picture, made smaller, as a `data:` URL: PNG where it has few colours, JPEG where that is smaller."""
    image = _shrunk(image, side)
    files = {"png": _file(image, "png"), "jpeg": _file(image, "jpeg", quality=88)}
    kind = min(files, key=lambda one: len(files[one]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind]).decode('ascii')}"


def answer_html(answer: ShownAnswer) -> str:
    """The text, how long it took, and the further answers if several were asked for."""
    took = f"{answer.seconds:.1f} s" if answer.seconds >= 0.1 else f"{answer.seconds * 1000:.0f} ms"
    about = f"{answer.tokens} tokens in {took}"
    if answer.finish_reason != "stop":
        about += {"length": ", cut at max_new_tokens", "interrupted": ", interrupted"}[answer.finish_reason]
    others = "".join(f"<li>{_text(other)}</li>" for other in answer.others)
    return (
        f'<div class="blip2-answer"><strong>{_text(answer.text)}</strong> <small style="opacity:.65">{about}</small>'
        + (f"<ol start=2>{others}</ol>" if others else "")
        + "</div>"
    )


def chat_html(
    image: Image.Image, name: str, captions: Sequence[str], exchanges: Sequence[tuple[str, str]]
) -> str:
    """The picture with its captions (else its name) under it, and the questions with their answers."""
    alt = captions[-1] if captions else name
    under = "<br>".join(map(escape, captions)) or escape(name)
    rows = "".join(
        f'<p style="margin:0 0 .7em"><span style="opacity:.75">{escape(question)}</span><br>'
        f"<strong>{_text(answer)}</strong></p>"
        for question, answer in exchanges
    )
    return (
        '<div class="blip2-chat" style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        '<figure style="margin:0;max-width:100%">'
        f'<img src="{picture_url(image)}" alt="{escape(alt)}" style="max-width:100%;border-radius:4px">'
        f'<figcaption style="max-width:24em"><em>{under}</em></figcaption></figure>'
        + (f'<div style="flex:1 1 16em">{rows}</div>' if exchanges else "")
        + "</div>"
    )


def attribution_html(
    image: Image.Image,
    question: str | None,
    answer: str,
    words: Sequence[tuple[str, float, Image.Image]] = (),
) -> str:
    """A picture with what its answer depends on, and question and answer under it.

    words: of each word its strength, 0 to 1, which colours it, and its own small picture.
    """
    asked = "" if question is None else f'<span style="opacity:.75">{escape(question)}</span><br>'
    alt = f"What the answer depends on: {answer}"
    each = "".join(
        '<figure style="margin:0;text-align:center">'
        f'<figcaption><strong style="background:rgba(230,60,20,{0.6 * strength:.2f});padding:0 .25em;'
        f'border-radius:3px">{escape(word)}</strong></figcaption>'
        f'<img src="{picture_url(small)}" alt="{escape(f"What {word} depends on")}" style="border-radius:4px">'
        "</figure>"
        for word, strength, small in words
    )
    return (
        '<figure class="blip2-where" style="margin:0;max-width:100%">'
        f'<img src="{picture_url(image)}" alt="{escape(alt)}" style="max-width:100%;border-radius:4px">'
        f"<figcaption>{asked}<strong>{_text(answer)}</strong></figcaption>"
        + (f'<div style="display:flex;flex-wrap:wrap;gap:.6em;margin-top:.6em">{each}</div>' if each else "")
        + "</figure>"
    )


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """At most `side` pixels on its longer side; never larger than it is."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _file(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind.upper(), optimize=True, **options)
    return file.getvalue()


def _text(answer: str) -> str:
    return escape(answer) or "<i>(nothing)</i>"
