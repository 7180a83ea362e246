"""What the README promises holds in an empty environment: the wheel alone, without torch, runs its commands.

The blocks of README.md are run as they stand. Names of official checkpoints lead to small random ones, served by
a hub on this machine; `photo.jpg` and `photos/` are sample pictures.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import full_size, run_throughput, serve_load
from benchmarks.documents import markdown, read
from tests.support.checkpoints import make_retriever
from tests.support.fake_hub import FakeHub, fake_hub

# The first one waits for a package registry.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Commands that cannot be run inside a test of the same kind, and where they are run instead.
ELSEWHERE = {
    "make test": "this is it",
    "make lint": ".ci/run",
    "make chat": ".ci/run, in a fresh clone",
    "pip install .": "the fixture `installed`, from the wheel of the same folder",
    "pip install -r requirements.txt": "test_notebooks_fresh.py, in a new environment",
    "pip install '.[search]'": "the environment of these tests",
    "jupyter notebook": "test_notebook_lab.py, in a real JupyterLab with a real browser",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


# Need an extra, and are run by tests/search/test_documented.py.
ABOUT_INDEXES = re.compile("blip2-chat (index|search) ")
COMMANDS = [
    line
    for block in blocks("bash")
    for line in block.splitlines()
    if line and line not in ELSEWHERE and not ABOUT_INDEXES.match(line)
]


@dataclass
class Installed:
    """An environment with nothing but the wheel and what it brings."""

    bin: Path
    size: int
    folder: Path
    environment: dict[str, str]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "-e", "-o", "pipefail", "-c", command]
        return subprocess.run(
            shell, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280
        )


@pytest.fixture(scope="module")
def hub(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with fake_hub() as running:
        running.revisions["Salesforce/blip2-opt-2.7b"] = {"main": checkpoint("opt", 0)}
        running.revisions["Salesforce/blip2-itm-vit-g"] = {
            "main": make_retriever(tmp_path_factory.mktemp("retriever"))
        }
        yield running


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub) -> Installed:
    home = tmp_path_factory.mktemp("installed")
    wheels = home / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("*.whl")
    venv.create(home / "venv", with_pip=False)
    binaries = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([*pip, "--python", str(binaries / "python"), "install", str(wheel)], check=True)
    size = sum(path.stat().st_size for path in (home / "venv").rglob("*") if path.is_file())

    folder = home / "work"
    (folder / "photos").mkdir(parents=True)
    shutil.copytree(SAMPLES, folder / "samples")
    sample = Image.open(SAMPLES / "dog-and-apple.png").convert("RGB")
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        sample.save(folder / name, quality=95)
        sample = sample.rotate(90)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "BLIP2"))},
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hub"),
        "BLIP2_CHAT_CACHE": str(home / "cache"),
    }
    return Installed(binaries, size, folder, environment)


@pytest.mark.slow
def test_the_core_brings_no_torch_and_stays_small(installed: Installed) -> None:
    found = installed.run(
        'python -c \'import importlib.util as u; print(u.find_spec("torch"), u.find_spec("transformers"))\''
    )
    assert found.stdout.split() == ["None", "None"]
    assert installed.size < 400e6


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_as_it_stands(installed: Installed, command: str) -> None:
    if "blip2-chat chat" in command and "|" not in command:
        command = f"echo 'what is this?' | {command}"
    done = installed.run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_every_piece_of_python_runs_as_it_stands(installed: Installed, code: str) -> None:
    (installed.folder / "example.py").write_text(code, encoding="utf-8")
    done = installed.run("python example.py")
    assert done.returncode == 0, done.stderr
    assert "dog" in done.stdout


@pytest.mark.slow
def test_the_sample_gets_right_answers(installed: Installed) -> None:
    questions = '"what is on the left?" "and what is right of it?"'
    done = installed.run(f"blip2-chat ask samples/dog-and-apple.png {questions} --json")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["answer"] for one in answers] == ["a dog", "an apple"]
    assert {"picture", "question", "answer", "model", "seconds"} <= set(answers[0])


def test_commands_run_by_other_tests_are_in_the_readme() -> None:
    assert all(f"\n{command}\n" in README for command in ELSEWHERE)


def test_the_samples_are_those_of_the_package() -> None:
    shipped = ROOT / "src" / "blip2_chat" / "demo" / "samples"
    names = sorted(path.name for path in shipped.glob("*.png"))
    assert len(names) >= 6
    assert names == sorted(path.name for path in SAMPLES.glob("*.png"))
    assert all((shipped / name).read_bytes() == (SAMPLES / name).read_bytes() for name in names)


def test_the_readmes_server_examples_are_those_that_are_tested() -> None:
    """test_web_ways_in.py runs what docs/serve.md says."""
    tested = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    shown = [block for block in [*blocks("sh"), *blocks("py")] if block != "make serve\n"]
    assert len(shown) == 1
    assert all(block in tested for block in shown)


def test_the_tables_are_what_the_benchmarks_measured() -> None:
    measured = read(full_size.RESULTS)
    runs = read(run_throughput.RESULTS)
    tables = {
        "README.md": [full_size.short_table(measured), run_throughput.short_table(runs)],
        "docs/benchmark.md": [full_size.long_table(measured)],
        "docs/run.md": [
            markdown(run_throughput.HEADINGS, run_throughput.rows_of(runs["runs"])),
            run_throughput.memory_line(runs["memory"]),
        ],
        "docs/serve.md": [serve_load.table(read(serve_load.RESULTS))],
    }
    for document, expected in tables.items():
        written = (ROOT / document).read_text(encoding="utf-8")
        assert all(table in written for table in expected), document
