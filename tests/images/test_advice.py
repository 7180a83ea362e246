"""Advice: said with the measured number when a picture is harmed, and silence when it is fine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter

from blip2_chat.images import Advice, advise, open_picture


def scene(width: int = 640, height: int = 480) -> Image.Image:
    """A made photograph: lit ground, coloured things with sharp edges, a little sensor noise."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([90 + 90 * y / height, 110 + 60 * x / width, 160 - 70 * y / height], axis=-1)
    image = Image.fromarray(ground.astype("u1"))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        left, top = int(random.integers(0, width)), int(random.integers(0, height))
        right = left + int(random.integers(10, width // 4))
        bottom = top + int(random.integers(10, height // 4))
        draw.ellipse((left, top, right, bottom), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    noisy = np.asarray(image) + random.normal(0, 3, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype("u1"))


SCENE = scene()


def exposed(image: Image.Image, stops: float) -> Image.Image:
    """The picture as a camera would have taken it with `stops` less light (gamma 2.2)."""
    light = (np.asarray(image) / 255) ** 2.2 * 2.0**stops
    return Image.fromarray((light.clip(0, 1) ** (1 / 2.2) * 255).round().astype("u1"))


def faded(image: Image.Image, contrast: float) -> Image.Image:
    levels: npt.NDArray[Any] = 190 + (np.asarray(image) - 128.0) * contrast
    return Image.fromarray(levels.clip(0, 255).astype("u1"))


def only(found: list[Advice], kind: str) -> Advice:
    assert [advice.kind for advice in found] == [kind]
    advice = found[0]
    assert "\n" not in advice.message and f"{advice.measured:.0f}" in advice.message
    return advice


def test_good_picture_gets_none() -> None:
    assert advise(SCENE) == []
    assert advise(open_picture(SCENE)) == []


@pytest.mark.parametrize("stops", [-2, -1, 1])
def test_usual_exposures_are_fine(stops: int) -> None:
    assert advise(exposed(SCENE, stops)) == []


def test_dark_pictures_are_reported() -> None:
    image = exposed(SCENE, -6)
    advice = only(advise(image), "dark")
    assert advice.measured == pytest.approx(np.percentile(np.asarray(image.convert("L")), 95), abs=3)
    assert only(advise(Image.new("RGB", (300, 300))), "dark").measured == 0


def test_a_small_light_does_not_make_a_picture_bright() -> None:
    room = exposed(SCENE, -6)
    ImageDraw.Draw(room).ellipse((300, 200, 340, 240), fill="white")
    assert [advice.kind for advice in advise(room)] == ["dark"]

    thing = Image.new("RGB", SCENE.size)
    thing.paste(SCENE.crop((0, 0, 200, 200)), (200, 100))
    assert advise(thing) == []


def test_washed_out() -> None:
    image = faded(SCENE, 0.1)
    low, high = np.percentile(np.asarray(image.convert("L")), (0.5, 99.5))
    assert only(advise(image), "washed out").measured == pytest.approx(high - low, abs=3)
    assert only(advise(Image.new("RGB", (300, 300), "#ccc")), "washed out").measured == 0
    assert advise(faded(SCENE, 0.5)) == []


@pytest.mark.parametrize("size", [(640, 480), (2000, 1500), (460, 345)])
def test_blurred_at_any_resolution(size: tuple[int, int]) -> None:
    sharp = scene(*size)
    assert advise(sharp) == []
    # The same blur to the eye: sigma 8 when the picture is shown 448 pixels wide.
    blurred = sharp.filter(ImageFilter.GaussianBlur(8 * size[0] / 448))
    # A Gaussian step of sigma s rises over s * sqrt(2 pi) pixels at its steepest; the strongest edges of the
    # scene are partly cut by others, which makes them look wider.
    assert 8 * 2.5 * 0.4 < only(advise(blurred), "blurred").measured < 8 * 2.5 * 2


def test_sensor_noise_does_not_hide_blur() -> None:
    blurred = np.asarray(SCENE.resize((2000, 1500)).filter(ImageFilter.GaussianBlur(36)))
    noisy = blurred + np.random.default_rng(0).normal(0, 10, blurred.shape)
    only(advise(Image.fromarray(noisy.clip(0, 255).astype("u1"))), "blurred")


def test_edge_of_known_blur_is_measured_at_its_width() -> None:
    half = np.zeros((448, 448, 3), dtype="u1")
    half[:, 224:] = 255
    for sigma in (6, 10):
        blurred = Image.fromarray(half).filter(ImageFilter.GaussianBlur(sigma))
        assert only(advise(blurred), "blurred").measured == pytest.approx(
            sigma * (2 * np.pi) ** 0.5, rel=0.12
        )


def test_a_plain_wall_has_no_edges_to_be_blurred() -> None:
    only(advise(Image.fromarray(np.tile(np.linspace(180, 186, 300).astype("u1"), (300, 1)))), "washed out")


@pytest.mark.parametrize("side", [20, 60, 90, 200])
def test_small_thing_on_plain_ground_is_not_blurred(side: int) -> None:
    page = Image.new("RGB", (800, 800), "white")
    ImageDraw.Draw(page).rectangle((350, 350, 350 + side, 350 + side), fill="navy")
    assert "blurred" not in [advice.kind for advice in advise(page)]


def test_faded_picture_is_not_called_blurred_as_well() -> None:
    only(advise(faded(SCENE, 0.15)), "washed out")


@pytest.mark.parametrize("size", [(63, 400), (400, 63), (1, 1), (1, 10_000), (10_000, 1)])
def test_tiny_pictures_are_reported(size: tuple[int, int]) -> None:
    found = advise(Image.linear_gradient("L").convert("RGB").resize(size))
    assert "blurred" not in [advice.kind for advice in found]
    assert found[0].kind == "tiny"
    assert found[0].measured == min(size)
    assert str(min(size)) in found[0].message


def test_a_picture_of_64_pixels_is_large_enough() -> None:
    assert advise(SCENE.resize((85, 64))) == []
