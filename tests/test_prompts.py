"""The wordings of the BLIP-2 authors, and what goes when a conversation grows too long."""

from __future__ import annotations

import pytest

from blip2_chat.errors import GenerationError
from blip2_chat.prompts import TEMPLATES, Exchange, PromptTemplate, fit

TALK = [Exchange("which city is this?", "singapore"), Exchange("why?", "it has a merlion.")]


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_the_authors_wordings() -> None:
    opt, t5 = TEMPLATES["opt"], TEMPLATES["t5"]
    assert opt.render([], "which city is this?") == "Question: which city is this? Answer:"
    assert t5.render([], "which city is this?") == "Question: which city is this? Short answer:"
    assert (
        opt.render(TALK[:1], "why?")
        == "Question: which city is this? Answer: singapore. Question: why? Answer:"
    )
    assert opt.caption == t5.caption == ""


def test_an_answer_that_ends_with_a_full_stop_does_not_get_a_second() -> None:
    assert "it has a merlion. Question:" in TEMPLATES["opt"].render(TALK, "really?")


def test_braces_in_what_people_say_stay_as_they_are() -> None:
    talk = [Exchange("what is {answer}?", "{question}")]
    assert TEMPLATES["opt"].render(talk, "{0}?") == (
        "Question: what is {answer}? Answer: {question}. Question: {0}? Answer:"
    )


@pytest.mark.parametrize(("budget", "dropped"), [(100, 0), (14, 0), (13, 1), (9, 1), (8, 2), (3, 2)])
def test_the_oldest_turns_go_first(budget: int, dropped: int) -> None:
    # In words the question is 3, the younger turn 6 and the older 5.
    fitted = fit(
        TEMPLATES["opt"], words, [Exchange("one two", "x"), Exchange("three four five", "y")], "z?", budget
    )
    assert len(fitted.token_ids) <= budget
    assert fitted.dropped_turns == dropped
    assert fitted.text.endswith("Question: z? Answer:")
    assert ("three" in fitted.text) == (dropped < 2)
    assert ("one" in fitted.text) == (dropped < 1)


def test_a_question_that_is_too_long_alone_is_an_error_with_the_numbers() -> None:
    with pytest.raises(GenerationError, match="5 tokens, and 4 fit"):
        fit(TEMPLATES["opt"], words, TALK, "one two three", 4)


def test_a_template_without_its_places_is_refused() -> None:
    with pytest.raises(GenerationError, match="needs"):
        PromptTemplate(question="Answer:")
