"""Keywords from captions of the kind that BLIP-2 writes."""

from __future__ import annotations

import pytest

from blip2_chat.metadata.keywords import keywords


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog sitting on a wooden bench next to a fire hydrant", "dog, bench, fire hydrant"),
        ("a man in a suit and tie holding a cell phone", "man, suit, tie, cell phone"),
        ("a couple of giraffes standing next to each other", "giraffes"),
        ("a group of people riding skis down a snow covered slope", "people, skis, snow, slope"),
        ("A bathroom with a toilet, sink and shower.", "bathroom, toilet, sink, shower"),
        ("a bed in a room with a painting above it", "bed, room, painting"),
        ("the man's dog and the girl’s cat", "man, dog, girl, cat"),
        ("a red stop sign on the side of the road", "stop sign, road"),
        ("two elderly men", "men"),
        ("", ""),
        ("it is", ""),
        ("ein Hund sitzt auf einer langen Bank neben dem Fluss", ""),
    ],
)
def test_things_become_keywords(caption: str, expected: str) -> None:
    assert ", ".join(keywords([caption])) == expected


def test_several_captions_give_each_keyword_once() -> None:
    assert keywords(["a dog on grass", "a Dog with a ball"]) == ("dog", "grass", "ball")
