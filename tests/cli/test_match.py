"""`blip2-chat match`: what it prints is what the library ranks, and every wrong use is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from tests.support.batch import make_pictures
from tests.support.checkpoints import make_checkpoint, make_retriever
from tests.support.fake_hub import fake_hub

ROOT = Path(__file__).parents[2]

TEXTS = ["a dog on the beach", "two cats", "a pink blanket"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_retriever(tmp_path_factory.mktemp("retriever"), std=0.3)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return make_pictures(tmp_path, 1)[0]


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_best_text_first(folder: Path, photo: Path) -> None:
    ranked = blip2_chat.load_retriever(folder).rank(photo, TEXTS)
    code, printed, told = run("match", photo, *TEXTS, "--model", folder)
    assert code == 0, told
    assert printed.splitlines() == [
        f"{one.probability:5.1%}  {one.similarity:10.4f}  {one.text}" for one in ranked
    ]
    code, printed, _ = run("match", photo, *TEXTS, "--model", folder, "--json", "--top", "2")
    assert [json.loads(line) for line in printed.splitlines()] == [
        {
            "picture": str(photo),
            "text": one.text,
            "probability": pytest.approx(one.probability, abs=1e-5),
            "similarity": pytest.approx(one.similarity, abs=1e-5),
        }
        for one in ranked[:2]
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_labels_from_a_file(folder: Path, photo: Path, tmp_path: Path, encoding: str) -> None:
    """Empty lines and labels that are there twice are left out."""
    labels = tmp_path / "labels.txt"
    labels.write_text("two cats\n\n  a dog  \ntwo cats\na café\n", encoding)
    code, printed, told = run("match", photo, "a dog", "--labels", labels, "--model", folder, "--json")
    assert code == 0, told
    texts = [json.loads(line)["text"] for line in printed.splitlines()]
    assert sorted(texts) == ["a café", "a dog", "two cats"]


def test_the_model_can_be_in_the_environment(
    folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP2_CHAT_RETRIEVER", str(folder))
    assert run("match", photo, "two cats")[0] == 0


def test_wrong_uses(folder: Path, photo: Path, tmp_path: Path) -> None:
    code, _, told = run("match", photo, "--model", folder)
    assert code == 2 and "give at least one TEXT to match, or --labels FILE" in told
    code, _, told = run("match", photo, "--labels", tmp_path / "none.txt", "--model", folder)
    assert code == 2 and "none.txt cannot be read: No such file" in told
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9\n")
    code, _, told = run("match", photo, "--labels", tmp_path / "labels.txt", "--model", folder)
    assert code == 2 and "is not text; save it as UTF-8" in told
    code, _, told = run("match", tmp_path / "none.png", "a dog", "--model", folder)
    assert code == 1 and "none.png" in told
    code, _, told = run("match", photo, "dog " * 600, "--model", folder)
    assert code == 1 and "is too long: the model reads at most 512" in told


def test_each_kind_of_model_names_the_command_of_the_other(folder: Path, photo: Path, tmp_path: Path) -> None:
    chat = make_checkpoint(tmp_path / "chat")
    code, _, told = run("match", photo, "a dog", "--model", chat)
    assert code == 1 and "does not match pictures with texts; name one that does" in told
    for command in (["caption", photo], ["ask", photo, "why?"], ["chat", photo]):
        code, _, told = run(*command, "--model", folder)
        assert code == 1 and "matches pictures with texts (blip2-chat match" in " ".join(told.split())
        assert "Salesforce/blip2-opt-2.7b" in told and len(told.strip().splitlines()) == 1


def test_convert(folder: Path, photo: Path, tmp_path: Path) -> None:
    code, printed, told = run("convert", folder, tmp_path / "int8")
    assert code == 0, told
    assert printed == f"{tmp_path / 'int8'}\n"
    assert "of 16 matches of a picture with a text agree" in told
    assert 'blip2-chat match photo.jpg "a dog" "a cat" --model' in told
    assert run("match", photo, "a dog", "--model", tmp_path / "int8")[0] == 0


def test_models_lists_retrieval_models() -> None:
    code, printed, _ = run("models", "--json")
    assert code == 0
    offers = {one["model"]: one for one in map(json.loads, printed.splitlines()) if "model" in one}
    itm = offers["Salesforce/blip2-itm-vit-g"]
    assert itm["parameters"] == 1_172_032_258
    memory = itm["memory_bytes"]["onnx"]
    assert memory["int4"] < memory["int8"] < memory["fp32"]
    assert "matches pictures with texts" in itm["description"]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["bash", "python"])
def test_what_the_documentation_says(folder: Path, tmp_path: Path, language: str) -> None:
    """docs/retrieval.md, as it stands, with the official name leading to a small random checkpoint."""
    page = (ROOT / "docs" / "retrieval.md").read_text("utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for name, made in zip(("photo.jpg", "a.jpg", "b.jpg"), make_pictures(tmp_path / "made", 3), strict=True):
        Image.open(made).convert("RGB").save(tmp_path / name)
    (tmp_path / "labels.txt").write_text("two cats\na dog\n", "utf-8")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "blip2-chat"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blip2_chat "$@"\n', "utf-8")
    script.chmod(0o755)
    with fake_hub() as hub:
        hub.revisions["Salesforce/blip2-itm-vit-g"] = {"main": folder}
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
            "NO_PROXY": "127.0.0.1",
        }
        run_it = ["bash", "-e", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*run_it, block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
    assert done.returncode == 0, done.stderr
    assert "a dog" in done.stdout and "two cats" in done.stdout
