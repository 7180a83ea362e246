"""Maps over pictures: stretched, coloured, and as a notebook shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..display import attribution_html
from ..engines.engine import Floats

# Pixels of the longer side, in a notebook.
_SHOWN = 384
_SMALL = 112  # of a word's


@dataclass(frozen=True, eq=False)
class WordAttribution:
    """What a word of an answer depends on: `heat`, float32 [H, W] from 0 to 1, over the upright picture.

    `strength`: how much it depends on the picture, relative to the word that does so most, 0 to 1: little for the
    words that the language model could have guessed.
    """

    word: str
    heat: Floats
    strength: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """What an answer depends on: `heat`, float32 [H, W] from 0 to 1, over the upright picture. `question` is None for
    a caption. `words`: the same for each word, where that was asked for."""

    picture: Image.Image
    heat: Floats
    question: str | None
    answer: str
    words: tuple[WordAttribution, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture with `heat` over it."""
        return overlay(self.picture, self.heat)

    @property
    def html(self) -> str:
        """The picture with `heat` over it, question and answer, and each word coloured by its strength, with a
        small picture of what it depends on."""
        return attribution_html(
            overlay(self.picture, self.heat, _SHOWN),
            self.question,
            self.answer,
            [(one.word, one.strength, overlay(self.picture, one.heat, _SMALL)) for one in self.words],
        )

    def _repr_html_(self) -> str:
        return self.html


def stretched(heat: Floats, width: int, height: int) -> Floats:
    """A map [S, S] over the whole of a picture -> [height, width]."""
    image = Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(image, np.float32), 0, 1)


def coloured(heat: Floats, width: int, height: int, most: int = 512) -> Image.Image:
    """A map [S, S] as an RGBA picture to lie over one of that size, at most `most` pixels on its longer side: red,
    and as opaque as the place is hot."""
    scale = min(1.0, most / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    alpha = (255 * stretched(heat, *size)).round().astype(np.uint8)
    image = Image.new("RGBA", size, (230, 60, 20, 0))
    image.putalpha(Image.fromarray(alpha))
    return image


def overlay(picture: Image.Image, heat: Floats, most: int | None = None) -> Image.Image:
    """The picture with what the answer depends on in colour, and the rest in grey; `most` pixels on its longer side.

    Colour is light where the map is 0, and red where it is 1; the picture shows through everywhere.
    """
    picture = picture.convert("RGB")
    if most is not None:
        picture = picture.copy()
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    strength = stretched(heat, *picture.size)[..., None]
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.7 + 40
    # From yellow to red with the heat, as thick as it is hot.
    colour = np.concatenate([np.full_like(strength, 255), 200 * (1 - strength), 40 * (1 - strength)], axis=2)
    thickness = 0.65 * strength
    mixed = np.asarray(picture, np.float32) * strength + grey * (1 - strength)
    return Image.fromarray((mixed * (1 - thickness) + colour * thickness).round().astype(np.uint8))
