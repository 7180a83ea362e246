"""The benchmark's figures as one picture: time and memory per runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = (
    ("first_word", "first token, s", 1.0),
    ("per_word", "per token, s", 1.0),
    ("follow_up", "first token of a follow-up, s", 1.0),
    ("peak_memory", "peak memory, GB", 1e9),
)
_COLOURS = {"transformers": "#9aa3ad", "blip2-chat": "#2f6fde"}


def plot(results: dict[str, Any], path: Path) -> None:
    """Writes an SVG with a panel of bars for each of the figures people wait for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = results["runs"]
    names = [name_of(row) for row in rows]
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(12, 0.5 * len(rows) + 1.3), sharey=True)
    for axis, (key, title, scale) in zip(axes, _PANELS, strict=True):
        values = [row.get(key, 0) / scale for row in rows]
        bars = axis.barh(names, values, color=[_COLOURS[row["runtime"]] for row in rows])
        labels = [
            f"{value:.3g}" if key in row else "not measured" for row, value in zip(rows, values, strict=True)
        ]
        axis.bar_label(bars, labels, padding=3, fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlim(0, (max(values) or 1) * 1.25)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
        axis.tick_params(left=False)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def name_of(row: dict[str, Any]) -> str:
    bits = " + bitsandbytes" if row["runtime"] == "transformers" and row["precision"] == "int8" else ""
    return f"{row['runtime']}{bits} {row['precision']}"
