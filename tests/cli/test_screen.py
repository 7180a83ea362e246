"""What a terminal shows of a chat: lines broken at words, the picture, colours, and what Tab completes."""

from __future__ import annotations

import base64
import io
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rich.console import Console
from wcwidth import wcswidth

from blip2_chat.cli.display import picture_view
from blip2_chat.cli.display.line_input import Commands
from blip2_chat.cli.display.screen import wants_colour
from blip2_chat.cli.display.wrap import Wrap
from blip2_chat.cli.repl import _unknown

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=30), min_size=1, max_size=30)


def wrapped(text: str, width: int, piece: int = 3) -> list[str]:
    wrap = Wrap(lambda: width)
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    return ("".join(wrap.push(one) for one in pieces) + wrap.finish()).split("\n")


@given(WORDS, st.integers(2, 40), st.integers(1, 7))
def test_lines_are_broken_where_textwrap_breaks_them(words: list[str], width: int, piece: int) -> None:
    text = " ".join(word[:width] for word in words)
    assert wrapped(text, width, piece) == textwrap.wrap(text, width)


@given(st.text("ab 中文字가나、。é", max_size=80), st.integers(4, 30))
def test_wide_characters_fit_and_nothing_is_lost(text: str, width: int) -> None:
    text = " ".join(text.split())
    lines = wrapped(text, width)
    assert all(wcswidth(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_scripts_without_spaces_fill_their_lines() -> None:
    assert wrapped("这是一只狗和一个苹果", 8) == ["这是一只", "狗和一个", "苹果"]
    assert wrapped("这是一只。狗", 8) == ["这是一", "只。狗"]  # no line begins with a full stop
    assert wrapped("abcdefghij kl", 4) == ["abcd", "efgh", "ij", "kl"]


@pytest.mark.parametrize(
    ("environment", "at_terminal", "in_pipe"),
    [
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ({"TERM": "xterm", "CLICOLOR": "0"}, False, False),
        ({"TERM": "xterm", "CLICOLOR_FORCE": "1"}, True, True),
        ({"TERM": "xterm", "FORCE_COLOR": "0"}, True, False),
    ],
)
def test_colour_is_used_at_a_terminal_only(
    environment: dict[str, str], at_terminal: bool, in_pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    assert wants_colour(stream) is in_pipe
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert wants_colour(stream) is at_terminal


@pytest.fixture
def image() -> Image.Image:
    """Four quarters of plain colour, 240 x 160."""
    pixels = np.zeros((160, 240, 3), np.uint8)
    pixels[:80, :120], pixels[:80, 120:] = (255, 0, 0), (0, 255, 0)
    pixels[80:, :120], pixels[80:, 120:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)


def test_half_blocks_are_the_pixels(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_view, "find_protocol", lambda _: "blocks")
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=30, height=40)
    picture_view.show_picture(image, console)
    out.seek(0)
    lines = out.read().splitlines()
    assert len(lines) == 10  # 30 x 20 pixels, two a cell
    shown = []
    for line in lines:
        cells: list[tuple[list[int], list[int]]] = []
        for codes, blocks in re.findall(r"\x1b\[([0-9;]+)m(▀+)", line):
            numbers = [int(one) for one in codes.split(";")]
            assert numbers[:2] == [38, 2] and numbers[5:7] == [48, 2]
            cells += [(numbers[2:5], numbers[7:10])] * len(blocks)
        shown += [[above for above, _ in cells], [below for _, below in cells]]
    expected = image.resize((30, 20), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(shown, np.uint8), np.asarray(expected))


def test_no_half_blocks_where_they_cannot_be_written(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_view, "find_protocol", lambda _: "blocks")
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    picture_view.show_picture(image, Console(file=out, force_terminal=True, width=30, height=40))
    out.flush()
    assert out.buffer.seek(0, io.SEEK_END) == 0


def test_kitty_and_iterm2_carry_a_png(image: Image.Image) -> None:
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (800, 1200, 3), np.uint8))
    kitty = picture_view.kitty(big, 30, 10)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty)
    assert "".join(f"\x1b_G{control};{data}\x1b\\" for control, data in chunks) == kitty
    assert chunks[0][0] == "a=T,f=100,q=2,c=30,r=10,m=1" and {c for c, _ in chunks[1:-1]} == {"m=1"}
    assert chunks[-1][0] == "m=0" and all(len(data) <= 4096 for _, data in chunks)
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks)))) as shown:
        assert (shown.format, shown.mode) == ("PNG", "RGB") and shown.width < big.width

    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07", picture_view.iterm2(image, 24, 8))
    assert found
    fields = dict(one.split("=") for one in found[1].split(";"))
    png = base64.b64decode(found[2])
    assert (fields["inline"], fields["size"], fields["width"]) == ("1", str(len(png)), "24")
    with Image.open(io.BytesIO(png)) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(image))


