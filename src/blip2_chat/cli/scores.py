"""How `blip2-chat evaluate` shows figures: beside what a paper published, where it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .display.terminal import say

if TYPE_CHECKING:
    from ..evaluation.presets import Published


def scores_entry(figures: Mapping[str, float], source: Mapping[str, Published]) -> dict[str, Any]:
    """The figures and the published ones, for JSON."""
    return {
        "scores": {name: round(value, 2) for name, value in figures.items()},
        "published": {
            name: {"value": one.value, "checkpoint": one.checkpoint, "source": one.source}
            for name, one in source.items()
        },
    }


def say_scores(figures: Mapping[str, float], source: Mapping[str, Published], width: int) -> None:
    """One line for each figure. `width`: of the names."""
    for name, value in figures.items():
        line = f"  {name:<{width}} {value:7.2f}"
        if name in source:
            line += f"   {source[name].value:7.2f}  {source[name].source}, {source[name].checkpoint}"
        say(line)
