"""A picture reduced to what answers need of it, made in any thread before the model has time for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .advice import Advice, advise
from .picture import Picture
from .pixels import Preprocess, to_pixels


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """What is left of a `Picture` for one model.

    name, digest: the picture's. size: its width and height. pixels: float32 [1, 3, H, W], the model's input.
    advice: what about the picture may make answers worse.
    """

    name: str
    digest: str
    size: tuple[int, int]
    pixels: npt.NDArray[np.float32]
    advice: tuple[Advice, ...] = ()


def prepare(picture: Picture, preprocess: Preprocess) -> PreparedPicture:
    """Resizes, normalises and judges a picture; the picture itself need not be kept."""
    pixels = to_pixels(picture, preprocess)
    return PreparedPicture(picture.name, picture.digest, picture.image.size, pixels, tuple(advise(picture)))
