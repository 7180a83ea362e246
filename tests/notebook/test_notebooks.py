"""Both notebooks, run from top to bottom as a person would, and what they said."""

from __future__ import annotations

from tests.support.extras import require

require("test-notebook")

import ast
import base64
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageColor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from notebooks.refresh import NOTEBOOKS, as_committed, execute

ROOT = Path(__file__).parents[2]
REPOSITORY = "blip2-chat/blip2-chat"
# Kernels share two cores with the rest of the tests: more threads would only wait for each other.
ALONE = {"OMP_NUM_THREADS": "1"}
_CAPTION = "a dog and an apple on a blue background"


class Ran:
    """What an executed notebook's cells put out."""

    def __init__(self, notebook: Any) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}

    def text(self, cell: str) -> str:
        return "".join(one.text for one in self.cells[cell].outputs if one.output_type == "stream")

    def data(self, cell: str, kind: str) -> Any:
        return next(one.data[kind] for one in self.cells[cell].outputs if kind in one.get("data", {}))

    def picture(self, cell: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(self.data(cell, "image/png"))))

    def warnings(self) -> str:
        """What cells wrote to the error stream."""
        return "".join(
            one.text
            for cell in self.cells.values()
            for one in cell.outputs
            if one.output_type == "stream" and one.name == "stderr"
        )


def as_it_is(cell: str, source: str) -> str:
    return source


def fewer_questions(cell: str, source: str) -> str:
    """A smaller held-out set: its accuracy is not what is tested here."""
    if cell != "parameters":
        return source
    assert source.count("HELD_OUT = 16") == 1
    return source.replace("HELD_OUT = 16", "HELD_OUT = 12")


@pytest.fixture(scope="module")
def plain() -> Ran:
    return Ran(execute(NOTEBOOKS[0], as_it_is, 280, ALONE))


@pytest.fixture(scope="module")
def int8() -> Ran:
    return Ran(execute(NOTEBOOKS[1], fewer_questions, 280, ALONE))


# ----------------------------------------------------------------------------------------- full precision


def test_it_says_what_runs_the_model_and_why(plain: Ran) -> None:
    assert re.search(r"demo runs with the (onnx|torch) engine at fp32 on \w+: .+", plain.text("load"))
    assert plain.picture("picture").size == (768, 768)


def test_it_captions_and_answers(plain: Ran) -> None:
    assert "a dog and an apple on a blue background" in plain.data("caption", "text/html")
    assert "this is a picture of … a dog and an apple" in plain.text("start")
    answers = [line.split("   ")[-1].strip() for line in plain.text("questions").splitlines()]
    assert answers == ["a dog", "an apple", "no", "blue"]


def test_the_conversation_shows_itself(plain: Ran) -> None:
    html = plain.data("conversation", "text/html")
    said = ["what is on the left?", ">a dog</strong>", "and what is right of it?", ">an apple</strong>"]
    assert [html.index(one) for one in said] == sorted(html.index(one) for one in said)
    assert plain.text("stream") == "blue"


def test_the_next_words_and_what_temperature_does(plain: Ran) -> None:
    chart = plain.picture("next").convert("RGB")
    assert chart.width > 800
    # The most likely word of each beginning is nearly certain, and less so at a higher temperature.
    sure, warm = (_longest_run(chart, colour) for colour in ("#1657b8", "#f0a63a"))
    assert 0 < warm < sure


def test_sampling_stands_beside_beam_search(plain: Ran) -> None:
    lines = plain.text("decoding").splitlines()
    assert lines[0].split() == ["greedy", *_CAPTION.split()]
    beams = [line for line in lines if line.startswith("5 beams")]
    scores = [float(re.findall(r"per token (-[\d.]+)", line)[0]) for line in beams]
    assert len(beams) == 3 and scores == sorted(scores, reverse=True)
    assert sum(line.startswith("sampling") for line in lines) == 6
    assert len({line.split(maxsplit=2)[2] for line in lines if line.startswith("sampling 2.0")}) > 1


def test_the_plain_transformers_way_gives_the_same_text(plain: Ran) -> None:
    old, ours = plain.text("old").splitlines()
    assert old.removeprefix("transformers:").strip() == ours.removeprefix("blip2_chat:").strip() == "a dog"


@pytest.mark.slow
def test_the_plain_transformers_way_is_skipped_where_it_does_not_fit() -> None:
    """With an official checkpoint "Run All Cells" would otherwise end there, with the kernel."""

    def short_of_memory(cell: str, source: str) -> str:
        if cell == "old":
            assert source.count("\nsize, free = ") == 1
            return source.replace("\nsize, free = ", "\navailable_memory = lambda: 1_000_000\nsize, free = ")
        return source if cell in ("parameters", "load", "picture") else ""

    old, ours = Ran(execute(NOTEBOOKS[0], short_of_memory, 280, ALONE)).text("old").splitlines()
    assert re.fullmatch(r"transformers: left out, it needs \d+ MB of memory and 1 MB is free", old)
    assert ours.endswith("a dog")


