"""What is wrong with `serve --ray` before anything is started."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip2_chat.cli import app
from blip2_chat.installation import install_command
from tests.support.extras import needs


def refused(*options: str) -> str:
    done = CliRunner().invoke(app, ["serve", "--port", "0", *options])
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(("option", "value"), [("--also", "demo:int8"), ("--index", "photos.index")])
def test_a_replica_holds_one_model(option: str, value: str) -> None:
    assert (
        refused("--ray", option, value)
        == f"Error: with --ray each replica holds one model: leave {option} out"
    )


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    expected = f"Error: serving on a Ray cluster needs the [ray] extra: {install_command('ray')}"
    assert refused("--ray") == expected


@needs("test-ray")
def test_ray_without_serve_is_the_same_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    assert refused("--ray").endswith(f"needs the [ray] extra: {install_command('ray')}")


@needs("test-ray")
def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused("--ray-address", address)
    assert line.startswith(f"Error: Ray at '{address}' cannot be reached") and "check the address" in line
