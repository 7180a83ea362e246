"""What errors carry, the words they speak, and that no module of the library speaks a front end's."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat import errors
from blip2_chat.batch.errors import UnreadableError
from blip2_chat.cli.wording import as_option, worded
from blip2_chat.errors import (
    Blip2ChatError,
    CheckpointError,
    ConversationError,
    GenerationError,
    MissingExtraError,
    NotEnoughMemoryError,
    Parameter,
    PictureError,
    PromptTooLongError,
    RunError,
    Suggestion,
)
from tests.support.extras import imported

PACKAGE = Path(blip2_chat.__file__).parent
# The server is started by the command, and these texts are for whoever started it or asks them: the documentation of
# the API, a refusal of a name of the server, and the card of an adapter with commands for its reader. The options of
# `installation.py` are those of uvx and pipx.
SPEAK_OF_THE_COMMAND = {
    "web/schemas.py",
    "web/schemas_responses.py",
    "web/middleware/auth.py",
    "agents/pictures.py",
    "installation.py",
    "tuning/record.py",
}


def texts(source: str) -> list[str]:
    """All string literals of a module but its docstrings, the texts of f-strings among them."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def options_in(source: str) -> list[str]:
    return [text for text in texts(source) if re.search(r"(?<![-\w])--[a-z]", text)]


def test_no_message_of_the_library_names_an_option_of_the_command() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): spoken
        for path in sorted(PACKAGE.rglob("*.py"))
        if "cli" not in path.relative_to(PACKAGE).parts and (spoken := options_in(path.read_text("utf-8")))
    }
    assert found.keys() == SPEAK_OF_THE_COMMAND, found


def test_an_option_in_a_text_would_be_found() -> None:
    assert options_in('"""--a"""\nraise E(f"{x}; give --out")\n') == ["; give --out"]


def test_the_drawing_names_all_errors_with_their_fields() -> None:
    drawn = dict(re.findall(r"^ +(?:\| +)?\+ (\w+) +(.+)$", errors.__doc__ or "", re.MULTILINE))
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Blip2ChatError)
    }
    assert drawn.keys() == kinds - {"Blip2ChatError"}
    for made in MADE:
        if type(made).__module__ == errors.__name__ and type(made) is not Blip2ChatError:
            for field in drawn[type(made).__name__].split(", "):
                assert hasattr(made, field), (made, field)


MEMORY = NotEnoughMemoryError("my/model", "fp32", "torch", 16_000_000_000, 5_000_000_000)
MADE: list[Blip2ChatError] = [
    Blip2ChatError("plain"),
    CheckpointError("bad\nline", path="a/b"),
    MEMORY,
    NotEnoughMemoryError("m", "int8", "onnx", 2, 1, Suggestion("m", "int4", "onnx", 1)),
    MissingExtraError("this", "web"),
    PictureError("a.png is empty", name="a.png", fault="damaged"),
    GenerationError(setting="num_beams", value=0, rule="give at least 1"),
    ConversationError("broken", path="x.json"),
    RunError("give another ", Parameter("out")),
    PromptTooLongError("the question alone", 70, -3),
    UnreadableError("x.csv is not there"),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_from_another_process(error: Blip2ChatError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.message, vars(again)) == (str(error), error.message, vars(error))
    assert "\n" not in str(error)


def test_each_front_end_has_its_own_words_for_a_parameter() -> None:
    error = RunError(
        "give ", Parameter("fresh", True), ", ", Parameter("sidecar", "txt"), " or another ", Parameter("out")
    )
    assert str(error) == "give fresh=True, sidecar='txt' or another out"
    assert worded(error) == "give --fresh, --sidecar txt or another --out"
    assert error.parameter == "fresh" and RunError("no").parameter is None
    assert as_option(Parameter("join", "append")) == "--append"
    assert as_option(Parameter("num_beams", 4)) == "--beams 4"
    assert as_option(Parameter("processor", "my folder")) == "--processor 'my folder'"


@pytest.mark.parametrize(
    ("setting", "option", "field"),
    [
        ("num_beams", "--beams", "num_beams"),
        ("max_new_tokens", "--max-new-tokens", "max_tokens"),
        ("top_p", "--top-p", "top_p"),
    ],
)
def test_a_wrong_setting_in_the_words_of_each_front_end(setting: str, option: str, field: str) -> None:
    worded_for_requests = imported("blip2_chat.web.errors", "test-web").worded
    error = GenerationError(setting=setting, value=0, rule="give more than {max_new_tokens}")
    assert str(error) == f"{setting} is 0; give more than max_new_tokens"
    assert worded(error) == f"{option} is 0; give more than --max-new-tokens"
    assert worded_for_requests(error) == f"{field} is 0; give more than max_tokens"
    plain = GenerationError("the question is empty")
    assert worded(plain) == worded_for_requests(plain) == str(plain)


def suggested(*about: Any) -> NotEnoughMemoryError:
    return NotEnoughMemoryError("my/model", "fp32", "torch", 16 * 10**9, 5 * 10**9, Suggestion(*about))


def test_advice_about_memory_follows_from_the_fields() -> None:
    begin = "my/model at fp32 with the torch engine needs about 16.0 GB of memory, and 5.0 GB is available; "
    end = "; force=True loads it regardless"
    same = suggested("my/model", "int4", "torch", 3 * 10**9)
    assert str(same) == f"{begin}with precision='int4' it needs 3.0 GB and fits{end}"
    assert "; with --precision int4 it needs 3.0 GB and fits; --force loads it regardless" in worded(same)
    engine = suggested("my/model", "int4", "onnx", 3 * 10**9)
    assert "with precision='int4' and engine='onnx' it needs 3.0 GB and fits" in str(engine)
    assert "with --precision int4 and --engine onnx it needs 3.0 GB" in worded(engine)
    other = suggested("org/small", "int8", "torch", 4 * 10**9)
    assert "no precision of it fits, but org/small with precision='int8' needs 4.0 GB and does" in str(other)
    assert str(MEMORY).startswith(begin + "no precision of it fits, nor any official checkpoint")
