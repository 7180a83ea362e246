"""Several models in one server: which of them answers, what they share, and how `--also` is read."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat import loading
from blip2_chat.checkpoint import requirements as memory
from blip2_chat.cli import app as cli
from blip2_chat.cli.options import ModelOptions
from blip2_chat.cli.several_models import AlsoError, beside, read
from blip2_chat.model import Model
from blip2_chat.web.model_ids import SameNameError, ids_of
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    asking,
    data_url,
    gated,
    get,
    inside,
    leaving,
    picture,
    post,
    process,
    request,
    running,
    terminated,
    tokens_written,
)

URL = data_url(picture(1))
IDS = ["demo", "demo:int8", "t5"]


def load(precision: str) -> Model:
    return blip2_chat.load("demo", precision=precision, threads=1)


@pytest.fixture(scope="module")
def references(make_model: MakeModel) -> dict[str, Model]:
    """The same models, to ask without the server."""
    return dict(zip(IDS, (load("fp32"), load("int8"), make_model("t5")), strict=True))


@pytest.fixture(scope="module")
def client(several: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{several.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def body(model: str | None, question: str = "what is this?", **settings: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {**named, "messages": asking(question, URL), "max_tokens": 8, **settings}


def test_models(client: openai.OpenAI) -> None:
    listed: list[Any] = list(client.models.list())
    assert [one.id for one in listed] == IDS
    assert [one.blip2_chat["name"] for one in listed] == ["demo", "demo", "t5"]
    assert [one.blip2_chat["precision"] for one in listed] == ["fp32", "int8", "fp32"]
    assert [one.blip2_chat["family"] for one in listed] == ["opt", "opt", "t5"]
    assert [bool(one.blip2_chat["samples"]) for one in listed] == [True, True, False]
    assert [client.models.retrieve(one.id) for one in listed] == listed


@pytest.mark.parametrize("model", IDS)
def test_the_model_that_is_named_answers(
    client: openai.OpenAI, references: dict[str, Model], model: str
) -> None:
    expected = references[model].chat(picture(1), max_new_tokens=8).ask("what is this?")
    answer = client.chat.completions.create(**body(model, logprobs=True))
    assert answer.model == model
    assert answer.system_fingerprint == f"blip2-chat-onnx-{references[model].engine.precision}"
    assert answer.choices[0].message.content == expected.text
    told = [one.logprob for one in answer.choices[0].logprobs.content]
    # Closer than the precisions are to each other.
    assert told == pytest.approx(expected.logprobs[: len(told)], abs=1e-4)
    pieces = list(client.chat.completions.create(**body(model, stream=True)))
    assert {piece.model for piece in pieces} == {model}
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected.text


def test_a_request_that_names_none_is_answered_by_the_first(several: Running) -> None:
    answer = post(f"{several.url}/v1/chat/completions", json=body(None)).json()
    assert answer["model"] == "demo" and answer["choices"][0]["message"]["content"]
    assert post(f"{several.url}/v1/caption", json={"pictures": [URL]}).json()["model"] == "demo"


def test_captions(several: Running, references: dict[str, Model]) -> None:
    for model in IDS:
        expected = references[model].chat(picture(2), max_new_tokens=8).caption().text
        for given in (
            {"json": {"pictures": [data_url(picture(2))], "model": model, "max_tokens": 8}},
            {"files": {"pictures": picture(2)}, "data": {"model": model, "max_tokens": "8"}},
        ):
            told = post(f"{several.url}/v1/caption", **given).json()  # type: ignore[arg-type]
            assert (told["model"], told["data"][0]["caption"]) == (model, expected)


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("chat/completions", body("demo:int4")),
        ("caption", {"pictures": [URL], "model": "demo:int4"}),
        ("models/demo:int4", None),
    ],
)
def test_a_model_that_is_not_here(several: Running, path: str, request_: Any) -> None:
    response = request("POST" if request_ else "GET", f"{several.url}/v1/{path}", json=request_)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert error["message"] == (
        "there is no model 'demo:int4' here; this server has 'demo', 'demo:int8', 't5'"
    )


def test_side_by_side(several: Running) -> None:
    """All models at once, and every answer is the one it would have been alone."""
    cases = [(model, question) for question in ("what is this?", "why?", "how many?") for model in IDS]

    def ask(model: str, question: str) -> str:
        answer = post(f"{several.url}/v1/chat/completions", json=body(model, question)).json()
        return str(answer["choices"][0]["message"]["content"])

    alone = [ask(*case) for case in cases]
    together = [""] * len(cases)

    def one(place: int) -> None:
        together[place] = ask(*cases[place])

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_metrics(several: Running) -> None:
    before = tokens_written(several)
    answer = post(f"{several.url}/v1/chat/completions", json=body("demo:int8")).json()
    after = tokens_written(several)
    assert after["demo:int8"] - before.get("demo:int8", 0) == answer["usage"]["completion_tokens"]
    assert after.get("demo") == before.get("demo")
    told = get(f"{several.url}/metrics").text
    for model in IDS:
        assert f'blip2_chat_rows{{model="{model}"}} 0.0' in told


@pytest.fixture
def slow_t5(make_model: MakeModel) -> Any:
    """A model whose every step waits for `model.gate`."""
    return gated(make_model("t5"))


def test_a_client_that_leaves_frees_the_slot_of_its_own_model(make_model: MakeModel, slow_t5: Any) -> None:
    with running(make_model(), also=[slow_t5], slots=1) as server:
        slow = server.service.models[1].scheduler

        def stays(_: socket.socket) -> None:
            assert wait_until(lambda: slow.busy_rows == 1)
            # The other model is not held up.
            assert server.scheduler.busy_rows == 0
            assert post(f"{server.url}/v1/chat/completions", json=body("opt")).status_code == 200

        leaving(server, body("t5", max_tokens=200, min_tokens=200, stream=True), stays)
        slow_t5.gate.set()
        assert wait_until(lambda: slow.busy_rows == 0)
        assert slow_t5.gate.passed <= 1, "it was written on, for nobody"


def test_all_models_share_one_limit_of_requests(make_model: MakeModel, slow_t5: Any) -> None:
    with running(make_model(), also=[slow_t5], slots=1, queue=0) as server:
        url = f"{server.url}/v1/chat/completions"
        first = threading.Thread(target=post, args=(url,), kwargs={"json": body("t5")})
        first.start()
        assert wait_until(lambda: server.service.places.full)
        assert post(url, json=body("opt")).status_code == 429
        slow_t5.gate.set()
        first.join()
        assert post(url, json=body("opt")).status_code == 200


def test_the_server_is_ready_when_every_model_is(make_model: MakeModel) -> None:
    with running(make_model(), also=[make_model("t5")]) as server:
        assert get(f"{server.url}/ready").status_code == 200
        server.service.models[1].scheduler.close()
        assert get(f"{server.url}/ready").json() == {"status": "stopped"}
        assert get(f"{server.url}/ready").status_code == 503


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_finishes_what_all_models_write(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    options = ("--also", "demo:int8", "--slots", "1", "--threads", "1")
    with process("demo", *options, hold=hold) as (url, server):
        results: list[dict[str, Any]] = []

        def ask(number: int) -> None:
            request = body(IDS[number % 2], f"what is number {number}?", max_tokens=60, min_tokens=60)
            results.append(post(f"{url}/v1/chat/completions", json=request).json())

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: inside(url) == 6)
        assert terminated(url, server)
        assert not results
        hold.unlink()
        for thread in threads:
            thread.join()
        assert sorted(answer["model"] for answer in results) == ["demo"] * 3 + ["demo:int8"] * 3
        assert [answer["usage"]["completion_tokens"] for answer in results] == [60] * 6
        assert server.wait(60) in (0, -signal.SIGTERM)


# The command line


@pytest.mark.parametrize(
    ("text", "name", "precision"),
    [
        ("demo", "demo", "auto"),
        ("demo:int8", "demo", "int8"),
        ("Salesforce/blip2-opt-2.7b:int4", "Salesforce/blip2-opt-2.7b", "int4"),
        ("org/name@refs/pr/3:fp32", "org/name@refs/pr/3", "fp32"),
        (r"C:\models\blip2", r"C:\models\blip2", "auto"),
        (r"C:\models\blip2:int8", r"C:\models\blip2", "int8"),
        ("C:/models/blip2", "C:/models/blip2", "auto"),
    ],
)
def test_a_name_and_a_precision(text: str, name: str, precision: str) -> None:
    assert read(text) == (name, None, precision)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo+mine", ("demo", "mine", "auto")),
        ("org/a+org/lora:int8", ("org/a", "org/lora", "int8")),
        ("org/a+runs/my+adapter", ("org/a", "runs/my+adapter", "auto")),
    ],
)
def test_a_name_and_an_adapter(text: str, expected: tuple[str, str, str]) -> None:
    assert read(text) == expected


def test_an_adapter_is_that_of_one_model() -> None:
    first = ModelOptions(model="org/a", adapter="org/lora")
    plain, adapted = beside(first, ["org/a", "org/a+org/other"])
    assert (plain.adapter, adapted.adapter) == (None, "org/other")
    with pytest.raises(AlsoError, match=r"org/a\+org/lora is asked for twice"):
        beside(first, ["org/a+org/lora"])


@pytest.mark.parametrize("text", ["", ":int8", "demo:", "demo:int9", "not-a-folder:either", "demo+", "+lora"])
def test_a_wrong_name_or_precision_is_reported(text: str) -> None:
    with pytest.raises(AlsoError, match="--also"):
        read(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--also", "demo:int9"), "precision 'int9' is none of auto, int8, int4, fp32, fp16, bf16"),
        (("--also", ":int8"), "names no model"),
        (("--also", "demo"), "demo is asked for twice"),
        (("--also", "demo:int8", "--also", "demo:int8"), "demo at int8 is asked for twice"),
        (("--also", "demo:fp32"), "demo at fp32 is asked for twice"),
        (("--precision", "fp32", "--also", "demo"), "two of the models would be called demo:fp32"),
        (("--also", "./nowhere"), "there is no folder nowhere"),
        (("--device", "cpu", "--engine", "onnx", "--also", "demo:fp16"), "fp16 needs the torch engine"),
    ],
)
def test_errors_are_one_line(options: tuple[str, ...], complaint: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "--port", "0", "--model", "demo", *options])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert complaint in result.output


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that have been loaded since the test began."""
    start, engines = loading._start, []

    def counted(*given: Any) -> Any:
        engines.append(start(*given))
        return engines[-1]

    monkeypatch.setattr(loading, "_start", counted)
    return engines


