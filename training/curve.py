"""The loss curve of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curve(log: Path, target: Path) -> None:
    """Losses above, accuracies of the probes below, over the minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # the backend has to be chosen first

    records = [json.loads(line) for line in log.read_text().splitlines()]
    figure, (losses, shares) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    for key, label in (
        ("scene_loss", "scene heads"),
        ("talk_loss", "conversation"),
        ("caption_loss", "caption"),
    ):
        points = [(record["minutes"], record[key]) for record in records if key in record]
        if points:
            losses.plot(*zip(*points, strict=True), label=label, linewidth=1)
    losses.set_yscale("log")
    losses.set_ylabel("loss")
    losses.legend()
    for key, label in (("slot", "slots"), ("patch", "patches")):
        points = [
            (record["minutes"], record[key]) for record in records if key in record and "probe" not in record
        ]
        if points:
            shares.plot(*zip(*points, strict=True), label=f"{label} right (training pictures)", linewidth=0.8)
    for probed in ("seen", "unseen"):
        points = [
            (record["minutes"], record["single"]) for record in records if record.get("probe") == probed
        ]
        if points:
            shares.plot(*zip(*points, strict=True), marker="o", label=f"answers right ({probed} style)")
    shares.set_xlabel("minutes of training")
    shares.set_ylim(0, 1)
    shares.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(target, dpi=90)
    plt.close(figure)
