"""The drawings of every thing, ready to be placed in scenes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .catalog import SETS

ICON_SIZE = 128
# the fetched sets and the drawings made of them; a long run keeps them outside of any checkout
DATA = Path(os.environ.get("BLIP2_TRAINING_DATA") or Path(__file__).parent / "data")
ICONS_FILE = DATA / "icons.npz"


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Crop to what is drawn, then scale and centre it in a transparent square.

    Sets leave different margins around their drawings; without this a thing's size in a scene would
    depend on its set.
    """
    box = picture.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    picture = picture.crop(box)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGBA", (size, size))
    square.paste(
        picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2)
    )
    return square


@dataclass(frozen=True)
class IconStore:
    """All drawings with the kind and the set (drawing style) of each."""

    drawings: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    sets: NDArray[np.int64]

    @staticmethod
    def load(path: Path = ICONS_FILE) -> IconStore:
        with np.load(path) as data:
            return IconStore(data["drawings"], data["kinds"].astype(np.int64), data["sets"].astype(np.int64))

    def table(self, held_out: bool) -> dict[int, dict[int, list[int]]]:
        """Set → kind → drawings, of the sets training sees or of the one it never sees."""
        result: dict[int, dict[int, list[int]]] = {}
        for index, (kind, set_index) in enumerate(zip(self.kinds.tolist(), self.sets.tolist(), strict=True)):
            if SETS[set_index].held_out == held_out:
                result.setdefault(set_index, {}).setdefault(kind, []).append(index)
        return result

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.drawings[index], "RGBA")

    def silhouette(self, index: int) -> Image.Image:
        """A mask of the drawing and of all that its lines enclose."""
        return _silhouette(self.drawings[index].tobytes())


@lru_cache(maxsize=1000)
def _silhouette(drawing: bytes) -> Image.Image:
    alpha = Image.frombytes("RGBA", (ICON_SIZE, ICON_SIZE), drawing).getchannel("A")
    framed = Image.new("L", (ICON_SIZE + 2, ICON_SIZE + 2))
    framed.paste(alpha.point(lambda a: 255 if a > 100 else 0), (1, 1))
    outside = 77
    ImageDraw.floodfill(framed, (0, 0), outside)
    return framed.crop((1, 1, ICON_SIZE + 1, ICON_SIZE + 1)).point(lambda a: 0 if a == outside else 255)
