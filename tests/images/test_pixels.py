"""The model's input equals transformers' `Blip2Processor` to 1e-5, whatever the picture's size and mode."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from blip2_chat.errors import CheckpointError, PictureError
from blip2_chat.images import Preprocess, open_picture, to_pixels, to_pixels_batch
from tests.support.extras import skip_without

SHAPES = [(1, 1), (1, 10_000), (10_000, 1), (2, 3), (37, 501), (111, 113), (224, 224), (364, 364), (480, 640)]
CASES = [
    *(("RGB", shape) for shape in SHAPES),
    *(("RGBA", shape) for shape in SHAPES[3:]),
    *((mode, (53, 301)) for mode in ("1", "L", "LA", "P", "P transparent", "CMYK", "YCbCr", "HSV")),
    *((mode, (300, 200)) for mode in ("L", "LA", "P transparent", "CMYK")),
]


def image_of(mode: str, shape: tuple[int, int]) -> Image.Image:
    """Smooth shapes and noise over the whole range, so that bicubic overshoot and rounding both happen."""
    random = np.random.default_rng(shape[0] * 7919 + shape[1])
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    waves = [128 + 127 * np.sign(np.sin(x / (3 + k) + y / (7 - k))) for k in range(4)]
    pixels = np.clip(np.stack(waves, -1) + random.normal(0, 40, (*shape, 4)), 0, 255).astype("u1")
    rgba = Image.fromarray(pixels)
    if mode == "P transparent":
        image = rgba.convert("RGB").quantize(16)
        image.info["transparency"] = 3
        return image
    if mode == "P":
        # From RGBA, Pillow would keep alpha in the palette: the one place where transformers drops alpha
        # and we lay it over white (test_images.py, test_palette_with_alpha).
        return rgba.convert("RGB").convert("P")
    return rgba if mode == "RGBA" else rgba.convert(mode)


@cache
def processor() -> Any:
    skip_without("test-torch")
    from tokenizers import Tokenizer, models
    from transformers import Blip2Processor, PreTrainedTokenizerFast
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    return Blip2Processor(BlipImageProcessorPil(), tokenizer)


def reference(image: Image.Image, **settings: Any) -> npt.NDArray[np.float32]:
    pixels: npt.NDArray[np.float32] = processor()(images=image, return_tensors="np", **settings)[
        "pixel_values"
    ]
    return pixels


@pytest.mark.parametrize("target", [112, 224, 364])
@pytest.mark.parametrize(("mode", "shape"), CASES, ids=str)
def test_equal_to_blip2_processor(mode: str, shape: tuple[int, int], target: int) -> None:
    image = image_of(mode, shape)
    expected = reference(image, size={"height": target, "width": target})
    got = to_pixels(open_picture(image), Preprocess(size=(target, target)))
    assert got.dtype == np.float32 and got.shape == (1, 3, target, target)
    assert np.abs(got - expected).max() <= 1e-5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_equal_from_encoded_bytes(kind: str) -> None:
    stream = io.BytesIO()
    image_of("RGB", (211, 307)).save(stream, kind)
    expected = reference(Image.open(stream), size={"height": 224, "width": 224})
    got = to_pixels(open_picture(stream.getvalue()), Preprocess(size=(224, 224)))
    assert np.abs(got - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "preprocess"),
    [
        ({"size": {"height": 40, "width": 90}}, Preprocess(size=(40, 90))),
        ({"resample": 2}, Preprocess(resample=2)),
        ({"resample": 0}, Preprocess(resample=0)),
        ({"do_resize": False}, Preprocess(do_resize=False)),
        ({"do_rescale": False}, Preprocess(do_rescale=False)),
        ({"do_normalize": False}, Preprocess(do_normalize=False)),
        ({"rescale_factor": 1 / 127.5}, Preprocess(rescale_factor=1 / 127.5)),
        (
            {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
            Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_every_setting_acts_as_in_transformers(settings: dict[str, Any], preprocess: Preprocess) -> None:
    image = image_of("RGB", (70, 50))
    expected = reference(image, **settings)
    got = to_pixels(image, preprocess)
    assert got.shape == expected.shape
    # Without rescaling the numbers are up to 255 / 0.26: the promise there is one of relative error.
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()) / 10)


def test_defaults_are_those_of_transformers() -> None:
    image = image_of("RGB", (70, 50))
    assert np.abs(to_pixels(image, Preprocess()) - reference(image)).max() <= 1e-5


def test_batch_is_its_pictures_stacked() -> None:
    images = [image_of("RGB", (20, 30)), image_of("L", (50, 10))]
    preprocess = Preprocess(size=(32, 48))
    batch = to_pixels_batch([open_picture(image) for image in images], preprocess)
    expected = np.concatenate([reference(image, size={"height": 32, "width": 48}) for image in images])
    assert batch.shape == (2, 3, 32, 48)
    assert np.abs(batch - expected).max() <= 1e-5


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(PictureError, match="no picture"):
        to_pixels_batch([], Preprocess())
    sizes = [Image.new("RGB", (5, 5)), Image.new("RGB", (6, 5))]
    with pytest.raises(PictureError, match="different sizes"):
        to_pixels_batch(sizes, Preprocess(do_resize=False))


def write(folder: Path, settings: Any, file: str = "preprocessor_config.json") -> Path:
    (folder / file).write_text(json.dumps(settings), encoding="utf-8")
    return folder


class TestFromFolder:
    def test_as_saved_by_transformers(self, tmp_path: Path) -> None:
        """Both layouts: one file for the image processor, and the nested one of the whole processor."""
        whole = processor()
        saved = {"image_mean": [0.1, 0.2, 0.3], "size": {"height": 112, "width": 112}}
        before = {key: getattr(whole.image_processor, key) for key in saved}
        try:
            for key, value in saved.items():
                setattr(whole.image_processor, key, value)
            whole.image_processor.save_pretrained(tmp_path / "single")
            whole.save_pretrained(tmp_path / "nested")
        finally:
            for key, value in before.items():
                setattr(whole.image_processor, key, value)
        assert (tmp_path / "single" / "preprocessor_config.json").is_file()
        assert (tmp_path / "nested" / "processor_config.json").is_file()
        for layout in ("single", "nested"):
            got = Preprocess.from_folder(tmp_path / layout)
            assert got == Preprocess(size=(112, 112), mean=(0.1, 0.2, 0.3)), layout

    def test_the_official_preprocessor_file_is_read(self, tmp_path: Path) -> None:
        settings = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "BlipImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "Blip2Processor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 224, "width": 224},
        }
        assert Preprocess.from_folder(write(tmp_path, settings)) == Preprocess(size=(224, 224))

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, Preprocess()),
            ({"size": 364}, Preprocess(size=(364, 364))),
            ({"size": [30, 40]}, Preprocess(size=(30, 40))),
            ({"size": {"height": 30, "width": 40}}, Preprocess(size=(30, 40))),
            ({"size": None, "image_mean": None}, Preprocess()),
            ({"image_mean": 0.5, "image_std": 1}, Preprocess(mean=(0.5,) * 3, std=(1.0,) * 3)),
            ({"resample": 2, "rescale_factor": 1}, Preprocess(resample=2, rescale_factor=1.0)),
            ({"do_resize": False, "do_rescale": False}, Preprocess(do_resize=False, do_rescale=False)),
            ({"do_normalize": False, "do_center_crop": False}, Preprocess(do_normalize=False)),
        ],
        ids=str,
    )
    def test_keys_and_forms(self, tmp_path: Path, settings: Any, expected: Preprocess) -> None:
        assert Preprocess.from_folder(write(tmp_path, settings)) == expected

    def test_nested_part_comes_first_as_in_transformers(self, tmp_path: Path) -> None:
        write(tmp_path, {"size": 100})
        write(tmp_path, {"num_query_tokens": 32}, "processor_config.json")
        assert Preprocess.from_folder(str(tmp_path)).size == (100, 100)
        write(tmp_path, {"image_processor": {"size": 200}}, "processor_config.json")
        assert Preprocess.from_folder(str(tmp_path)).size == (200, 200)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("size", {"shortest_edge": 224}),
            ("size", 0),
            ("size", [224]),
            ("size", {"height": 224.5, "width": 3}),
            ("size", True),
            ("image_mean", [1, 2]),
            ("image_std", [0.2, 0.0, 0.2]),
            ("image_std", "x"),
            ("rescale_factor", "1/255"),
            ("resample", 9),
            ("resample", "bicubic"),
            ("do_resize", "yes"),
            ("do_center_crop", True),
            ("do_pad", True),
        ],
    )
    def test_impossible_settings_are_named(self, tmp_path: Path, key: str, value: Any) -> None:
        with pytest.raises(CheckpointError, match=key):
            Preprocess.from_folder(write(tmp_path, {key: value}))

    @pytest.mark.parametrize("content", ["", "[1]", "{", "\ud800".encode("utf-8", "surrogatepass")])
    def test_damaged_file_is_named(self, tmp_path: Path, content: str | bytes) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "preprocessor_config.json").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
            Preprocess.from_folder(tmp_path)

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
                Preprocess.from_folder(folder)
        with pytest.raises(CheckpointError, match="image_processor"):
            Preprocess.from_folder(write(tmp_path, {"image_processor": 3}, "processor_config.json"))


def test_pictures_need_neither_torch_nor_httpx_nor_pillow_heif() -> None:
    code = (
        "import sys, numpy; from blip2_chat.images import *;"
        "p = open_picture(numpy.zeros((9, 9, 3), 'u1')); to_pixels(p, Preprocess()); advise(p);"
        "print({'torch', 'transformers', 'httpx', 'pillow_heif'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
