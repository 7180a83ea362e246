"""Damaged model folders: each is refused in one line or works, and none ends the process (`model_folder_fuzz`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.errors import CheckpointError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("opt", 12),
        ("t5", 12),
        ("sharded", 12),
        ("converted opt", 20),
        ("converted t5", 20),
        *(
            pytest.param(kind, 400, marks=pytest.mark.slow)
            for kind in ("opt", "t5", "sharded", "converted opt", "converted t5")
        ),
    ],
)
def test_damaged_folders(checkpoint: Callable[..., Path], tmp_path: Path, kind: str, cases: int) -> None:
    family = "t5" if "t5" in kind else "opt"
    source = checkpoint("opt", max_shard_size="60KB") if kind == "sharded" else checkpoint(family)
    if kind.startswith("converted"):
        convert(inspect(source), tmp_path / "converted", "int8")
        source = tmp_path / "converted"
    command = [
        sys.executable,
        "-m",
        "tests.support.model_folder_fuzz",
        source,
        tmp_path / "scratch",
        "1",
        str(cases),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    (tmp_path / "scratch").mkdir()
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1]}: {done.stderr[-2000:]}"
    finished = [line for line in lines if "outcome" in line]
    assert len(finished) == cases
    assert [line for line in finished if line["outcome"] not in ("loaded", "refused")] == []
    # Or the damage would be none, or the check nothing but a no.
    assert {line["outcome"] for line in finished} == {"loaded", "refused"}


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("opt", {"eos_token_id": 10**6}),
        ("opt", {"eos_token_id": ["a"]}),
        ("opt", {"eos_token_id": []}),
        ("opt", {"eos_token_id": -1}),
        ("opt", {"bos_token_id": 10**6}),
        ("opt", {"vocab_size": 10**18}),
        ("t5", {"decoder_start_token_id": 10**6}),
        ("t5", {"relative_attention_max_distance": 10**12}),
        ("t5", {"relative_attention_max_distance": 16}),
        ("t5", {"relative_attention_num_buckets": 1}),
        ("t5", {"feed_forward_proj": "x-" * 50_000}),
        ("t5", {"dense_act_fn": ["gelu"]}),
    ],
)
def test_numbers_that_no_file_disproves(family: str, text: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_dict({"model_type": "blip-2", "text_config": {"model_type": family, **text}})
    assert len(str(caught.value)) < 200


def test_a_tokenizer_with_more_tokens_than_the_model(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"has tokens up to number .* and the model knows"):
        blip2_chat.load(checkpoint("t5"), processor=checkpoint("opt"))


def test_messages_hold_no_escape_sequences() -> None:
    message = str(CheckpointError("a\x1b[2Jb\nc" + "x" * 10_000))
    assert message.startswith("a?[2Jb c") and message.isprintable() and len(message) < 1600
