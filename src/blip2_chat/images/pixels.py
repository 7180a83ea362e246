"""From RGB pictures to the model's input, with exactly the same numbers as transformers' BLIP-2 processor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import CheckpointError, PictureError
from ..system.small_files import MissingFileError, read_json
from .picture import Picture, open_picture

Triple = tuple[float, float, float]

_PROCESSOR_FILE = "processor_config.json"
_IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_SWITCHES = ("do_resize", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class Preprocess:
    """How a checkpoint preprocesses pictures. The defaults are those of transformers' BlipImageProcessor.

    size: (height, width) in pixels; the aspect ratio is not kept.
    mean, std: per channel RGB, on the scale after `rescale_factor`.
    resample: one of `PIL.Image.Resampling`, by number.
    """

    size: tuple[int, int] = (384, 384)
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    std: Triple = (0.26862954, 0.26130258, 0.27577711)
    rescale_factor: float = 1 / 255
    resample: int = int(Image.Resampling.BICUBIC)
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Preprocess:
        """Read a checkpoint folder as transformers does.

        The "image_processor" part of processor_config.json (written by transformers 5) comes first, then
        preprocessor_config.json; absent or null keys keep the defaults above. Raises CheckpointError for
        a folder with neither, unreadable JSON, or settings a BLIP-2 vision tower cannot use.
        """
        root = Path(folder)
        combined = _read_object(root / _PROCESSOR_FILE).get("image_processor")
        if combined is not None:
            return cls._from_settings(combined, root / _PROCESSOR_FILE)
        path = root / _IMAGE_PROCESSOR_FILE
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; copy it from the model's repository", path=path)
        return cls._from_settings(_read_object(path), path)

    @classmethod
    def for_model(cls, folder: Path, image_size: int) -> Preprocess:
        """`from_folder` for a model with inputs of `image_size` pixels; CheckpointError also if the settings
        are those of another model."""
        preprocess = cls.from_folder(folder)
        if not preprocess.do_resize:
            raise CheckpointError(
                f"{folder} says that pictures are not resized (do_resize), and its model takes those of "
                f"{image_size} x {image_size} pixels: copy its picture settings again from the model's repository",
                path=folder,
            )
        if preprocess.size != (image_size, image_size):
            height, width = preprocess.size
            raise CheckpointError(
                f"{folder} makes pictures {width} x {height} pixels large, and its model is for {image_size} x "
                f"{image_size}: take config.json and preprocessor_config.json from the same checkpoint",
                path=folder,
            )
        return preprocess

    @classmethod
    def _from_settings(cls, settings: Any, path: Path) -> Preprocess:
        if not isinstance(settings, dict):
            raise _unusable(path, "image_processor", settings)
        given = {key: value for key, value in settings.items() if value is not None}
        for key in ("do_center_crop", "do_pad"):
            if given.get(key, False) is not False:
                raise _unusable(path, key, given[key])
        fields: dict[str, Any] = {}
        if "size" in given:
            fields["size"] = _size(given["size"], path)
        for key, field in (("image_mean", "mean"), ("image_std", "std")):
            if key in given:
                fields[field] = _triple(given[key], key, path)
        if 0.0 in fields.get("std", ()):
            raise _unusable(path, "image_std", given["image_std"])
        if "rescale_factor" in given:
            if not _is_number(given["rescale_factor"]):
                raise _unusable(path, "rescale_factor", given["rescale_factor"])
            fields["rescale_factor"] = float(given["rescale_factor"])
        if "resample" in given:
            known = [int(filter_) for filter_ in Image.Resampling]
            if not _is_whole(given["resample"]) or given["resample"] not in known:
                raise _unusable(path, "resample", given["resample"])
            fields["resample"] = given["resample"]
        for key in _SWITCHES:
            if key in given:
                if not isinstance(given[key], bool):
                    raise _unusable(path, key, given[key])
                fields[key] = given[key]
        return cls(**fields)


def to_pixels(picture: Picture | Image.Image, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """The model's input for one picture: float32 [1, 3, H, W], channels RGB.

    A plain PIL image is first opened with `open_picture` (and raises its PictureError).

    Equal to `Blip2Processor` with transformers' PIL backend (BlipImageProcessorPil, what transformers 5
    uses without torchvision and what BLIP-2's results were made with). Its torchvision backend resizes
    with torch's bicubic in place of Pillow's, whose rounding differs by a level or so of 255 per pixel.
    """
    return to_pixels_batch([picture], preprocess)


def to_pixels_batch(
    pictures: Sequence[Picture | Image.Image], preprocess: Preprocess
) -> npt.NDArray[np.float32]:
    """As `to_pixels`, for N >= 1 pictures: float32 [N, 3, H, W].

    Raises PictureError if there is no picture, or if resizing is off and their sizes differ.
    """
    if not pictures:
        raise PictureError("there is no picture in the batch; give at least one", fault="missing")
    planes = [_planes(open_picture(picture).image, preprocess) for picture in pictures]
    sizes = {plane.shape for plane in planes}
    if len(sizes) > 1:
        raise PictureError(
            "the pictures of a batch have different sizes and this checkpoint does not resize; "
            "give one at a time",
            fault="unsupported",
        )
    return np.stack(planes)


def _planes(image: Image.Image, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """One RGB image as float32 [3, H, W], with the operations, precision and order of the reference."""
    if preprocess.do_resize:
        height, width = preprocess.size
        image = image.resize((width, height), Image.Resampling(preprocess.resample))
    levels: npt.NDArray[np.uint8] = np.asarray(image)
    if preprocess.do_rescale:
        scaled: npt.NDArray[np.float64] = levels.astype(np.float64) * preprocess.rescale_factor
        values = scaled.astype(np.float32)
    else:
        values = levels.astype(np.float32)
    if preprocess.do_normalize:
        mean: npt.NDArray[np.float32] = np.array(preprocess.mean, np.float32)
        std: npt.NDArray[np.float32] = np.array(preprocess.std, np.float32)
        values = (values - mean) / std
    return values.transpose(2, 0, 1)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file."""
    try:
        value = read_json(path)
    except MissingFileError:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds no JSON object; copy it again from the model's repository", path=path
        )
    return value


def _size(value: Any, path: Path) -> tuple[int, int]:
    if isinstance(value, dict):
        sides: list[Any] = [value.get("height"), value.get("width")]
    elif isinstance(value, list):
        sides = value
    else:
        sides = [value, value]
    if len(sides) != 2 or not all(_is_whole(side) and side > 0 for side in sides):
        raise _unusable(path, "size", value)
    height, width = sides
    return height, width


def _triple(value: Any, key: str, path: Path) -> Triple:
    parts = value if isinstance(value, list) else [value] * 3
    if len(parts) != 3 or not all(_is_number(part) for part in parts):
        raise _unusable(path, key, value)
    return float(parts[0]), float(parts[1]), float(parts[2])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _unusable(path: Path, key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{path}: {key} is {json.dumps(value)[:80]}, which BLIP-2 cannot use; "
        "copy the file again from the model's repository",
        path=path,
    )
