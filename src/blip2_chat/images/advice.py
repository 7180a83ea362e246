"""Advice about pictures that may give bad answers: measured, and never an error.

The thresholds were chosen on 27 photographs, scans and drawings (scikit-image's and matplotlib's
samples), unchanged and degraded: exposure lowered by 2 to 5 stops, contrast cut to a half
down to a tenth, Gaussian blur of sigma 1 to 7 pixels at 448 across. The comment at each threshold says what it
caught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from .picture import Picture

AdviceKind = Literal["dark", "washed out", "blurred", "tiny"]

# Light and sharpness are judged at the detail that the model sees: twice the usual 224 pixels, which leaves
# room for the 364-pixel checkpoints and makes the numbers independent of the camera's resolution.
_VIEW = 448
# 95th percentile of luminance. Good pictures: 76 and up, except a star field (52). Caught: all of 27 five
# stops under, 19 four stops under. A percentile and not the mean, so that an object well lit before
# black is fine; the 95th and not the 99th, so that one lamp in a dark room is not light enough.
_DARK = 60
# Range of luminance without the extreme 1 %. Good pictures: 56 and up. Caught: all with a tenth of their
# contrast, half of those with a fifth.
_WASHED_OUT = 45
# Contrast over the steepest step between neighbours, except the 0.05 % of pixels with steeper ones. Good
# pictures: 1 to 3 pixels, except a soft microscope slide (7.8) and a smooth colour gradient (15). Caught:
# 22 of 27 at sigma 5, 18 at sigma 4. Dividing by the contrast keeps faded pictures from counting as
# blurred, as they do by the usual variance of the Laplacian. The shares belong together: anything large
# enough to count in the contrast (0.5 % of the picture) has an outline of more than 0.05 %.
_BLURRED = 9
# At 224 pixels the vision encoder cuts the picture into 16 x 16 patches: below 64 pixels a patch is
# interpolated
# from fewer than 4 x 4 real ones.
_TINY = 64


@dataclass(frozen=True)
class Advice:
    """A problem that may make answers worse: its kind, the measured number, and a line of text with that
    number.

    measured, by kind - "dark": the luminance (0-255) that 95 % of the picture stays below; "washed out":
    the luminance range (0-255) of all but the extreme 1 %; "blurred": the width of the sharpest edges,
    in pixels of the picture shrunk to at most 448 across; "tiny": the shorter side, in pixels.
    """

    kind: AdviceKind
    measured: float
    message: str


def advise(picture: Picture | Image.Image) -> list[Advice]:
    """The advice about a picture; [] if there is none.

    Takes a Picture or an RGB image, upright or not. A picture that is tiny is not judged for blur, and
    one that is dark is not called washed out as well: one cause, one advice.
    """
    image = picture.image if isinstance(picture, Picture) else picture
    found: list[Advice] = []
    side = min(image.size)
    if side < _TINY:
        found.append(
            Advice(
                "tiny",
                float(side),
                f"This picture is tiny: its shorter side is {side} pixels (below {_TINY}). "
                "Answers are better on a larger one.",
            )
        )
    luminance = _view(image)
    low, bright, high = map(float, np.percentile(luminance, (0.5, 95, 99.5)))
    contrast = high - low
    if bright < _DARK:
        found.append(
            Advice(
                "dark",
                bright,
                f"This picture is dark: 95 % of it is below brightness {bright:.0f} of 255 (below {_DARK}). "
                "Answers are better on a well-lit one.",
            )
        )
    elif contrast < _WASHED_OUT:
        found.append(
            Advice(
                "washed out",
                contrast,
                f"This picture is washed out: its brightness spans {contrast:.0f} of 255 "
                f"(below {_WASHED_OUT}). Answers are better with more contrast.",
            )
        )
    width = _edge_width(luminance, contrast)
    if side >= _TINY and width > _BLURRED:
        found.append(
            Advice(
                "blurred",
                width,
                f"This picture is blurred: its sharpest edges are {width:.0f} pixels wide, seen at most "
                f"{_VIEW} across (above {_BLURRED}). Answers are better on a sharp one.",
            )
        )
    return found


def _view(image: Image.Image) -> npt.NDArray[np.float32]:
    """Luminance 0-255, [H, W], of the picture shrunk to at most 448 pixels on its longer side."""
    image = image.convert("L")  # before resizing, which is then a third of the work
    scale = _VIEW / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # Averaging blocks, as a sensor with fewer pixels would: it adds no sharpness.
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)


def _edge_width(luminance: npt.NDArray[np.float32], contrast: float) -> float:
    """Pixels the steepest edges take to cross the picture's contrast; 0 for a picture without edges."""
    across = np.abs(np.diff(luminance, axis=1, append=luminance[:, -1:]))
    down = np.abs(np.diff(luminance, axis=0, append=luminance[-1:]))
    steepest = float(np.percentile(np.maximum(across, down), 99.95))
    # Half a level is the rounding error of a step; it keeps a picture without steps from dividing by 0.
    return contrast / max(steepest, 0.5)
