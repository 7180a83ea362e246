"""Questions about a scene with one right answer each, in many wordings, and its caption.

Only questions whose answer is plain to see are asked: "on the left" needs a clear gap to the next
thing, "it" needs to be one thing. A question can be a follow-up: its ``it`` or ``them`` is what the
turn before was about, so it cannot be answered without that turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from .catalog import KINDS
from .scenes import Placed, Scene
from .wordings import WORDINGS

CLEAR_GAP = 0.12  # to be outermost, or beside something
NO_GAP = 0.04  # closer than this counts as level with it
COUNTS = ("none", "one", "two", "three", "four")
NOTHING = "nothing"
SIDES: dict[str, tuple[str, int]] = {
    "left": ("x", 1),
    "right": ("x", -1),
    "top": ("y", 1),
    "bottom": ("y", -1),
}


@dataclass(frozen=True)
class Turn:
    """A question, its answer, what kind of question it is, and what "it" means afterwards."""

    question: str
    answer: str
    task: str
    about: Placed | None = None
    about_kind: int | None = None


def listing(scene: Scene) -> str:
    """ "two dogs, a cat and an apple": kinds in the order of their leftmost thing."""
    if not scene.things:
        return NOTHING
    counts = Counter(thing.kind for thing in scene.things)
    parts = [
        KINDS[kind].phrase if number == 1 else f"{COUNTS[number]} {KINDS[kind].plural}"
        for kind, number in counts.items()
    ]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene: Scene) -> str:
    ground = scene.colour_name
    return f"{listing(scene)} on {'an' if ground == 'orange' else 'a'} {ground} background"


def outermost(scene: Scene, side: str) -> Placed | None:
    """The thing furthest to that side, if no other is nearly as far and it lies in that half."""
    if not scene.things:
        return None
    axis, sign = SIDES[side]
    ordered = sorted(scene.things, key=lambda thing: sign * float(getattr(thing, axis)))
    first = float(getattr(ordered[0], axis))
    if sign * (first - 0.5) > -0.03:
        return None
    if len(ordered) > 1 and sign * (float(getattr(ordered[1], axis)) - first) < CLEAR_GAP:
        return None
    return ordered[0]


def beside(scene: Scene, thing: Placed, side: str) -> tuple[bool, Placed | None]:
    """(Is it clear?, the only thing on that side of ``thing`` or None)."""
    axis, sign = SIDES[side]
    here = float(getattr(thing, axis))
    distances = [
        (sign * (here - float(getattr(other, axis))), other) for other in scene.things if other is not thing
    ]
    if any(NO_GAP <= distance < CLEAR_GAP for distance, _ in distances):
        return False, None
    there = [other for distance, other in distances if distance >= CLEAR_GAP]
    return len(there) < 2, there[0] if len(there) == 1 else None


def _reworded(text: str, rng: Generator) -> str:
    """The small differences between people's typing."""
    if "colour" in text and rng.random() < 0.4:
        text = text.replace("colour", "color")
    if "picture" in text and rng.random() < 0.3:
        text = text.replace("picture", str(rng.choice(("image", "photo"))))
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.12:
        text = text.rstrip("?.")
    if rng.random() < 0.03:
        text = text.upper()
    return text.replace("'s", "s") if rng.random() < 0.1 else text


