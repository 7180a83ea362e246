"""What the processor can do is what the system says of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from blip2_chat.system import processor

LISTED = "processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse avx avx2 {} rdtscp\n"


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    processor.features.cache_clear()
    yield
    processor.features.cache_clear()


@pytest.mark.parametrize(("more", "lacks"), [("", True), ("avx512f avx512_vnni", False), ("avx_vnni", False)])
def test_an_x86_says_whether_it_has_vnni(monkeypatch: pytest.MonkeyPatch, more: str, lacks: bool) -> None:
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor, "cpuinfo", lambda: LISTED.format(more))
    assert processor.lacks_vnni() is lacks
    assert processor.features() == ("avx2", *more.split())


def test_where_nothing_is_told_nothing_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", "win32")
    monkeypatch.setattr(processor, "cpuinfo", lambda: "")
    assert processor.features() == () and not processor.lacks_vnni()


def test_an_arm_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", "darwin")
    monkeypatch.setattr(processor.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(processor, "output_of", lambda *command: str(int("DotProd" in command[-1])))
    assert processor.features() == ("asimddp",) and not processor.lacks_vnni()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists them in a file")
def test_this_machine() -> None:
    assert all(name in processor.cpuinfo() for name in processor.features())


def test_a_command_that_is_not_there_says_nothing() -> None:
    assert processor.output_of("no-such-command-anywhere") == ""
