"""ChatWidget without a page: the messages a page sends, and what it would be shown."""

from __future__ import annotations

from tests.support.extras import require

require("test-notebook")

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat import loading
from blip2_chat.errors import GenerationError
from blip2_chat.images import PictureLimits
from blip2_chat.model import Model
from blip2_chat.notebook import ChatWidget, LoadingBar
from blip2_chat.notebook.locked import LockedEngine

SOON = 60  # seconds; only a broken widget takes them


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Path]) -> Model:
    return blip2_chat.load(checkpoint("opt", 4), engine="torch", precision="fp32", device="cpu")


def png(seed: int = 0, size: tuple[int, int] = (90, 70)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def widget(model: Model) -> Iterator[ChatWidget]:
    made = ChatWidget(model, max_new_tokens=8)
    yield made
    made.close()


def tell(widget: ChatWidget, kind: str, *buffers: bytes, **more: Any) -> None:
    """A message as it arrives from a page."""
    widget._handle_custom_msg({"kind": kind, **more}, [memoryview(one) for one in buffers])


def give(widget: ChatWidget, data: bytes, name: str = "noise.png", part: int = 4096) -> None:
    for at in range(0, len(data), part):
        tell(widget, "picture", data[at : at + part], name=name, size=len(data), at=at)


def test_a_picture_in_parts_is_opened_and_captioned(widget: ChatWidget, model: Model) -> None:
    give(widget, png())
    assert widget.wait(SOON)
    expected = model.chat(png(), max_new_tokens=8).caption()
    assert widget.error == ""
    assert widget.picture["name"] == "noise.png"
    assert widget.picture["caption"] == expected.text != ""
    assert widget.picture["src"].startswith("data:image/")
    assert (widget.busy, widget.partial, widget.asking) == ("", "", "")


def test_questions_are_answered_in_context(widget: ChatWidget, model: Model) -> None:
    give(widget, png())
    tell(widget, "ask", question="how many cats?")
    tell(widget, "ask", question="and where?")
    assert widget.wait(SOON)
    chat = model.chat(png(), max_new_tokens=8)
    expected = [chat.ask("how many cats?"), chat.ask("and where?")]
    assert [turn["answer"] for turn in widget.turns] == [answer.text for answer in expected]
    assert [turn["question"] for turn in widget.turns] == ["how many cats?", "and where?"]
    notes = ["cut short" if answer.finish_reason == "length" else "" for answer in expected]
    assert [turn["note"] for turn in widget.turns] == notes and "cut short" in notes
    assert widget.chat is not None and len(widget.chat.turns) == 3


def test_undo_and_start_over_keep_picture_and_caption(widget: ChatWidget) -> None:
    give(widget, png())
    for question in ("one?", "two?", "three?"):
        tell(widget, "ask", question=question)
    assert widget.wait(SOON)
    caption = widget.picture["caption"]
    tell(widget, "undo")
    widget.wait(SOON)
    assert [turn["question"] for turn in widget.turns] == ["one?", "two?"]
    tell(widget, "start_over")
    tell(widget, "undo")
    widget.wait(SOON)
    assert widget.turns == [] and widget.error == ""
    assert widget.picture["caption"] == caption
    assert widget.chat is not None and [turn.question for turn in widget.chat.turns] == [None]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.png", b"hello there", "notes.png is text, not a picture"),
        ("cut.png", png()[:900], "cut.png is damaged or cut short"),
        ("../up\nand/away.png", b"", "away.png is empty"),
    ],
)
def test_a_bad_file_is_one_line_and_the_chat_goes_on(
    widget: ChatWidget, name: str, data: bytes, said: str
) -> None:
    give(widget, png())
    tell(widget, "ask", question="one?")
    if data:
        give(widget, data, name)
    else:
        tell(widget, "picture", b"", name=name, size=0, at=0)
    assert widget.wait(SOON)
    assert widget.error.startswith(said)
    assert "\n" not in widget.error and len(widget.error) < 300
    tell(widget, "ask", question="two?")
    assert widget.wait(SOON)
    assert widget.error == ""
    assert [turn["question"] for turn in widget.turns] == ["one?", "two?"]


def test_a_file_over_the_limit_is_refused_before_it_is_sent(checkpoint: Callable[..., Path]) -> None:
    small = blip2_chat.load(
        checkpoint("opt", 4), engine="torch", device="cpu", limits=PictureLimits(max_bytes=1 << 20)
    )
    widget = ChatWidget(small)
    assert widget.max_bytes == 1 << 20, "the page knows it"
    tell(widget, "picture", b"", name="huge.tif", size=30 << 20, at=0)
    widget.wait(SOON)
    assert widget.error == "huge.tif is larger than the limit of 1 MiB; save a smaller copy and use that"
    assert widget.chat is None
    widget.close()


def test_impossible_requests_are_reported(widget: ChatWidget) -> None:
    tell(widget, "ask", question="what?")
    widget.wait(SOON)
    assert "choose one first" in widget.error
    tell(widget, "save")
    widget.wait(SOON)
    assert "no conversation to save" in widget.error
    give(widget, png())
    tell(widget, "ask", question="  ")
    widget.wait(SOON)
    assert "question is empty" in widget.error
    tell(widget, "url", url="/nowhere/at all.png")
    widget.wait(SOON)
    assert widget.error == "/nowhere/at all.png was not found; check the path"
    with pytest.raises(GenerationError, match="unknown setting"):
        ChatWidget(widget.model, tokens=3)  # type: ignore[arg-type]


