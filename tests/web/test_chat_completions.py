"""The API with the real `openai` client: whole and streamed, sync and async."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import asyncio
import math
import threading
from typing import Any

import openai
import pytest

from blip2_chat.images import open_picture
from blip2_chat.model import Model
from tests.support.openai_chat import URL, ask, connected
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    asking,
    data_url,
    gated,
    picture,
    post,
    running,
)


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    """The model behind the server, once more, to ask without it."""
    return make_model()


def test_an_answer(client: openai.OpenAI, server: Running, reference: Model) -> None:
    chat = reference.chat(picture(1), max_new_tokens=10)
    expected = chat.ask("what is this?")
    answer = ask(client, server)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == server.model
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.tokens)
    assert answer.usage.total_tokens == expected.prompt_tokens + len(expected.tokens)
    assert answer.blip2_chat["picture"] == open_picture(picture(1)).digest


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, server: Running) -> None:
    whole = ask(client, server, max_tokens=30)
    with ask(client, server, max_tokens=30, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert told[0].delta.role == "assistant"
    pieces = [choice.delta.content or "" for choice in told]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(bool(piece) for piece in pieces) > 3
    assert [choice.finish_reason for choice in told if choice.finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_the_bytes_of_a_stream(server: Running) -> None:
    body = {"model": server.model, "messages": asking("?", URL), "max_tokens": 3, "stream": True}
    response = post(f"{server.url}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])
    assert '"usage"' not in response.text


def test_async_answers_side_by_side(server: Running, client: openai.OpenAI) -> None:
    questions = [f"what is number {number}?" for number in range(6)]
    alone = [
        ask(client, server, asking(question, data_url(picture(number)))).choices[0].message.content
        for number, question in enumerate(questions)
    ]

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:

            async def one(number: int, question: str) -> str:
                stream = await client.chat.completions.create(
                    model=server.model,
                    messages=asking(question, data_url(picture(number))),  # type: ignore[arg-type]
                    max_tokens=10,
                    stream=True,
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*[one(*pair) for pair in enumerate(questions)])

    assert asyncio.run(together()) == alone
    assert len(set(alone)) > 1


def test_a_conversation(client: openai.OpenAI, server: Running, reference: Model) -> None:
    """The picture in the first message, as in `Chat`; the follow-up goes on from the first answer's state."""
    url = data_url(picture(77))
    chat = reference.chat(picture(77), max_new_tokens=10)
    first = ask(client, server, asking("what is on the left?", url))
    assert first.choices[0].message.content == chat.ask("what is on the left?").text
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        *asking("what is on the left?", url),
        {"role": "assistant", "content": first.choices[0].message.content},
        {
            "role": "user",
            "content": [{"type": "text", "text": "and on the"}, {"type": "text", "text": " right?"}],
        },
    ]
    second = ask(client, server, messages)
    assert second.choices[0].message.content == chat.ask("and on the right?").text
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert second.blip2_chat["dropped_turns"] == 0


def test_the_last_picture_counts(client: openai.OpenAI, server: Running) -> None:
    other = data_url(picture(5))
    plain = ask(client, server, asking("what is this?", other))
    changed = ask(
        client,
        server,
        [
            *asking("what is this?", URL),
            {"role": "assistant", "content": "a cat"},
            *asking("what is this?", other),
        ],
    )
    assert changed.choices[0].message.content == plain.choices[0].message.content
    assert changed.usage.prompt_tokens == plain.usage.prompt_tokens
    assert plain.choices[0].message.content != ask(client, server).choices[0].message.content


def test_a_picture_alone_is_captioned(client: openai.OpenAI, server: Running, reference: Model) -> None:
    content = [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}]
    answer = ask(client, server, [{"role": "user", "content": content}])
    assert answer.choices[0].message.content == reference.chat(picture(1), max_new_tokens=10).caption().text


