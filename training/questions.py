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

from .backgrounds import COLOURS
from .catalog import ALIKE, GROUPS, KINDS
from .scenes import Placed, Scene
from .wordings import WORDINGS

CLEAR_GAP = 0.12  # to be outermost, or beside something
NO_GAP = 0.04  # closer than this counts as level with it
FAR = 0.08  # further than this from the middle is plainly in one half of the picture
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


def empty_side(scene: Scene, side: str) -> bool:
    """Whether no thing reaches into that half of the picture."""
    axis, sign = SIDES[side]
    return all(sign * (float(getattr(thing, axis)) - 0.5) > 0.5 * thing.size + 0.02 for thing in scene.things)


def in_half(scene: Scene, kind: int, side: str) -> bool | None:
    """Whether a thing of this kind is in that half of the picture; None where that is not plain to see."""
    axis, sign = SIDES[side]
    offsets = [sign * (0.5 - float(getattr(thing, axis))) for thing in scene.things if thing.kind == kind]
    if any(offset > FAR for offset in offsets):
        return True
    return False if all(offset < -FAR for offset in offsets) else None


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
        return self._absent_kind()

    def _absent_kind(self) -> int:
        """A kind that is not there; mostly one that could be taken for one that is."""
        near = sorted({kind for there in self.present for kind in ALIKE[there]} - set(self.present))
        if near and self.rng.random() < 0.6:
            return int(self.rng.choice(near))
        return int(self.rng.choice([kind for kind in range(len(KINDS)) if kind not in self.present]))

    def _single(self) -> Placed | None:
        """A thing that is the only one of its kind."""
        singles = [thing for thing in self.scene.things if self.present[thing.kind] == 1]
        return singles[int(self.rng.integers(len(singles)))] if singles else None

    def _colours_of(self, kind: int) -> set[int | None]:
        pairs = zip(self.scene.things, self.colours, strict=True)
        return {colour for thing, colour in pairs if thing.kind == kind}

    def _filled(self, task: str, **words: str) -> str:
        forms = WORDINGS[task]
        text = forms[int(self.rng.integers(len(forms)))].format(**words)
        return _reworded(text.replace(" a orange", " an orange"), self.rng)

    def _thing_turn(self, wording: str, thing: Placed, task: str, named: int | None = None) -> Turn:
        return Turn(self._word(wording, named), KINDS[thing.kind].phrase, task, thing, thing.kind)

    def what(self, last: Turn | None) -> Turn | None:
        if len(self.scene.things) == 1:
            return self._thing_turn("what", self.scene.things[0], "what")
        return Turn(self._word("what"), listing(self.scene), "what")

    def side(self, last: Turn | None) -> Turn | None:
        side = str(self.rng.choice(list(SIDES)))
        if empty_side(self.scene, side):
            return Turn(self._word(side), NOTHING, side) if self.rng.random() < 0.3 else None
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
        kind = self._any_kind(0.8)
        if self.present[kind] == 1 and self.rng.random() < 0.4:
            kind = max(self.present, key=lambda there: self.present[there])
        return Turn(self._word("count-kind", kind), COUNTS[self.present[kind]], "count-kind", None, kind)

    def is_there(self, last: Turn | None) -> Turn | None:
        kind = self._any_kind(0.5)
        following = last is not None and last.task == "is-there" and self.rng.random() < 0.5
        answer = "yes" if kind in self.present else "no"
        wording, task = ("too", "follow-up") if following else ("is-there", "is-there")
        return Turn(self._word(wording, kind), answer, task, None, kind)

    def count_group(self, last: Turn | None) -> Turn | None:
        """How many animals, fruits or vehicles."""
        group = str(self.rng.choice(list(GROUPS)))
        number = self._members(group)
        if number == 0 and self.rng.random() < 0.6:
            return None
        return Turn(self._filled("count-group", many=group + "s"), COUNTS[number], "count-group")

    def is_there_group(self, last: Turn | None) -> Turn | None:
        group = str(self.rng.choice(list(GROUPS)))
        one = ("an " if group == "animal" else "a ") + group
        answer = "yes" if self._members(group) else "no"
        if answer == "no" and self.rng.random() < 0.5:
            return None
        return Turn(
            self._filled("is-there-group", one=one, many=group + "s", name=group), answer, "is-there-group"
        )

    def _members(self, group: str) -> int:
        return sum(KINDS[thing.kind].name in GROUPS[group] for thing in self.scene.things)

    def colour(self, last: Turn | None) -> Turn | None:
        """What colour a thing is; that there is none; or, as a follow-up, what colour "it" is."""
        if last is not None and last.about is not None and self.rng.random() < 0.5:
            kind, task, wording = last.about.kind, "follow-up", "it-colour"
            index = self.scene.things.index(last.about)
            found = {self.colours[index]}
        else:
            if self.rng.random() < 0.06:
                kind = self._absent_kind()
                return Turn(self._word("colour", kind), f"there is no {KINDS[kind].name}", "colour")
            thing = self._single()
            if thing is None:
                return None
            kind, task, wording = thing.kind, "colour", "colour"
            found = self._colours_of(kind)
        (shade,) = found if len(found) == 1 else (None,)
        if shade is None:
            return None
        about = last.about if task == "follow-up" and last is not None else thing
        return Turn(self._word(wording, kind), COLOURS[shade].name, task, about, kind)

    def is_colour(self, last: Turn | None) -> Turn | None:
        """Whether a thing has a colour."""
        thing = self._single()
        (shade,) = self._colours_of(thing.kind) if thing is not None else (None,)
        if thing is None or shade is None:
            return None
        asked = shade if self.rng.random() < 0.5 else int(self.rng.integers(len(COLOURS)))
        words = {"name": KINDS[thing.kind].name, "colour": COLOURS[asked].name}
        answer = "yes" if asked == shade else "no"
        return Turn(self._filled("is-colour", **words), answer, "is-colour", thing, thing.kind)

    def place(self, last: Turn | None) -> Turn | None:
        """Whether there is a thing of a kind in one half of the picture."""
        kind = self._any_kind(0.8)
        side = str(self.rng.choice(list(SIDES)))
        there = in_half(self.scene, kind, side)
        if there is None:
            return None
        thing = KINDS[kind]
        text = self._filled(f"place-{side}", one=thing.phrase, many=thing.plural, name=thing.name)
        return Turn(text, "yes" if there else "no", "place", None, kind)

    def compare(self, last: Turn | None) -> Turn | None:
        """Whether one thing is left of, right of, above or below another."""
        singles = [thing for thing in self.scene.things if self.present[thing.kind] == 1]
        if len(singles) < 2:
            return None
        first, second = (singles[index] for index in self.rng.choice(len(singles), 2, replace=False))
        side = str(self.rng.choice(list(SIDES)))
        axis, sign = SIDES[side]
        lead = sign * (float(getattr(second, axis)) - float(getattr(first, axis)))
        if abs(lead) < CLEAR_GAP:
            return None
        text = self._filled(f"compare-{side}", first=KINDS[first.kind].name, second=KINDS[second.kind].name)
        return Turn(text, "yes" if lead > 0 else "no", "compare", first, first.kind)

    def background(self, last: Turn | None) -> Turn | None:
        return Turn(self._word("background"), self.scene.colour_name, "background")

    def describe(self, last: Turn | None) -> Turn | None:
        return Turn(self._word("describe"), caption(self.scene), "describe")

    def relation(self, last: Turn | None) -> Turn | None:
        """What is beside a thing, named or (as a follow-up) the "it" of the turn before."""
        side = str(self.rng.choice(list(SIDES)))
        if self.rng.random() < 0.03:
            kind = self._absent_kind()
            return Turn(self._word(f"beside-{side}", kind), f"there is no {KINDS[kind].name}", "relation")
        if not self.scene.things or (len(self.scene.things) == 1 and self.rng.random() < 0.8):
            return None
        following = last is not None and last.about is not None and self.rng.random() < 0.75
        anchor = last.about if following and last is not None else None
        if anchor is None:
            anchor = self.scene.things[int(self.rng.integers(len(self.scene.things)))]
        clear, other = beside(self.scene, anchor, side)
        if not clear or self.present[anchor.kind] > 1 or (other is None and self.rng.random() < 0.7):
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
            "what": (self.what, 0.8), "side": (self.side, 2.0), "count": (self.count, 0.5),
            "count-kind": (self.count_kind, 1.6), "count-group": (self.count_group, 0.8),
            "is-there": (self.is_there, 2.0), "is-there-group": (self.is_there_group, 0.3),
            "background": (self.background, 0.5), "relation": (self.relation, 8.0), "them": (self.them, 0.8),
            "describe": (self.describe, 0.2), "colour": (self.colour, 1.6), "is-colour": (self.is_colour, 0.4),
            "place": (self.place, 0.8), "compare": (self.compare, 1.6),
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