def test_stop_keeps_what_was_written(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.notebook.widget._BETWEEN", -1.0)  # each word is shown, however fast
    widget = ChatWidget(model, max_new_tokens=400)
    widget.look_at(png(1))
    widget.stop()  # nothing to stop yet; must not stop what comes

    def enough(change: Any) -> None:
        if len(change["new"]) > 20:
            widget.stop()

    widget.observe(enough, "partial")
    widget.ask("what is this?")
    assert widget.wait(SOON)
    turn = widget.turns[-1]
    whole = model.chat(png(1), max_new_tokens=400).ask("what is this?").text
    assert turn["note"] == "stopped"
    assert 20 < len(turn["answer"]) < len(whole)
    assert whole.startswith(turn["answer"])
    widget.close()


def test_a_stop_counts_from_when_it_is_offered(widget: ChatWidget) -> None:
    """The page offers it as soon as it knows that there is something to stop."""
    widget.look_at(png(1))
    assert widget.wait(SOON)
    widget.observe(lambda change: change["new"] == "answering" and widget.stop(), "busy")
    widget.ask("what is this?")
    assert widget.wait(SOON)
    assert [turn["note"] for turn in widget.turns] == ["stopped"]


def test_the_kernel_is_free_while_an_answer_is_written(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = blip2_chat.load(checkpoint("opt", 4), engine="torch", device="cpu")
    widget = ChatWidget(model, max_new_tokens=8)
    widget.look_at(png())
    assert widget.wait(SOON)
    gate, reached = threading.Event(), threading.Event()
    step = model.engine.step

    def held(*given: Any) -> Any:
        if threading.current_thread().name == "blip2-chat widget":
            reached.set()
            assert gate.wait(SOON)
        return step(*given)

    monkeypatch.setattr(model.engine, "step", held)
    tell(widget, "ask", question="one?")
    assert reached.wait(SOON)
    # The answer is under way and stands still; the kernel's thread came back, and cells may use the model.
    assert (widget.busy, widget.asking) == ("answering", "one?")
    mine = model.chat(png(2), max_new_tokens=8).ask("what is this?")
    gate.set()
    assert widget.wait(SOON)
    fresh = blip2_chat.load(checkpoint("opt", 4), engine="torch", device="cpu")
    assert mine.tokens == fresh.chat(png(2), max_new_tokens=8).ask("what is this?").tokens
    assert widget.turns[0]["answer"] == fresh.chat(png(), max_new_tokens=8).ask("one?").text
    widget.close()


def test_two_threads_never_are_in_one_engine(model: Model) -> None:
    class Counting:
        config, name, precision, device = model.engine.config, "torch", "fp32", "cpu"
        inside = most = 0

        def encode_image(self, pixels: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            threading.Event().wait(0.005)
            self.inside -= 1
            return pixels

    inner: Any = Counting()
    engine = LockedEngine.around(inner)
    assert LockedEngine.around(engine) is engine
    threads = [threading.Thread(target=engine.encode_image, args=(None,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.most == 1


def test_a_name_is_loaded_in_the_background_with_progress(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    load, watched = loading.load, threading.Event()
    monkeypatch.setattr(loading, "load", lambda *given, **more: watched.wait(SOON) and load(*given, **more))
    # A checkpoint that no other test has converted.
    widget = ChatWidget(checkpoint("opt", 41), png(), max_new_tokens=4)
    widget.observe(lambda change: seen.append((change["new"], widget.amount)), "busy")
    watched.set()
    assert widget.wait(SOON)
    assert widget.picture["caption"] and widget.error == ""
    assert any(" of " in what for what, _ in seen), seen
    assert "fp32, cpu)" in widget.label
    widget.close()

    absent = ChatWidget("./no such folder", png())
    assert absent.wait(SOON)
    assert "no such folder" in absent.error
    absent.close()


def test_closing_ends_the_thread(model: Model) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "blip2-chat widget"}
    widget = ChatWidget(model)
    (mine,) = {one for one in threading.enumerate() if one.name == "blip2-chat widget"} - before
    widget.close()
    mine.join(SOON)
    assert not mine.is_alive()


def test_a_long_load_shows_how_far_it_is_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown.append(bundle)

    # In that module alone: servers of other tests have clocks, too.
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("blip2_chat.notebook.progress.time", clock)
    monkeypatch.setattr(
        "blip2_chat.notebook.progress.display", lambda bundle, **how: (shown.append(bundle), Handle())[1]
    )
    bar = LoadingBar()
    gigabyte = 1_000_000_000
    for done in (0, 1, 2, 3):
        now[0] += 0.3
        bar("downloading <model>", done * gigabyte, 3 * gigabyte)
    assert [one["text/plain"] for one in shown] == [
        "downloading <model>: 1.0 GB of 3.0 GB",
        "downloading <model>: 2.0 GB of 3.0 GB",
        "",
    ]
    assert (
        '<progress max="3000000000" value="1000000000" aria-label="downloading &lt;model&gt;">'
        in shown[0]["text/html"]
    )
    assert "<model>" not in shown[0]["text/html"] and shown[-1]["text/html"] == ""


def test_a_loading_bar_is_quiet_about_short_loads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip2_chat.notebook.progress.time", SimpleNamespace(monotonic=lambda: 100.0))
    bar = LoadingBar()
    for done in range(5):
        bar("loading", done, 4)
    assert capsys.readouterr().out == ""