def test_a_conversation_too_long_loses_its_oldest_turns(client: openai.OpenAI, server: Running) -> None:
    turns: list[dict[str, Any]] = asking("what is this?", URL)
    for number in range(40):
        turns += [
            {"role": "assistant", "content": f"answer {number}"},
            {"role": "user", "content": f"what is number {number}, and why is it there?"},
        ]
    assert ask(client, server, turns).blip2_chat["dropped_turns"] > 5


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(client: openai.OpenAI, server: Running, reference: Model, stream: bool) -> None:
    settings: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 4, "stream": stream}
    if stream:
        texts = ["", "", ""]
        for chunk in ask(client, server, **settings):
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
    else:
        texts = [choice.message.content for choice in ask(client, server, **settings).choices]
    drawn = reference.chat(picture(1), max_new_tokens=10, num_answers=3, temperature=1.0, seed=4)
    answer = drawn.ask("what is this?")
    assert sorted(texts) == sorted([answer.text, *(other.text for other in answer.others)])
    assert len(set(texts)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_the_likeliest_answer_several_times(client: openai.OpenAI, server: Running, stream: bool) -> None:
    answer = ask(client, server, n=2, temperature=0, stream=stream)
    single = ask(client, server)
    text = single.choices[0].message.content
    if stream:
        texts = ["", ""]
        ends = []
        for chunk in answer:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                ends += [choice.index] if choice.finish_reason else []
        assert texts == [text, text] and sorted(ends) == [0, 1]
    else:
        assert [choice.message.content for choice in answer.choices] == [text, text]
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.completion_tokens == 2 * single.usage.completion_tokens


def test_a_seed_repeats_and_another_does_not(client: openai.OpenAI, server: Running) -> None:
    texts = [
        ask(client, server, temperature=1.2, seed=seed).choices[0].message.content
        for seed in (7, 7, 8, -1, -1)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]


def test_beams_are_an_addition_of_ours(client: openai.OpenAI, server: Running, reference: Model) -> None:
    answer = ask(client, server, n=2, extra_body={"num_beams": 3})
    expected = reference.chat(picture(1), max_new_tokens=10, num_beams=3, num_answers=2).ask("what is this?")
    assert [one.message.content for one in answer.choices] == [expected.text, expected.others[0].text]


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client: openai.OpenAI, server: Running) -> None:
    whole = ask(client, server, max_tokens=30).choices[0].message.content
    stop = whole[4:6]
    for given in (stop, ["never written", stop]):
        answer = ask(client, server, max_tokens=30, stop=given)
        assert answer.choices[0].message.content == whole[: whole.index(stop)].strip()
        assert answer.choices[0].finish_reason == "stop"
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(client, server, max_tokens=30, stop=stop, stream=True)
    ]
    assert "".join(pieces) == whole[: whole.index(stop)].strip()