def test_a_further_model_is_held_against_the_memory_that_is_left(
    monkeypatch: pytest.MonkeyPatch, loaded: list[Any]
) -> None:
    """Each would fit alone. What is available is asked again once the first is in memory."""
    monkeypatch.setattr(memory, "available_memory", lambda: 10**7 if loaded else 10**12)
    result = CliRunner().invoke(cli, ["serve", "--port", "0", "--model", "demo", "--also", "demo:int8"])
    assert result.exit_code == 1 and len(loaded) == 1
    assert "beside demo at fp32: demo at int8 with the onnx engine needs about" in result.output
    assert "10 MB is available" in result.output
    assert result.output.count("\n") == 1


def test_advice_about_memory_in_the_words_of_the_option(
    monkeypatch: pytest.MonkeyPatch, loaded: list[Any]
) -> None:
    config = loading.inspect(loading.find("demo")).config
    between = (memory.needed(config, "int4", "onnx") + memory.needed(config, "fp32", "onnx")) // 2
    monkeypatch.setattr(memory, "available_memory", lambda: between if loaded else 10**12)
    options = ["--precision", "int8", "--also", "demo:fp32"]
    result = CliRunner().invoke(cli, ["serve", "--port", "0", "--model", "demo", *options])
    assert re.search(r"; --also demo:int\d needs \d+ MB and fits", result.output), result.output