def test_it_ends_in_a_live_chat_and_is_quiet_on_the_way(plain: Ran) -> None:
    assert plain.data("live", "application/vnd.jupyter.widget-view+json")["model_id"]
    assert plain.warnings() == ""


# --------------------------------------------------------------------------------------------------- int8


@pytest.mark.slow
def test_int8_answers_rightly_and_what_it_saves_is_measured(int8: Ran) -> None:
    assert re.search(r"<Model demo: torch, int8, \w+> holds \d+\.\d MB", int8.text("load"))
    assert "a moon, a rocket and a star on a black background" in int8.data("caption", "text/html")
    conversation = int8.data("conversation", "text/html")
    assert conversation.index("and what is below it?") < conversation.index(">a rocket</strong>")
    rows = {" ".join(line.split()[:2]): line.split()[2:] for line in int8.text("accuracy").splitlines()[1:]}
    assert list(rows) == ["torch fp32", "torch int8", "torch int4", "onnx int8", "onnx int4"]
    memory = {name: float(cells[0]) for name, cells in rows.items()}
    assert memory["torch int8"] < 0.6 * memory["torch fp32"]
    assert memory["torch int4"] < memory["torch int8"]
    assert all(float(cells[4]) > 0 for cells in rows.values()), "milliseconds per token"


@pytest.mark.slow
def test_the_same_questions_stand_side_by_side(int8: Ran) -> None:
    html = int8.data("answers", "text/html")
    table = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert table[0] == ["", "torch fp32", "torch int8", "torch int4", "onnx int8", "onnx int4"]
    expected = ["a moon, a rocket and a star on a black background", "a moon", "a rocket", "one", "a star"]
    full, *quantised = list(zip(*table[1:], strict=True))[1:]
    assert full == quantised[0], "int8 says what full precision says"
    for answers in (full, *quantised):
        # A caption may take another word, and 4 bits may cost an answer; none is empty.
        assert all(answers)
        assert sum(one == right for one, right in zip(answers, expected, strict=True)) >= 4 - (
            answers != full
        )


def _longest_run(chart: Image.Image, colour: str) -> int:
    """The most pixels of a colour that one line of a picture has: a bar's length."""
    wanted = ImageColor.getrgb(colour)
    return max(
        sum(chart.getpixel((x, y)) == wanted for x in range(chart.width)) for y in range(0, chart.height, 4)
    )


@pytest.mark.slow
def test_a_chart_and_a_verdict(int8: Ran) -> None:
    chart = int8.picture("memory").convert("RGB")
    assert chart.width > 500
    # Each bar in its colour, as long as its memory says.
    rows = [line.split() for line in int8.text("accuracy").splitlines()[1:]]
    memory = [float(cells[2]) for cells in rows]
    shown = [
        _longest_run(chart, colour) for colour in ("#8a8f98", "#1657b8", "#5b8fd9", "#b06a00", "#d99a3f")
    ]
    for length, size in zip(shown, memory, strict=True):
        assert length / shown[0] == pytest.approx(size / memory[0], abs=0.02)
    memory, texts, answers, time, fastest = int8.text("verdict").splitlines()
    assert re.fullmatch(r"int8 takes \d\d% of the memory of torch fp32,", memory)
    assert re.match(r"gives [45] of the 5 texts", texts)
    assert re.fullmatch(r"answers .*% of the held-out questions right \(torch fp32: .*%\),", answers)
    assert re.match(r"and takes \d+\.\d times as long", time) and fastest.startswith("The fastest here is ")
    assert int8.data("live", "application/vnd.jupyter.widget-view+json")["model_id"]
    assert int8.warnings() == ""


# ------------------------------------------------------------------------------------------ as they are kept


@pytest.mark.parametrize("path", NOTEBOOKS, ids=["plain", "int8"])
def test_committed_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook == as_committed(notebook), "run python notebooks/refresh.py"
    text = path.read_text(encoding="utf-8")
    private = ("/home/", "/root/", "/tmp/", "/Users/", str(ROOT), str(Path.home()))
    assert not any(folder in text for folder in private)
    without = [cell.id for cell in notebook.cells if cell.cell_type == "code" and not cell.outputs]
    assert (
        without
        == {
            NOTEBOOKS[0]: ["install", "parameters", "live"],
            NOTEBOOKS[1]: ["install", "parameters", "measure", "live"],
        }[path]
    ), "what says nothing, or is a widget that needs a kernel"
    assert not any("widget-view" in kind for cell in notebook.cells for one in cell.get("outputs", [])
                   for kind in one.get("data", {}))  # fmt: skip
    assert len(text) < 1_000_000


def test_the_committed_notebook_is_up_to_date(plain: Ran) -> None:
    """Outputs that do not depend on the machine are those of today's code."""
    committed = Ran(nbformat.read(NOTEBOOKS[0], as_version=4))
    for cell in ("start", "questions", "stream", "old"):
        assert committed.text(cell) == plain.text(cell), "run python notebooks/refresh.py"
    assert committed.text("decoding").splitlines()[:4] == plain.text("decoding").splitlines()[:4]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=["plain", "int8"])