def unsixel(text: str) -> Any:
    """What a terminal draws: pixels [H, W, 3] in per cent."""
    head = re.match(r'\x1bP[0-9;]*q"1;1;(\d+);(\d+)', text)
    assert head and text.endswith("\x1b\\")
    width, height = int(head[1]), int(head[2])
    drawn = np.full((height + 6, width, 3), -1)
    palette: dict[int, list[int]] = {}
    x = y = colour = 0
    for entry in re.finditer(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([?-~])|([$-])", text[head.end() : -2]
    ):
        if entry[1]:
            palette[int(entry[1])] = [int(entry[n]) for n in (2, 3, 4)]
        elif entry[5]:
            colour = int(entry[5])
        elif entry[9]:
            x, y = 0, y + 6 * (entry[9] == "-")
        else:
            count, bits = int(entry[6] or 1), ord(entry[7] or entry[8]) - 63
            for row in range(6):
                if bits >> row & 1:
                    drawn[y + row, x : x + count] = palette[colour]
            x += count
    return drawn[:height]


def test_sixel_draws_the_picture(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_view, "_pixels", lambda *_: (60, 40))
    expected = np.asarray(image.resize((60, 40), Image.Resampling.BOX)) / 2.55
    assert np.abs(unsixel(picture_view.sixel(image, 6, 2)) - expected).max() <= 1
    smooth = Image.radial_gradient("L").convert("RGB")
    expected = np.asarray(smooth.resize((60, 40), Image.Resampling.BOX)) / 2.55
    assert np.abs(unsixel(picture_view.sixel(smooth, 6, 2)) - expected).max() <= 3


@pytest.mark.parametrize(
    ("environment", "attributes", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, [], "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, [], "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, [], "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, [], "iterm2"),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, [], "blocks"),
        ({"TERM": "xterm"}, ["4", "22"], "sixel"),
        ({"TERM": "xterm"}, ["14", "22"], "blocks"),
    ],
)
def test_the_protocol_is_the_terminals(
    environment: dict[str, str], attributes: list[str], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMUX", "STY", "TERM_PROGRAM", "KITTY_WINDOW_ID", "LC_TERMINAL", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(picture_view, "_attributes", lambda _: attributes)
    assert picture_view.find_protocol(sys.stderr) == protocol


def completed(line: str) -> list[str]:
    completer = Commands({"image": True, "save": True, "help": False, "history": False}, "what is it?")
    found = completer.get_completions(Document(line), CompleteEvent())
    return [line[: len(line) + one.start_position] + one.text for one in found]


def test_tab_completes_commands_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "my cat.jpg").touch()
    assert completed("") == ["what is it?"]
    assert completed("/") == ["/image ", "/save ", "/help", "/history"]
    assert completed("/h") == ["/help", "/history"]
    assert completed("/image ph") == ["/image photos/"]
    assert completed("/image photos/") == ["/image photos/my cat.jpg"]
    assert completed("/image 'photos/my c") == ["/image 'photos/my cat.jpg"]
    assert completed(f"/save {tmp_path}/pho") == [f"/save {tmp_path}/photos/"]
    assert completed("/help ph") == completed("what is in ph") == []


def test_misspelt_commands_get_suggestions(tmp_path: Path) -> None:
    assert _unknown("/sav x", "sav") == "there is no command /sav; did you mean /save? /help lists them"
    assert "did you mean /history?" in _unknown("/histroy", "histroy")
    assert "did you mean /exit?" in _unknown("/exti", "exti")
    assert _unknown("/nonsense", "nonsense") == "there is no command /nonsense; /help lists them"
    photo = tmp_path / "a cat.jpg"
    photo.touch()
    assert _unknown(f"'{photo}'", "") == f"to talk about another picture, type /image '{photo}'"
