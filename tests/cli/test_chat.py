"""`blip2-chat chat`: from a pipe in this process, and at a terminal in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.checkpoint.embedded import sample_pictures
from blip2_chat.cli import app
from blip2_chat.cli.repl import Talk, _unquoted
from tests.support.variants import first_of

SETTINGS = {"max_new_tokens": 6}
# An answer that is not over, however late ctrl-C is pressed: after a hundred tokens it waits for it.
_ENDLESS = """
import time
from blip2_chat.engines.onnx import OnnxEngine
step, steps = OnnxEngine.step, []
def endless(*given):
    steps.append(len(steps))
    while len(steps) > 100:
        time.sleep(0.05)  # one long sleep would not notice a signal that comes just before it begins
    return step(*given)
OnnxEngine.step = endless
"""
# What moves the cursor or colours the text.
_ESCAPE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("t5")


@pytest.fixture(scope="module")
def model(folder: Path) -> blip2_chat.Model:
    return blip2_chat.load(folder, engine="onnx", precision="fp32")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "one.png", tmp_path / "an other.png"]
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).integers(0, 256, (80, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def talk(model: blip2_chat.Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Pipes lines into `chat PICTURE`, with the loaded model."""
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)

    def pipe(picture: str, *lines: str) -> Any:
        command = ["chat", picture, "-m", "tiny", "--max-new-tokens", "6"]
        return CliRunner().invoke(app, command, input="".join(line + "\n" for line in lines))

    return pipe


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def test_a_pipe_gets_answers_alone(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str]
) -> None:
    result = talk(pictures[0], "\ufeffwhat is it?", "", "  and why? ", "/caption", "/caption a photo")
    chat = model.chat(pictures[0], **SETTINGS)
    answers = [chat.ask("what is it?"), chat.ask("and why?"), chat.caption(), chat.caption("a photo")]
    assert result.stdout.splitlines() == [printable(answer.text) for answer in answers]
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_embedded_model_says_what_it_is(
    model: blip2_chat.Model, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    monkeypatch.delenv("BLIP2_CHAT_MODEL", raising=False)
    result = CliRunner().invoke(app, ["chat", pictures[0]], input="")
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "never seen a photograph" in line
    assert line.endswith("blip2-chat chat photo.jpg --model Salesforce/blip2-opt-2.7b")


def test_each_failed_question_keeps_its_line(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str]
) -> None:
    result = talk(pictures[0], "what is it?", "why " * 600, "/nonsense", "and why?")
    chat = model.chat(pictures[0], **SETTINGS)
    first, last = chat.ask("what is it?").text, chat.ask("and why?").text
    assert result.stdout.splitlines() == [printable(first), "", printable(last)]
    assert [line[:6] for line in result.stderr.splitlines()] == ["Error:"] * 2
    assert "there is no command /nonsense; /help lists them" in result.stderr
    assert result.exit_code == 1


def test_questions_never_go_to_the_wrong_picture(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str]
) -> None:
    result = talk(pictures[0], "/image nowhere.png", "what is it?", f"/image '{pictures[1]}'", "what is it?")
    answer = model.chat(pictures[1], **SETTINGS).ask("what is it?").text
    assert result.stdout.splitlines() == ["", printable(answer)]
    assert (
        "Error: skipped, because its picture could not be opened (nowhere.png was not found" in result.stderr
    )
    assert "now about an other.png" in result.stderr
    assert result.exit_code == 1


def test_undo_again_reset_history(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str]
) -> None:
    result = talk(
        pictures[0],
        "what?",
        "why?",
        "/again",
        "/undo",
        "why?",
        "/history",
        "/reset",
        "/undo",
        "why?",
        "/quit",
        "no",
    )
    chat = model.chat(pictures[0], **SETTINGS)
    what, why = chat.ask("what?").text, chat.ask("why?").text
    alone = model.chat(pictures[0], **SETTINGS).ask("why?").text
    assert why != alone  # or the test would not see what /undo and /reset do to the context
    assert result.stdout.splitlines() == [printable(one) for one in (what, why, why, why, alone)]
    assert result.stderr.splitlines()[0] == "took back: why?"
    assert f"> what?\n{printable(what)}\n> why?\n{printable(why)}\n" in result.stderr
    assert "Error: there is no turn to undo" in result.stderr


