"""What many tests share: random checkpoints on disk, and the engines over them."""

from __future__ import annotations

import os

# Before numpy and torch are imported, here and in every process that a test starts: tiny tensors on several threads
# spend their time waiting for each other, 60 times slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import blip2_chat  # noqa: F401 - before any test imports onnxruntime: its telemetry is off from here on
from tests.support.checkpoints import make_checkpoint, make_retriever

# The same examples in every run: what fails here fails everywhere. `pytest --hypothesis-profile default` looks for
# others.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(family, seed, ...)` -> a folder in the official layout, made once per test run."""
    made: dict[str, Path] = {}

    def make(family: str = "opt", seed: int = 0, **overrides: Any) -> Path:
        key = repr((family, seed, sorted(overrides.items())))
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp(family), family, seed, **overrides)
        return made[key]

    return make


@pytest.fixture(scope="session")
def retrieval_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint for retrieval, in the official layout."""
    return make_retriever(tmp_path_factory.mktemp("retriever") / "model", std=0.3)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests convert stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP2_CHAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# Not for the session: while Playwright runs, nothing else in this thread may run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that need it are skipped where it is not."""
    pytest.importorskip("playwright", reason="needs the extra [test-web]: no playwright here")
    from playwright.sync_api import sync_playwright

    from tests.support.chromium import QUIET, chromium

    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: `apt install chromium`, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield made
        made.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Lists the tests that were tried again (`--reruns`), and how that ended."""
    tried = dict.fromkeys(report.nodeid for report in terminalreporter.stats.get("rerun", []))
    if not tried:
        return
    passed = {report.nodeid for report in terminalreporter.stats.get("passed", [])}
    terminalreporter.section(f"{len(tried)} tried again")
    for test in tried:
        terminalreporter.line(f"{'passed then' if test in passed else 'failed again'}: {test}")
