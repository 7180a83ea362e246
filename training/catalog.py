"""What the model learns to name, and the picture sets that show it.

The sets are Iconify packages on the npm registry: one JSON file of SVG bodies each. They are fetched
by ``training.fetch_sets`` and are not shipped; the licences below are repeated in MODEL_CARD.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PictureSet:
    """One drawing style: its npm package, pinned version, licence and whether training may see it."""

    name: str
    version: str
    author: str
    licence: str
    home: str
    held_out: bool = False
    single_colour: bool = False  # silhouettes with holes, drawn in a colour of our choice

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.name}@{self.version}"


SETS: tuple[PictureSet, ...] = (
    PictureSet("noto", "1.2.9", "Google", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    PictureSet("noto-v1", "1.2.5", "Google", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    PictureSet("fluent-emoji", "1.2.7", "Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    PictureSet(
        "fluent-emoji-flat", "1.2.6", "Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"
    ),
    PictureSet("emojione", "1.2.3", "EmojiOne/EmojiTwo", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo"),
    PictureSet("fxemoji", "1.2.2", "Mozilla", "Apache-2.0", "https://github.com/mozilla/fxemoji"),
    PictureSet(
        "streamline-emojis",
        "1.2.4",
        "Streamline",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
    ),
    PictureSet(
        "fluent-emoji-high-contrast",
        "1.2.6",
        "Microsoft",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji",
        single_colour=True,
    ),
    PictureSet(
        "emojione-monotone",
        "1.2.1",
        "EmojiOne/EmojiTwo",
        "CC-BY-4.0",
        "https://github.com/EmojiTwo/emojitwo",
        single_colour=True,
    ),
    PictureSet(
        "twemoji", "1.2.5", "Twitter", "CC-BY-4.0", "https://github.com/jdecked/twemoji", held_out=True
    ),
)


@dataclass(frozen=True)
class Kind:
    """One nameable thing. ``icons`` are Iconify names, compared without hyphens and trailing numbers."""

    name: str
    icons: tuple[str, ...]
    plural_form: str = ""

    @property
    def plural(self) -> str:
        return self.plural_form or self.name + "s"

    @property
    def phrase(self) -> str:
        """With its article: "a dog", "an apple"."""
        return ("an " if self.name[0] in "aeio" or self.name == "umbrella" else "a ") + self.name


def _kind(name: str, icons: str, plural: str = "") -> Kind:
    return Kind(name, tuple(icons.split()), plural)


KINDS: tuple[Kind, ...] = (
    _kind("dog", "dog dog-face dogside"),
    _kind("cat", "cat cat-face catside"),
    _kind("horse", "horse horse-face"),
    _kind("cow", "cow cow-face"),
    _kind("pig", "pig pig-face pigside"),
    _kind("sheep", "ewe ram sheep", "sheep"),
    _kind("elephant", "elephant"),
    _kind("rabbit", "rabbit rabbit-face bunny bunnyside"),
    _kind("monkey", "monkey monkey-face"),
    _kind("penguin", "penguin"),
    _kind("fish", "fish tropical-fish", "fish"),
    _kind("octopus", "octopus", "octopuses"),
    _kind("turtle", "turtle"),
    _kind("snake", "snake"),
    _kind("snail", "snail"),
    _kind("butterfly", "butterfly", "butterflies"),
    _kind("bee", "honeybee"),
    _kind("apple", "red-apple green-apple"),
    _kind("banana", "banana"),
    _kind("strawberry", "strawberry", "strawberries"),
    _kind("lemon", "lemon"),
    _kind("pineapple", "pineapple"),
    _kind("mushroom", "mushroom"),
    _kind("pizza", "pizza slice-of-pizza"),
    _kind("hamburger", "hamburger"),
    _kind("cake", "birthday-cake"),
    _kind("ice cream", "soft-ice-cream"),
    _kind("doughnut", "doughnut"),
    _kind("car", "automobile sport-utility-vehicle oncoming-automobile"),
    _kind("bus", "bus oncoming-bus", "buses"),
    _kind("bicycle", "bicycle"),
    _kind("airplane", "airplane"),
    _kind("train", "locomotive steam-locomotive"),
    _kind("boat", "sailboat"),
    _kind("rocket", "rocket"),
    _kind("helicopter", "helicopter"),
    _kind("house", "house house-with-garden house-building"),
    _kind("tree", "deciduous-tree"),
    _kind("cactus", "cactus", "cactuses"),
    _kind("flower", "sunflower tulip hibiscus"),
    _kind("moon", "crescent-moon"),
    _kind("star", "star white-medium-star"),
    _kind("umbrella", "umbrella umbrella-with-rain-drops"),
    _kind("book", "open-book closed-book green-book"),
    _kind("clock", "alarm-clock mantelpiece-clock"),
    _kind("key", "key old-key"),
    _kind("guitar", "guitar"),
    _kind("trumpet", "trumpet"),
    _kind("ball", "soccer-ball"),
    _kind("hat", "top-hat"),
    _kind("shoe", "running-shoe mans-shoe mens-shoe"),
    _kind("balloon", "balloon"),
    _kind("gift", "wrapped-gift present"),
    _kind("camera", "camera camera-with-flash"),
    _kind("cup", "hot-beverage teacup-without-handle"),
    _kind("heart", "red-heart heart-suit"),
    _kind("crown", "crown"),
)
# The words for groups of kinds that questions use.
_GROUPS = """
animal: dog cat horse cow pig sheep elephant rabbit monkey penguin fish octopus turtle snake snail butterfly bee
fruit: apple banana strawberry lemon pineapple
vehicle: car bus bicycle airplane train boat rocket helicopter
"""
GROUPS: dict[str, frozenset[str]] = {
    group: frozenset(names.split())
    for group, names in (line.split(": ") for line in _GROUPS.strip().splitlines())
}
# Kinds that are easily taken for one another, in small drawings at least.
_ALIKE = """
dog cat rabbit monkey pig | horse cow sheep pig dog elephant | penguin fish turtle octopus
snake snail turtle octopus | butterfly bee flower | apple strawberry heart balloon ball | banana lemon moon
pineapple strawberry cactus tree | mushroom umbrella hat cake | pizza doughnut hamburger cake
ice cream/cake/cup/mushroom | car bus train house | airplane helicopter rocket boat | bicycle car clock
tree flower cactus | moon star heart | book gift house camera | clock ball camera doughnut
guitar trumpet key | hat shoe crown cup | balloon umbrella apple lemon
"""
KIND_INDEX: dict[str, int] = {kind.name: index for index, kind in enumerate(KINDS)}


def _alike() -> tuple[tuple[int, ...], ...]:
    near: list[set[int]] = [set() for _ in KINDS]
    for names in _ALIKE.strip().replace("\n", "|").split("|"):
        group = {KIND_INDEX[name] for name in (names.strip().split("/") if "/" in names else names.split())}
        for kind in group:
            near[kind] |= group - {kind}
    return tuple(tuple(sorted(kinds)) for kinds in near)


ALIKE: tuple[tuple[int, ...], ...] = _alike()


def plain_name(icon: str) -> str:
    """An icon's name without hyphens and a trailing number, so that sets can be compared."""
    parts = icon.split("-")
    if len(parts) > 1 and parts[-1].isdigit():
        parts = parts[:-1]
    return "".join(parts)
