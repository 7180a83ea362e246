"""Distortions of drawings and pictures that leave every answer as it is.

They exist because nine drawing styles are few: colours, outlines and shapes are varied so that the
model has to look at what stays the same between styles.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

_GREY = np.array((0.299, 0.587, 0.114), np.float32)


@dataclass(frozen=True)
class Style:
    """What all drawings of one picture share, as pictures of one set do."""

    outline: tuple[int, int, int] | None
    posterise: bool
    smooth: bool

    @staticmethod
    def sample(rng: Generator, strength: float) -> Style:
        shade = int(rng.choice((0, 30, 60, 255)))
        outline = (shade, shade, shade) if rng.random() < 0.15 * strength else None
        return Style(outline, rng.random() < 0.08 * strength, rng.random() < 0.1 * strength)


def _colour_matrix(rng: Generator, strength: float) -> NDArray[np.float32]:
    """A random small turn of hue with a change of saturation and brightness; at times a large one."""
    large = rng.random() < 0.15 * strength
    turn = rng.normal(0, 1.0 if large else 0.12 * strength)
    saturation = rng.uniform(1 - 0.5 * strength, 1 + 0.3 * strength)
    brightness = rng.uniform(1 - 0.18 * strength, 1 + 0.18 * strength)
    cos, sin = np.cos(turn), np.sin(turn)
    grey = np.ones((3, 1), np.float32) @ _GREY[None]
    third, root = (1 - cos) / 3, sin / 3**0.5
    rotate = np.array(
        [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ],
        np.float32,
    )
    matrix = (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * grey) @ rotate
    return np.asarray(matrix * brightness, np.float32)


def _recoloured(sprite: Image.Image, style: Style, rng: Generator, strength: float) -> Image.Image:
    pixels = np.array(sprite)
    colours = pixels[..., :3].astype(np.float32) @ _colour_matrix(rng, strength).T
    if rng.random() < 0.3 * strength:
        colours = (colours - 128) * rng.uniform(0.6, 1.4) + 128 + rng.uniform(-25, 25)
    if style.posterise:
        colours = np.round(colours / 64) * 64
    pixels[..., :3] = colours.clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA")


def coloured_in(
    icon: Image.Image, silhouette: Image.Image, shade: NDArray[np.float32], dark_ground: bool, rng: Generator
) -> Image.Image:
    """A single-colour drawing in one shade (RGB in 0..255): its lines alone, or its body between lines that
    are dark or, on a dark ground at least, white."""
    rgb = tuple(shade.round().astype(int).tolist())
    chance = rng.random()
    dark = int(rng.integers(0, 45))
    body, lines = (rgb, (dark,) * 3) if chance < 0.7 else (None, rgb)
    if body is not None and shade.mean() < 170 and (dark_ground or chance < 0.1 or shade.mean() < 60):
        lines = (255, 255, 255)
    out = Image.new("RGBA", icon.size, (*(body or lines), 0))
    if body is not None:
        out.putalpha(silhouette)
    drawn = Image.new("RGBA", icon.size, (*lines, 0))
    drawn.putalpha(icon.getchannel("A"))
    out.alpha_composite(drawn)
    return out


def distort(
    icon: Image.Image, size: int, style: Style, rng: Generator, strength: float, recolour: bool = True
) -> Image.Image:
    """One drawing at its size in the scene: stretched, mirrored, turned, recoloured, outlined."""
    if rng.random() < 0.5:
        icon = ImageOps.mirror(icon)
    stretch = rng.uniform(1 - 0.15 * strength, 1 + 0.15 * strength)
    width, height = max(6, round(size * min(1, stretch))), max(6, round(size / max(1, stretch)))
    sprite = icon.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    angle = rng.uniform(-25, 25) if rng.random() < 0.7 else 0.0
    if angle:
        sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    if strength and rng.random() < 0.25 * strength:  # slant
        slant = rng.uniform(-0.25, 0.25)
        shift = slant * sprite.height / 2
        sprite = sprite.transform(
            sprite.size, Image.Transform.AFFINE, (1, slant, -shift, 0, 1, 0), Image.Resampling.BICUBIC
        )
    if recolour:
        sprite = _recoloured(sprite, style, rng, strength)
    if style.smooth:
        sprite = sprite.filter(ImageFilter.ModeFilter(3))
    if style.outline is not None:
        alpha = sprite.getchannel("A")
        framed = Image.new("RGBA", sprite.size, (*style.outline, 0))
        framed.putalpha(alpha.filter(ImageFilter.MaxFilter(3)))
        framed.alpha_composite(sprite)
        sprite = framed
    return sprite


def finish(picture: Image.Image, rng: Generator, strength: float) -> Image.Image:
    """Light, blur, noise, loss of detail and compression over the whole picture."""
    if rng.random() < 0.4:
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.86, 1.1))
    if rng.random() < 0.3:
        picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.85, 1.12))
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9) * picture.width / 112))
    if rng.random() < 0.15 * strength:
        small = round(picture.width * rng.uniform(0.55, 0.9))
        picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize(
            picture.size, Image.Resampling.BICUBIC
        )
    if rng.random() < 0.2:
        pixels = np.asarray(picture, np.float32)
        noise = rng.normal(0, rng.uniform(1, 7), pixels.shape).astype(np.float32)
        picture = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(rng.integers(45, 92)))
        picture = Image.open(packed).convert("RGB")
    return picture
