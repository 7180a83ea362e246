"""A real JupyterLab or Notebook 7 on this machine, and a page of a real browser in it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat

TOKEN = "for-tests-only"


@contextmanager
def jupyter(
    folder: Path, app: str, environment: dict[str, str] | None = None, theme: str = "JupyterLab Light"
) -> Iterator[str]:
    """`app` ("jupyterlab" or "notebook") over `folder`; its address. Settings, kernels' histories and news stay
    out of the user's."""
    own = folder / ".jupyter-test"
    own.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", app, "--no-browser", "--allow-root", "--ip=127.0.0.1",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    places = (*places, "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    where = {place: str(own / place.lower()) for place in places}
    _settings(own / "jupyterlab_settings_dir", theme)
    server, address = _started(command, {**os.environ, **where, **(environment or {})}, own / "log.txt")
    try:
        yield address
    finally:
        _end(server)


def _started(
    command: list[str], environment: dict[str, str], log: Path, tries: int = 3
) -> tuple[subprocess.Popen[Any], str]:
    """The server and its address. It needs to be told a free port, which somebody else may take before it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, f"--port={port}"], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, log)
    except BaseException:
        _end(server)
        if tries > 1 and re.search(r"port \d+ is (already in use|not available)", log.read_text()):
            return _started(command, environment, log, tries - 1)
        raise
    return server, address


def _end(server: subprocess.Popen[Any]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _settings(folder: Path, theme: str) -> None:
    """As if chosen in the settings before: the theme, no question about news, and cells that are there also
    while they are out of sight."""
    chosen: dict[str, dict[str, str]] = {
        "apputils-extension/notification": {"fetchNews": "false"},
        "apputils-extension/themes": {"theme": theme},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in chosen.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")


def _wait(address: str, server: subprocess.Popen[Any], log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5) as answer:
                json.load(answer)
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, path)


def open_notebook(page: Any, address: str, name: str, app: str, seconds: float = 120) -> None:
    """The notebook in a page, its kernel idle. Anything but this machine is out of bounds."""
    page.route("**/*", lambda route: route.continue_() if _is_local(route.request.url) else route.abort())
    place = "lab/tree" if app == "jupyterlab" else "notebooks"
    page.goto(f"{address}/{place}/{name}?token={TOKEN}", timeout=seconds * 1000)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=seconds * 1000)
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=seconds * 1000)


def run_all(page: Any) -> None:
    from playwright.sync_api import TimeoutError as NotYet

    page.locator(".jp-NotebookPanel .jp-Spinner").wait_for(state="detached")
    under_way = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]"))
    for _ in range(10):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with suppress(NotYet):  # what is run before the page knows its kernel is never run
            under_way.first.wait_for(timeout=20_000)
            return
    raise AssertionError("no cell runs")


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
