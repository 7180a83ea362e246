"""Drawings for tests of the training, in place of the picture sets, which have to be downloaded."""

from __future__ import annotations

import numpy as np

from training.catalog import SETS
from training.icons import ICON_SIZE, IconStore


def discs() -> IconStore:
    """Plain coloured discs instead of the real drawings: six kinds, two training sets and the unseen one."""
    y, x = np.mgrid[0:ICON_SIZE, 0:ICON_SIZE]
    disc = ((x - 64) ** 2 + (y - 64) ** 2 < 60**2).astype(np.uint8) * 255
    unseen = next(i for i, one in enumerate(SETS) if one.held_out)
    drawings, kinds, sets = [], [], []
    for set_index in (0, 1, unseen):
        for kind in range(6):
            drawing = np.zeros((ICON_SIZE, ICON_SIZE, 4), np.uint8)
            drawing[..., kind % 3] = 60 + 20 * kind
            drawing[..., 3] = disc
            drawings.append(drawing)
            kinds.append(kind)
            sets.append(set_index)
    return IconStore(np.stack(drawings), np.array(kinds), np.array(sets))
