"""The many ways people ask the same thing, by kind of question.

``{one}``, ``{many}`` and ``{name}`` stand for "a dog", "dogs" and "dog". ``next-…`` and ``it-…`` are
follow-ups; they only make sense after another question.
"""

from __future__ import annotations

_LIST = """
what: what is it? | what is this? | what's this? | what is in the picture? | what is in this picture?
  | what do you see? | what can you see? | what is shown here? | what's in the image? | what is that?
  | which things are there? | what is here? | what things are in the picture? | what are these?
  | tell me what you see. | what's in the picture? | what's in this picture? | what is on the picture?
  | what does the picture contain? | list the things in the picture. | what is there? | what's there?
  | what's here? | name the things in the picture. | what objects are there?
  | what is shown in the picture?
left: what is on the left? | what's on the left? | what is at the left? | which thing is on the left?
  | what is to the left? | what is on the left side? | what can you see on the left?
  | what do you see on the left? | what object is on the left? | what is on the left of the picture?
  | what is on the left hand side? | what is furthest to the left? | what is in the left half?
right: what is on the right? | what's on the right? | what is at the right? | which thing is on the right?
  | what is on the right side? | what can you see on the right? | what do you see on the right?
  | what is to the right? | what object is on the right? | what is on the right of the picture?
  | what is on the right hand side? | what is furthest to the right? | what is in the right half?
top: what is at the top? | what's at the top? | what is on top? | which thing is at the top?
  | what can you see at the top? | what do you see at the top? | what is on the top?
  | what object is at the top? | what is at the top of the picture?
bottom: what is at the bottom? | what's at the bottom? | what is on the bottom?
  | which thing is at the bottom? | what can you see at the bottom? | what do you see at the bottom?
  | what object is at the bottom? | what is at the bottom of the picture?
count: how many things are there? | how many objects are there? | how many things are in the picture?
  | how many things do you see? | how many objects can you see? | how many things can you see?
  | count the things. | how many objects are in the picture? | how many things?
  | how many things are in this picture? | how many are there in all?
count-kind: how many {many} are there? | how many {many} do you see? | how many {many} are in the picture?
  | how many {many} can you see? | how many {many}? | count the {many}.
is-there: is there {one}? | is there {one} in the picture? | do you see {one}? | can you see {one}?
  | are there any {many}? | is {one} in the picture? | are there {many}? | does the picture show {one}?
  | is there any {name}? | any {many}? | {one}? | is there {one} here? | is there {one} in this picture?
  | is there {one} in the image? | are there any {many} in the picture? | does it show {one}?
count-group: how many {many} are there? | how many {many} do you see? | how many {many} are in the picture?
  | how many {many} can you see? | how many {many}? | count the {many}. | number of {many}?
is-there-group: is there {one}? | is there {one} in the picture? | do you see {one}? | can you see {one}?
  | are there any {many}? | are there {many}? | is there any {name}? | any {many}?
colour: what colour is the {name}? | which colour is the {name}? | what is the colour of the {name}?
  | what's the colour of the {name}? | what colour does the {name} have? | colour of the {name}?
  | the {name} is what colour? | and what colour is the {name}? | tell me the colour of the {name}.
it-colour: what colour is it? | and what colour is it? | which colour is it? | what is its colour?
  | and its colour? | and the colour? | what colour does it have?
is-colour: is the {name} {colour}? | is it a {colour} {name}? | is the colour of the {name} {colour}?
  | does the {name} look {colour}?
place-left: is there {one} on the left? | is {one} on the left? | is there {one} on the left side?
  | are there {many} on the left? | do you see {one} on the left?
place-right: is there {one} on the right? | is {one} on the right? | is there {one} on the right side?
  | are there {many} on the right? | do you see {one} on the right?
place-top: is there {one} at the top? | is {one} at the top? | are there {many} at the top?
  | do you see {one} at the top? | is there {one} in the upper half?
place-bottom: is there {one} at the bottom? | is {one} at the bottom? | are there {many} at the bottom?
  | do you see {one} at the bottom? | is there {one} in the lower half?
compare-left: is the {first} left of the {second}? | is the {first} to the left of the {second}?
  | is the {first} on the left of the {second}? | does the {first} stand left of the {second}?
compare-right: is the {first} right of the {second}? | is the {first} to the right of the {second}?
  | is the {first} on the right of the {second}? | does the {first} stand right of the {second}?
compare-top: is the {first} above the {second}? | is the {first} over the {second}?
  | is the {first} higher than the {second}? | is the {second} under the {first}?
compare-bottom: is the {first} below the {second}? | is the {first} under the {second}?
  | is the {first} beneath the {second}? | is the {first} lower than the {second}?
background: what colour is the background? | what is the background colour?
  | what is the colour of the background? | which colour is the background?
  | what's the background colour? | what colour is it behind? | background colour?
  | and what colour is the background? | and the background?
beside-left: what is left of the {name}? | what is to the left of the {name}? | what's left of the {name}?
  | what is on the left of the {name}? | which thing is left of the {name}?
beside-right: what is right of the {name}? | what is to the right of the {name}?
  | what's right of the {name}? | what is on the right of the {name}? | which thing is right of the {name}?
beside-top: what is above the {name}? | what's above the {name}? | which thing is above the {name}?
  | what is over the {name}?
beside-bottom: what is below the {name}? | what is under the {name}? | what's below the {name}?
  | what is beneath the {name}?
describe: describe the picture. | describe this picture. | what is happening? | describe the image.
  | describe it. | what does the picture show? | write a caption.
next-left: and on the left? | and what is on the left? | and the left?
next-right: and on the right? | and what is on the right? | and the right?
next-top: and at the top? | and what is at the top? | and on top?
next-bottom: and at the bottom? | and what is at the bottom? | and the bottom?
it-left: and what is left of it? | what is left of it? | what is to the left of it? | and left of it?
  | and to the left of it?
it-right: and what is right of it? | what is right of it? | what is to the right of it? | and right of it?
  | and to the right of it?
it-top: and what is above it? | what is above it? | what's above it? | and above it? | and over it?
it-bottom: and what is below it? | what is below it? | what is under it? | and below it? | and under it?
them: how many of them are there? | and how many are there? | how many of them? | how many?
  | how many are there?
too: is there {one} too? | and {one}? | is there also {one}? | and is there {one}?
"""


def _read(listing: str) -> dict[str, tuple[str, ...]]:
    joined = listing.strip().replace("\n  |", " |")
    parts = (line.split(": ", 1) for line in joined.splitlines())
    return {task: tuple(form.strip() for form in forms.split("|")) for task, forms in parts}


WORDINGS: dict[str, tuple[str, ...]] = _read(_LIST)
CAPTION_STARTS = ("a picture of", "a photo of", "an image of", "this is", "there is")