def ids(*models: tuple[str | Path, str]) -> list[str]:
    made: list[Any] = [
        SimpleNamespace(name=str(name), engine=SimpleNamespace(precision=precision))
        for name, precision in models
    ]
    return ids_of(made)


def test_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "one" / "blip2", tmp_path / "two" / "blip2"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert ids(("org/a", "int8"), ("org/a", "int4"), ("demo", "fp32")) == ["org/a", "org/a:int4", "demo"]
    # Converted folders of one name: no path is told.
    assert ids((folders[0], "int8"), (folders[1], "int4")) == ["blip2", "blip2:int4"]
    monkeypatch.chdir(folders[0])
    assert ids((".", "int8")) == ["blip2"]
    for same in ([("demo", "fp32"), ("demo", "fp32")], [(folders[0], "int8"), (folders[1], "int8")]):
        with pytest.raises(SameNameError, match="rename a folder"):
            ids(*same)


@pytest.mark.skipif(sys.platform == "win32", reason="there no name may have a colon")
def test_a_folder_whose_name_has_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:colon").mkdir()
    (tmp_path / "blip2:int4").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read("a:colon") == ("a:colon", None, "auto")
    assert read("a:colon:int4") == ("a:colon", None, "int4")
    assert read("blip2:int4") == ("blip2:int4", None, "auto")
    with pytest.raises(SameNameError):
        ids(("blip2:int4", "fp32"), ("blip2", "int8"), ("blip2", "int4"))


def test_a_processor_and_a_revision_are_those_of_one_model() -> None:
    first = ModelOptions(model="org/a", processor="org/p", revision="v2", threads=2)
    other, same = beside(first, ["org/b", "org/a:int4"])
    assert (other.processor, other.revision, other.threads) == (None, None, 2)
    assert (same.processor, same.revision, same.precision) == ("org/p", "v2", "int4")