def test_it_opens_in_colab_and_its_links_lead_somewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{quote(path.name)}" in prose
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", prose):
        assert (path.parent / target).is_file(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=["plain", "int8"])
def test_one_variable_at_the_top_chooses_the_model(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell.source for cell in notebook.cells if re.search(r"^MODEL = ", cell.source, re.MULTILINE))
    assert 'MODEL = "demo"\n' in cell
    assert '# MODEL = "Salesforce/blip2-opt-2.7b"' in cell


def test_the_large_models_figures_are_those_that_were_measured() -> None:
    runs = json.loads((ROOT / "docs" / "benchmark.json").read_text(encoding="utf-8"))["runs"]
    measured = {(run["runtime"], run["precision"]): f"{run['per_word']:.2f} s" for run in runs}
    notebook = nbformat.read(NOTEBOOKS[1], as_version=4)
    (prose,) = (cell.source for cell in notebook.cells if cell.id == "verdict-plain")
    expected = [
        ("transformers", "fp32"),
        ("transformers", "int8"),
        ("blip2-chat", "int8"),
        ("blip2-chat", "int4"),
    ]
    assert re.findall(r"\d\.\d\d s", prose) == [measured[run] for run in expected], (
        "measured again: write them there"
    )


# ---------------------------------------------------------------------------------------- requirements.txt


def ours() -> list[str]:
    """This package's requirements as pyproject.toml has them now, in the words of installed packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [
        f"{line}; extra == '{extra}'" for extra, lines in extras for line in lines
    ]


def required(name: str, extras: frozenset[str] = frozenset(), seen: set[Any] | None = None) -> set[str]:
    """The distributions that installing `name[extras]` brings, itself included."""
    seen = set() if seen is None else seen
    key = (canonicalize_name(name), extras)
    if key in seen:
        return set()
    seen.add(key)
    found = {canonicalize_name(name)}
    for one in map(Requirement, ours() if name == "blip2-chat" else distribution(name).requires or []):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            found |= required(one.name, frozenset(one.extras), seen)
    return found


def imports(path: Path) -> Iterator[str]:
    """The packages that a notebook's cells import."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            source = re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import):
                    yield from (one.name.split(".")[0] for one in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.split(".")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=["plain", "int8"])
def test_requirements_bring_everything_that_a_notebook_imports(path: Path) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [".[notebook]"]
    brought = required("blip2-chat", frozenset({"notebook"}))
    providers = packages_distributions()
    used = set(imports(path)) - set(sys.stdlib_module_names) - {"blip2_chat"}
    assert {"matplotlib", "torch", "IPython", "transformers"} & used
    for package in used:
        assert {canonicalize_name(one) for one in providers[package]} & brought, package
    # And what runs them.
    assert {"notebook", "jupyterlab", "ipykernel", "anywidget", "bitsandbytes", "accelerate"} <= brought


# ------------------------------------------------------------------------------------------------ a kernel


@pytest.mark.slow
def test_interrupting_a_cell_leaves_the_live_chat_alone(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """A real kernel: while the widget writes a long answer, a cell runs, is interrupted, and the answer goes on."""
    folder = str(checkpoint("opt", 4))
    cells = (
        "import json, os, signal, threading, time\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "import blip2_chat\n"
        "from PIL import Image\n"
        "from blip2_chat.notebook import ChatWidget\n"
        f"model = blip2_chat.load({folder!r}, engine='torch', device='cpu', on_progress=lambda *news: None)\n"
        "widget = ChatWidget(model, Image.new('RGB', (80, 80)), max_new_tokens=300)\n"
        "widget.wait()\n"
        "step = model.engine.inner.step\n"
        "begun, sleeping, over = threading.Event(), threading.Event(), threading.Event()\n"
        "model.engine.inner.step = lambda *given: (begun.set(), over.wait(), step(*given))[2]\n",
        "widget._handle_custom_msg({'kind': 'ask', 'question': 'what is this?'}, [])\n"
        "begun.wait(60)\n"
        "def interrupt():\n"
        "    sleeping.wait()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"  # what "Interrupt Kernel" sends
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "try:\n"
        "    sleeping.set()\n"
        "    time.sleep(60)\n"
        "    said = 'slept'\n"
        "except KeyboardInterrupt:\n"
        "    said = 'interrupted'\n"
        "busy = widget.busy\n"
        "over.set()\n"
        "widget.wait()\n"
        "print(json.dumps([said, busy, widget.turns, widget.error]))\n",
    )
    path = tmp_path / "interrupt.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, path)
    ran = execute(path, as_it_is, 200, ALONE)
    said, busy, turns, error = json.loads(ran.cells[1].outputs[-1].text)
    assert (said, busy, error) == ("interrupted", "answering", "")
    assert turns[0]["note"] in ("", "cut short") and turns[0]["answer"]
