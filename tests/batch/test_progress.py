"""What a person sees of a run: in a real terminal (tmux), in a pipe, and at its end."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.batch import make_pictures
from tests.support.forking import blip2_chat
from tests.support.variants import first_of
from tests.support.waiting import wait_until


class Terminal:
    """A shell in a tmux server of its own."""

    def __init__(self, folder: Path, width: int) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        size = ["-x", str(width), "-y", "30"]
        subprocess.run([*self._tmux, "new-session", "-d", *size, "sh"], check=True, timeout=20)

    def type(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True, timeout=20)

    def lines(self) -> list[str]:
        shown = subprocess.run(
            [*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, timeout=20
        )
        return [line for line in shown.stdout.splitlines() if line.strip()]

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=20)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[int], Terminal]]:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux")
    opened: list[Terminal] = []

    def start(width: int) -> Terminal:
        opened.append(Terminal(tmp_path, width))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("width", first_of(40, 80))
def test_a_terminal_shows_one_bar_with_the_latest_picture_below_it(
    terminal: Callable[[int], Terminal], tiny: Path, tmp_path: Path, width: int
) -> None:
    make_pictures(tmp_path / "photos", 300)
    main = shlex.join([sys.executable, "-c", "from blip2_chat.cli import main; main()"])
    script = tmp_path / "go.sh"
    script.write_text(
        f"unset COLUMNS LINES; cd {shlex.quote(str(tmp_path))}; clear\n"
        f"{main} run photos --model {shlex.quote(str(tiny))} --out c.jsonl --batch-size 2\n",
        encoding="utf-8",
    )
    shell = terminal(width)
    shell.type(f"sh {script}", "Enter")
    seen: list[list[str]] = []

    def at_work() -> bool:
        seen.append(shell.lines())
        return any(" of 300" in line for line in seen[-1]) and any(".png: " in line for line in seen[-1])

    assert wait_until(at_work)
    (numbers,) = [line for line in seen[-1] if " of 300" in line]
    (latest,) = [line for line in seen[-1] if ".png: " in line]
    assert numbers != latest and latest.startswith("p0"), "the text of a picture has a line to itself"
    assert sum("\u2501" in line or "\u2500" in line or " of 300" in line for line in seen[-1]) == 1, "one bar"
    shell.type("C-c")
    assert wait_until(lambda: any("Stopped: " in line for line in shell.lines()))
    assert wait_until(lambda: any(line.strip() == "c.jsonl" for line in shell.lines()))
    end = "\n".join(shell.lines())
    assert "\u2501" not in end and "\u2500" not in end and "loading" not in end and ".png" not in end, (
        "nothing is left of the bars"
    )


def test_the_summary_names_the_first_failed_pictures(tiny: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 2)
    for number in range(7):
        (photos / f"bad{number}.png").write_bytes(b"no picture")
    arguments = ["run", photos, "--model", tiny, "--max-new-tokens", "4"]
    code, _, err = blip2_chat(*arguments, "--out", tmp_path / "c.jsonl")
    assert code == 3
    named = [line for line in err.splitlines() if str(photos) in line]
    assert [line.split()[0] for line in named] == [str(photos / f"bad{n}.png") for n in range(5)]
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text(encoding="utf-8").splitlines()]
    for line, row in zip(named, rows, strict=False):
        assert line.strip().endswith(row["error"].removeprefix(f"{Path(row['path']).name} "))
    assert "and 2 more: all of them have an error in " in err
    # Beside sidecars there is no file that lists them; the command that is named makes it, and does nothing twice.
    code, _, err = blip2_chat(*arguments, "--sidecar", "txt")
    assert code == 3
    hint = next(line for line in err.splitlines() if "and 2 more: " in line)
    options = shlex.split(hint.partition(": ")[2])[:4]
    assert options[:3] == ["--out", "FILE.csv", "--progress"]
    code, _, err = blip2_chat(*arguments, "--out", tmp_path / "all.csv", *options[2:])
    assert code == 3 and " now in " not in err
    assert sum("bad" in line for line in (tmp_path / "all.csv").read_text("utf-8").splitlines()) == 7
