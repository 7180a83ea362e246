"""Standard streams of commands: closed, full, or not read to the end."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest

from blip2_chat.cli.display.terminal import note, say
from blip2_chat.errors import Blip2ChatError

RUN = "from blip2_chat.cli import main; main()"


def test_no_control_character_of_an_answer_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a \x1b[2Jdog\r\nand été")
    assert capsys.readouterr().out == "a  [2Jdog  and été\n"


def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(Blip2ChatError, match=r"^standard output cannot be written to \(No space left"):
        say("a cat")


def test_a_message_that_nobody_reads_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    note("stopping after the current batch")


@pytest.mark.parametrize("command", [["caption", "{picture}"], ["chat", "{picture}"], ["doctor", "--json"]])
def test_without_standard_streams(command: list[str], pictures: list[str]) -> None:
    code = f"import sys; sys.stdin = sys.stdout = sys.stderr = None; {RUN}"
    given = [one.format(picture=pictures[0]) for one in command]
    assert subprocess.run([sys.executable, "-c", code, *given], timeout=120).returncode == 0


def test_a_closed_pipe_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)  # before the command starts: later, a quick one would have written everything
    done = subprocess.run(
        [sys.executable, "-c", RUN, "models", "--json"], stdout=write_end, stderr=subprocess.PIPE, timeout=120
    )
    os.close(write_end)
    assert b"Traceback" not in done.stderr and done.returncode == 1
