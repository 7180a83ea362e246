"""Keywords from captions: the things that a caption names.

A caption is a plain description ("a dog sitting on a wooden bench next to a fire hydrant"), so a small list of the
words that are no things goes a long way without a tagger's models: what is left between such words is one keyword
("dog", "bench", "fire hydrant"). English only; other languages give keywords that are too long and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]")
_OWNER = re.compile(r"['’]s\Z")
# A keyword of more words is a phrase that was not understood.
_MOST_WORDS = 3

# Determiners, pronouns and numbers; prepositions, conjunctions and adverbs; verbs as captions have them (those in
# -ing are found by their ending); what a caption says of the picture itself, of amounts and of places in it; and how
# things are.
_NO_THINGS = """
a an the this that these those some any no each every all both either neither another other others such one two three
four five six seven eight nine ten dozen several many few more most much various different same own it its it's he him
his she her hers they them their theirs we us our you your i my me who whom whose which what someone something nothing
everything
about above across after against along among amongst around as at atop away back before behind below beneath beside
besides between beyond by down during for from front in inside into like near nearby next of off on onto out outside
over past since through throughout to together toward towards under underneath until up upon via while with within
without and or but nor so than then if because when where there here not very too just also only even still almost
is are was were be been am has have had do does did can could may might will would shall should appears seems looks
sits stands lies rides holds wears walks runs plays eats drinks shows says reads features contains includes sit stand
lie ride hold wear walk run play eat look made seen shown taken left right worn held laid
picture pictures photo photos photograph photographs image images view shot close-up closeup close scene background
foreground group pair couple bunch lot lots set row piece pieces part kind type variety number top bottom side sides
middle center centre corner edge end rest
large small big little tiny huge tall short long high low old young new modern vintage antique beautiful pretty cute
nice good great empty full open closed clean dirty dark bright light sunny cloudy snowy rainy wet dry hot cold warm
soft fluffy furry wooden metal metallic plastic golden silver red orange yellow green blue purple pink brown black
white gray grey beige colorful colourful multicolored plain round square flat busy crowded quiet calm happy sad
single double male female adult grassy sandy rocky fancy stuffed
"""
_ENDS_LIKE_NO_THING = re.compile(r".{2,}(?:ing|ed|ly)\Z")
_THINGS_ALL_THE_SAME = """
building ceiling clothing painting railing wedding string swing wing ring king spring evening morning lightning
pudding sibling dumpling awning icing frosting earring lining landing crossing mooring parking bed shed sled seed weed
reed feed bobsled family butterfly fly lily jelly belly dragonfly trolley stuffing topping bedding surfing skiing
skateboarding snowboarding boxing hiking camping
"""
_EXCLUDED, _INCLUDED = frozenset(_NO_THINGS.split()), frozenset(_THINGS_ALL_THE_SAME.split())


def keywords(captions: Iterable[str]) -> tuple[str, ...]:
    """The keywords of a picture's captions, in lower case and in the order of their first place, each once."""
    found: dict[str, None] = {}
    for caption in captions:
        words: list[str] = []
        # The full stop ends the last keyword.
        for word in [*_WORD.findall(caption.lower()), "."]:
            if _is_thing(word):
                words.append(_OWNER.sub("", word))
                if words[-1] == word:
                    continue
            if words and len(words) <= _MOST_WORDS:
                found[" ".join(words)] = None
            words = []
    return tuple(found)


def _is_thing(word: str) -> bool:
    if word in _INCLUDED:
        return True
    return (
        len(word) > 2 and word[0].isalpha() and word not in _EXCLUDED and not _ENDS_LIKE_NO_THING.match(word)
    )