def test_logprobs(client: openai.OpenAI, server: Running, reference: Model) -> None:
    answer = ask(client, server, logprobs=True, top_logprobs=3)
    expected = reference.chat(picture(1), max_new_tokens=10).ask("what is this?")
    content = answer.choices[0].logprobs.content
    assert len(content) == len(expected.tokens) == answer.usage.completion_tokens
    for one, logprob in zip(content, expected.logprobs, strict=False):
        assert one.logprob == pytest.approx(logprob, abs=1e-3)
        assert len(one.top_logprobs) == 3
        # The likeliest token was taken, and alternatives are in order.
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-6)
        likely = [top.logprob for top in one.top_logprobs]
        assert likely == sorted(likely, reverse=True) and sum(map(math.exp, likely)) <= 1
    streamed = [
        entry
        for chunk in ask(client, server, logprobs=True, top_logprobs=3, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert [one.model_dump() for one in streamed] == [one.model_dump() for one in content]


def test_a_longer_answer_than_allowed_is_cut(client: openai.OpenAI, server: Running) -> None:
    most = client.models.retrieve(server.model).blip2_chat["max_tokens"]  # type: ignore[attr-defined]
    answer = ask(client, server, max_tokens=100_000, extra_body={"min_tokens": 100_000})
    assert answer.usage.completion_tokens == most
    assert answer.choices[0].finish_reason == "length"
    assert ask(client, server, max_completion_tokens=2).usage.completion_tokens == 2


def test_models(client: openai.OpenAI, server: Running) -> None:
    listed = client.models.list().data
    assert [one.id for one in listed] == [server.model]
    assert client.models.retrieve(server.model).id == server.model
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("gpt-4o")
    assert told.value.code == "model_not_found"


def test_a_temperature_close_to_zero_is_zero(client: openai.OpenAI, server: Running) -> None:
    expected = ask(client, server).choices[0].message.content
    assert ask(client, server, temperature=1e-320).choices[0].message.content == expected


def test_null_means_the_default(client: openai.OpenAI, server: Running) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("n", "stream", "logprobs", "stop", "temperature", "seed"))
    assert len(ask(client, server, **nothing).choices) == 1


def test_settings_without_effect_are_accepted(client: openai.OpenAI, server: Running) -> None:
    """What many tools send with every request."""
    answer = ask(
        client, server, tools=[], presence_penalty=0, frequency_penalty=0, logit_bias={}, user="someone",
        response_format={"type": "text"}, metadata={"a": "b"}, store=False, top_p=1, temperature=0,
    )  # fmt: skip
    assert answer.choices[0].message.content == ask(client, server).choices[0].message.content


def test_t5(make_model: MakeModel) -> None:
    with running(make_model("t5")) as server, connected(server) as client:
        answer = ask(client, server)
        whole = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, server, stream=True))
    expected = make_model("t5").chat(picture(1), max_new_tokens=10).ask("what is this?")
    assert answer.choices[0].message.content == whole == expected.text


def test_an_engine_that_fails_in_the_middle(make_model: MakeModel) -> None:
    """Whole: 500. Streamed: an error event, which the client raises."""
    model = make_model()
    step = model.engine.step
    steps: list[int] = []

    def broken(state: Any, tokens: Any) -> Any:
        steps.append(1)
        if len(steps) % 6 == 0:
            raise RuntimeError("secret words of a user")
        return step(state, tokens)

    model.engine.step = broken  # type: ignore[method-assign]
    with running(model) as server, connected(server) as client:
        with pytest.raises(openai.InternalServerError) as told:
            ask(client, server, max_tokens=10)
        assert "secret" not in str(told.value)
        with pytest.raises(openai.APIError) as told_late:
            list(ask(client, server, max_tokens=10, stream=True))
        assert "secret" not in str(told_late.value)
        assert ask(client, server, max_tokens=4).choices[0].message.content


def test_time_limit(make_model: MakeModel) -> None:
    model = gated(make_model())
    with running(model, time_limit=1000.0) as server, connected(server) as client:

        def much_later() -> threading.Thread:
            """The limit passes after three steps of an answer; its next one waits."""
            three = model.gate.passed + 3
            model.gate.let(3)

            def leap() -> None:
                assert wait_until(lambda: model.gate.passed == three)
                server.let_pass(1001)

            thread = threading.Thread(target=leap)
            thread.start()
            return thread

        later = much_later()
        with pytest.raises(openai.InternalServerError) as told:
            ask(client, server, max_tokens=100)
        assert told.value.status_code == 504 and told.value.code == "timeout"
        later.join()
        # Nobody waits for it any more: beyond the token that was under way it is not written on.
        model.gate.let(1)
        assert wait_until(lambda: server.scheduler.busy_rows == 0)
        later = much_later()
        stream = ask(client, server, max_tokens=100, stream=True)
        with pytest.raises(openai.APIError, match="longer than"):
            list(stream)
        later.join()
        model.gate.set()
        assert ask(client, server, max_tokens=2).choices[0].message.content