class Asker:
    """Makes turns about one scene."""

    def __init__(self, scene: Scene, rng: Generator, colours: Sequence[int | None] = ()) -> None:
        self.scene = scene
        self.colours = tuple(colours) or (None,) * len(scene.things)
        self.rng = rng
        self.present = Counter(thing.kind for thing in scene.things)

    def _word(self, task: str, kind: int | None = None) -> str:
        forms = WORDINGS[task]
        text = forms[int(self.rng.integers(len(forms)))]
        if kind is not None:
            thing = KINDS[kind]
            text = text.format(one=thing.phrase, many=thing.plural, name=thing.name)
        return _reworded(text, self.rng)

    def _any_kind(self, chance_present: float) -> int:
        if self.present and self.rng.random() < chance_present:
            return int(self.rng.choice(list(self.present)))
        absent = [kind for kind in range(len(KINDS)) if kind not in self.present]
        return int(self.rng.choice(absent))

    def _thing_turn(self, wording: str, thing: Placed, task: str, named: int | None = None) -> Turn:
        return Turn(self._word(wording, named), KINDS[thing.kind].phrase, task, thing, thing.kind)

    def what(self, last: Turn | None) -> Turn | None:
        if len(self.scene.things) == 1:
            return self._thing_turn("what", self.scene.things[0], "what")
        return Turn(self._word("what"), listing(self.scene), "what")

    def side(self, last: Turn | None) -> Turn | None:
        side = str(self.rng.choice(list(SIDES)))
        thing = outermost(self.scene, side)
        if thing is None:
            return None
        following = last is not None and last.task in SIDES and self.rng.random() < 0.5
        if following:
            return self._thing_turn(f"next-{side}", thing, "follow-up")
        return self._thing_turn(side, thing, side)

    def count(self, last: Turn | None) -> Turn | None:
        return Turn(self._word("count"), COUNTS[len(self.scene.things)], "count")

    def count_kind(self, last: Turn | None) -> Turn | None:
        kind = self._any_kind(0.85)
        return Turn(self._word("count-kind", kind), COUNTS[self.present[kind]], "count-kind", None, kind)

    def is_there(self, last: Turn | None) -> Turn | None:
        kind = self._any_kind(0.5)
        following = last is not None and last.task == "is-there" and self.rng.random() < 0.5
        answer = "yes" if kind in self.present else "no"
        wording, task = ("too", "follow-up") if following else ("is-there", "is-there")
        return Turn(self._word(wording, kind), answer, task, None, kind)

    def background(self, last: Turn | None) -> Turn | None:
        return Turn(self._word("background"), self.scene.colour_name, "background")

    def describe(self, last: Turn | None) -> Turn | None:
        return Turn(self._word("describe"), caption(self.scene), "describe")

    def relation(self, last: Turn | None) -> Turn | None:
        """What is beside a thing, named or (as a follow-up) the "it" of the turn before."""
        if len(self.scene.things) < 2:
            return None
        side = str(self.rng.choice(list(SIDES)))
        following = last is not None and last.about is not None and self.rng.random() < 0.75
        anchor = last.about if following and last is not None else None
        if anchor is None:
            anchor = self.scene.things[int(self.rng.integers(len(self.scene.things)))]
        clear, other = beside(self.scene, anchor, side)
        if not clear or self.present[anchor.kind] > 1 or (other is None and self.rng.random() < 0.6):
            return None
        task = "follow-up" if following else "relation"
        wording = f"it-{side}" if following else f"beside-{side}"
        if other is None:
            return Turn(self._word(wording, anchor.kind), NOTHING, task)
        return self._thing_turn(wording, other, task, anchor.kind)

    def them(self, last: Turn | None) -> Turn | None:
        """How many there are of what the turn before was about."""
        if last is None or last.about_kind is None or last.answer in COUNTS:
            return None
        return Turn(
            self._word("them"), COUNTS[self.present[last.about_kind]], "follow-up", None, last.about_kind
        )

    def conversation(self, turns: int, first: str | None = None) -> list[Turn]:
        """That many turns; later ones are often follow-ups. ``first`` fixes the first turn's task."""
        makers: dict[str, tuple[Callable[[Turn | None], Turn | None], float]] = {
            "what": (self.what, 0.8), "side": (self.side, 2.4), "count": (self.count, 0.6),
            "count-kind": (self.count_kind, 1.0), "is-there": (self.is_there, 1.2),
            "background": (self.background, 0.7), "relation": (self.relation, 5.0), "them": (self.them, 1.0),
            "describe": (self.describe, 0.25),
        }  # fmt: skip
        names = list(makers)
        weights = [makers[name][1] for name in names]
        total = sum(weights)
        made: list[Turn] = []
        while len(made) < turns:
            name = str(self.rng.choice(names, p=[weight / total for weight in weights]))
            if first is not None and not made:
                name = first
            turn = makers[name][0](made[-1] if made else None)
            if turn is not None:
                made.append(turn)
            elif first is not None and not made:
                return []
        return made
