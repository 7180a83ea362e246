"""The losses of a training as an SVG, written by hand: one picture is not worth a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .recipe import Epoch

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 52, 34, 40
_LINES = 4  # of the grid, above the axis
# Colours that are told apart with any colour vision (Okabe and Ito 2008).
_TRAINING, _HELD_OUT, _OLD, _RIGHT_ANSWERS = "#0072b2", "#d55e00", "#e69f00", "#009e73"


def loss_plot(epochs: Sequence[Epoch], kept: Epoch) -> str:
    """Losses (left axis) and the share of right held-out answers (right axis, dashed) by epoch, as SVG. A vertical
    line is at the epoch whose adapter was kept."""
    last = max(1, epochs[-1].number)
    losses = [
        one.loss if place == 0 else score.loss
        for one in epochs
        for place, score in enumerate((one.new, one.new, one.old))
        if score is not None and not (place == 0 and one.loss is None)
    ]
    top = max(value for value in losses if value is not None) * 1.05 or 1.0

    def x(number: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * number / last

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#555">',
        "<title>Loss and accuracy by epoch</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for line in range(_LINES + 1):
        share = line / _LINES
        parts += [
            f'<path d="M{_LEFT} {y(share):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            _text(_LEFT - 6, y(share) + 4, f"{top * share:.2f}", "end"),
            _text(_WIDTH - _RIGHT + 6, y(share) + 4, f"{share:.0%}", "start"),
        ]
    step = max(1, -(-last // 12))
    parts += [_text(x(number), _HEIGHT - _BOTTOM + 16, str(number)) for number in range(0, last + 1, step)]
    parts.append(_text(_WIDTH / 2, _HEIGHT - 6, "epoch"))
    parts.append(
        f'<path d="M{x(kept.number):.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#999" stroke-dasharray="2 3"/>'
    )
    curves: list[tuple[str, str, str, list[tuple[int, float | None]], float]] = [
        ("training loss", _TRAINING, "", [(one.number, one.loss) for one in epochs], top),
        ("held-out loss", _HELD_OUT, "", [(one.number, one.new.loss) for one in epochs], top),
        (
            "old examples' loss",
            _OLD,
            "",
            [(one.number, None if one.old is None else one.old.loss) for one in epochs],
            top,
        ),
        ("right answers", _RIGHT_ANSWERS, "6 4", [(one.number, one.new.accuracy) for one in epochs], 1.0),
    ]
    place = float(_LEFT)
    for name, colour, dashes, values, scale in curves:
        points = [(number, value) for number, value in values if value is not None]
        if not points:
            continue
        path = " ".join(f"{x(number):.1f},{y(value / scale):.1f}" for number, value in points)
        look = f'fill="none" stroke="{colour}" stroke-width="2"' + f' stroke-dasharray="{dashes}"' * bool(
            dashes
        )
        parts.append(f'<polyline points="{path}" {look}/>')
        parts.append(f'<path d="M{place:.0f} 16h22" {look}/>')
        parts.append(_text(place + 28, 20, name, "start"))
        place += 46 + 7 * len(name)
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