def test_again_that_fails_keeps_the_old_answer(model: blip2_chat.Model, pictures: list[str]) -> None:
    talk = Talk(model, pictures[0], dict(SETTINGS), interactive=True)
    talk.chat.ask("what?")
    turns = list(talk.chat.turns)
    talk.chat.settings = {"min_new_tokens": 9, "max_new_tokens": 6}
    with pytest.raises(blip2_chat.GenerationError):
        talk.again("")
    assert talk.chat.turns == turns


def test_save_and_load(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    result = talk(
        pictures[0], "what?", f"/save {file}", "why?", f"/save {file}", "/save", f"/save {pictures[0]}"
    )
    assert f"saved 2 turns to {file}" in result.stderr
    assert "Error: /save needs a file name" in result.stderr
    assert f"Error: {pictures[0]} is there already; give another name" in result.stderr
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert [turn["question"] for turn in saved["turns"]] == ["what?", "why?"]

    chat = model.chat(pictures[0], **SETTINGS)
    chat.ask("what?")
    chat.ask("why?")
    then = chat.ask("and then?")
    result = talk(pictures[1], f"/load {file}", "and then?", f"/save {file}")
    assert result.stdout.splitlines() == [printable(then.text)]
    assert "about one.png, 2 turns" in result.stderr
    assert (result.exit_code, len(json.loads(file.read_text(encoding="utf-8"))["turns"])) == (0, 3)

    moved = tmp_path / "moved.png"
    Path(pictures[0]).rename(moved)
    assert "about moved.png, 3 turns" in talk(str(moved), f"/load {file}").stderr
    result = talk(pictures[1], f"/load {file}", "and then?")
    assert "is about one.png, and an other.png is another picture" in result.stderr
    assert (result.exit_code, result.stdout) == (1, "\n")


def test_help_names_every_command(talk: Callable[..., Any], pictures: list[str]) -> None:
    result = talk(pictures[0], "/help")
    for name in ("caption", "image", "again", "undo", "reset", "history", "save", "load", "help", "quit"):
        assert re.search(rf"^  /{name}\b.* \w", result.stderr, re.MULTILINE), name
    assert result.stdout == ""


def test_paths_as_terminals_paste_them() -> None:
    assert _unquoted("'my photo.jpg'") == _unquoted('"my photo.jpg"') == "my photo.jpg"
    assert _unquoted("it's.jpg") == "it's.jpg"
    if os.name != "nt":
        assert _unquoted(r"my\ photo.jpg") == "my photo.jpg"


class Terminal:
    """A command at a pseudo-terminal of 80 columns."""

    def __init__(self, *arguments: str, before: str) -> None:
        import pty

        self._hand, end = pty.openpty()
        code = f"{before}\nfrom blip2_chat.cli import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(end)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._hand, text.encode())

    def wait_for(self, pattern: str, after: int = 0) -> int:
        """Reads until `pattern` is shown -> where it ends."""
        found = self._search(pattern, after, 60)
        assert found, f"no {pattern!r} in {self.shown!r}"
        return found.end()

    def interrupt_for(self, pattern: str, after: int = 0) -> int:
        """Presses ctrl-C at a prompt until `pattern` is shown -> where it ends.

        Python's readline misses a signal that comes while it still draws (it looks for one only when its
        select() is interrupted), which no hand is quick enough for: like a person, the test presses again.
        """
        for _ in range(12):
            self.type("\x03")
            if found := self._search(pattern, after, 5):
                return found.end()
        pytest.fail(f"no {pattern!r} in {self.shown!r}")

    def _search(self, pattern: str, after: int, seconds: float) -> re.Match[str] | None:
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern, re.MULTILINE).search(self.shown, after)):
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self._hand], [], [], left)[0]:
                return None
            try:
                self.shown = _ESCAPE.sub("", self.shown + os.read(self._hand, 4096).decode(errors="replace"))
            except OSError:  # Linux's way to say that the other end is closed
                pytest.fail(f"ended without {pattern!r}: {self.shown!r}")
        return found

    def leave(self, key: str) -> int:
        """The exit status, once the process has ended by the key, pressed again as in `interrupt_for`."""
        for _ in range(12):
            self.type(key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout=5)
        pytest.fail(f"goes on: {self.shown!r}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._hand)


def _take_terminal() -> None:
    """As a shell at a terminal starts a command; tests that run in the background were told to ignore ctrl-C."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def terminal(*arguments: str, before: str = "") -> Iterator[Terminal]:
    """The command; `before`: Python that is run first."""
    opened = Terminal(*arguments, before=before)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_at_a_terminal(
    folder: Path, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    long = ("--max-new-tokens", "440", "--min-new-tokens", "440")
    arguments = ("chat", pictures[0], "-m", str(folder), "--engine", "onnx", *long)
    with terminal(*arguments, before=_ENDLESS) as screen:
        at = screen.wait_for("one.png, with ")
        at = screen.wait_for("^\r?> ", at)

        screen.type("what is it?\n")
        at = screen.wait_for("what is it\\?\r+\n", at)
        at = screen.wait_for(".{10}", at)  # it streams: the answer has begun
        screen.type("\x03")
        at = screen.wait_for("\\(interrupted\\)", at)
        at = screen.wait_for("^\r?> ", at)

        screen.type("/history\n")
        at = screen.wait_for("> what is it\\?\r\n.{5}", at)  # the partial answer was kept
        at = screen.wait_for("^\r?> ", at)

        screen.type("not this")
        at = screen.wait_for("not this", at)
        at = screen.interrupt_for("^\r?> ", at)  # ctrl-C drops what was typed, and stays

        assert screen.leave("\x03") == 0  # and leaves where nothing was
        assert "Traceback" not in screen.shown
        assert "not this" not in screen.shown[at:]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_d_leaves(
    folder: Path, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    with terminal("chat", pictures[0], "-m", str(folder), "--engine", "onnx") as screen:
        screen.wait_for("^\r?> ")
        assert screen.leave("\x04") == 0
        assert "loading" in screen.shown  # the progress bar, on a terminal


def test_ctrl_c_ends_a_pipe_with_its_status(
    model: blip2_chat.Model, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt  # what Python makes of the signal, whose handler other tests' servers change

    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    monkeypatch.setattr(model.engine, "prefill", interrupted)
    result = CliRunner().invoke(app, ["chat", pictures[0], "-m", "tiny"], input="what?\nwhy?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_exit_and_quit_are_questions_in_a_pipe(
    talk: Callable[..., Any], model: blip2_chat.Model, pictures: list[str]
) -> None:
    chat = model.chat(pictures[0], **SETTINGS)
    answers = [chat.ask(one) for one in ("exit", "help", "?")]
    result = talk(pictures[0], "exit", "help", "?", "/exit", "what?")
    assert result.stdout.splitlines() == [printable(one) for one in answers]
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize(
    ("word", "no_color", "options", "shows"),
    first_of(("exit", "", (), True), (":q", "1", (), False), ("quit", "", ("--no-picture",), False)),
)
def test_a_terminal_shows_the_picture_and_knows_words(
    folder: Path,
    pictures: list[str],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    no_color: str,
    options: tuple[str, ...],
    shows: bool,
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    with terminal("chat", pictures[0], "-m", str(folder), "--engine", "onnx", *options) as screen:
        at = screen.wait_for("^\r?>")
        assert ("▀▀▀▀" in screen.shown) is shows
        assert "Try: what is in the picture?" in screen.shown
        screen.type("?\r")
        at = screen.wait_for("/image PATH", at)
        at = screen.wait_for("^\r?>", at)
        screen.type("/sav\r")
        at = screen.wait_for("did you mean /save\\?", at)
        at = screen.wait_for("^\r?>", at)
        screen.type("/hist\t")
        screen.wait_for("/history", at)
        screen.type("\x03")
        at = screen.wait_for("^\r?>", len(screen.shown))
        assert screen.leave(word + "\r") == 0
        assert "Traceback" not in screen.shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_questions_about_a_sample_are_suggested(folder: Path, tmp_path: Path) -> None:
    """Also about a copy of it; Tab types the first."""
    sample = sample_pictures()[1]
    copy = tmp_path / sample.path.name
    copy.write_bytes(sample.path.read_bytes())
    with terminal("chat", str(copy), "-m", str(folder), "--engine", "onnx", "--no-picture") as screen:
        at = screen.wait_for("^\r?>")
        assert all(question in screen.shown for question in sample.questions)
        screen.type("\t")
        screen.wait_for(re.escape(next(iter(sample.questions))), at)
        screen.type("\x03")
        screen.wait_for("^\r?>", len(screen.shown))
        assert screen.leave("\x04") == 0
