"""What `inspect` refuses: incomplete, damaged and hostile folders, each in one line."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from tests.support.checkpoints import change_json
from tests.support.damage import HEAD, INDEX, change_tensors, refusal
from tests.support.extras import needs
from tests.support.tensor_files import load_tensors, save_tensors


def test_no_folder_no_config_not_blip2(opt: Path) -> None:
    assert "no folder" in refusal(opt / "absent")
    change_json(opt / "config.json", lambda raw: {**raw, "model_type": "llava"})
    assert "'llava', not 'blip-2'" in refusal(opt)
    (opt / "config.json").write_text('{"a":' * 5000)
    assert "cannot be read as JSON" in refusal(opt)
    (opt / "config.json").unlink()
    assert "no config.json" in refusal(opt)


def test_missing_tokenizer(opt: Path) -> None:
    (opt / "tokenizer.json").unlink()
    assert "lacks tokenizer.json" in refusal(opt)


@pytest.mark.slow
@needs("test-torch")
def test_slow_tokenizer_files_and_the_command_for_them(opt: Path) -> None:
    """The command is read from the message and run; the text's tokens stay what they were."""
    text = "Question: how many cats are there? Answer:"
    expected = Tokenizer.from_file(str(opt / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    model = json.loads((opt / "tokenizer.json").read_text("utf-8"))["model"]
    (opt / "tokenizer.json").unlink()
    (opt / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (opt / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    change_json(opt / "tokenizer_config.json", lambda raw: {"tokenizer_class": "GPT2Tokenizer"})
    _, _, command = refusal(opt).partition("installed: ")
    run_python(command)
    assert isinstance(inspect(opt), Checkpoint)
    tokenizer = Tokenizer.from_file(str(opt / "tokenizer.json"))
    assert tokenizer.encode(text, add_special_tokens=False).ids == expected


def run_python(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


@pytest.mark.slow
@needs("test-torch")
def test_only_pickles_and_the_command_for_them(opt: Path) -> None:
    """The command is read from the message and run; transformers loads the same numbers from both."""
    import torch
    from transformers import Blip2ForConditionalGeneration

    reference = Blip2ForConditionalGeneration.from_pretrained(opt).state_dict()
    names = sorted(reference)
    (opt / "model.safetensors").unlink()
    torch.save({name: reference[name] for name in names[::2]}, opt / "pytorch_model-00001-of-00002.bin")
    torch.save({name: reference[name] for name in names[1::2]}, opt / "pytorch_model-00002-of-00002.bin")
    torch.save({"learning_rate": Path("x")}, opt / "training_args.bin")  # not weights, and not safe to load
    message = refusal(opt)
    assert "only as pickles" in message and "safetensors from the hub" in message
    run_python(message[message.index("python -c") :])
    assert isinstance(inspect(opt), Checkpoint)
    converted = Blip2ForConditionalGeneration.from_pretrained(opt, use_safetensors=True).state_dict()
    assert converted.keys() == reference.keys()
    assert all(torch.equal(converted[name], reference[name]) for name in reference)


def test_a_pickle_of_another_name_is_named_in_the_command(opt: Path) -> None:
    (opt / "model.safetensors").rename(opt / "blip2.pth")
    assert "only as pickles (blip2.pth)" in refusal(opt) and refusal(opt).endswith(" blip2.pth")


def test_no_weights_at_all_and_a_shard_without_index(opt: Path) -> None:
    (opt / "model.safetensors").rename(opt / "model-00001-of-00002.safetensors")
    assert f"neither model.safetensors nor {INDEX}" in refusal(opt)
    (opt / "model-00001-of-00002.safetensors").unlink()
    assert "has no weights" in refusal(opt)


def test_missing_shards(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    assert f"lacks {shards[1].name}, which its index names" in refusal(sharded)
    shards[2].unlink()
    assert f"lacks {shards[1].name} and 1 more of {len(shards)} files" in refusal(sharded)


def test_a_shard_that_lacks_what_the_index_promises(made: Callable[..., Path], tmp_path: Path) -> None:
    """A T5 head may be absent, but not when the index has it."""
    folder = Path(shutil.copytree(made("t5", max_shard_size="40KB"), tmp_path / "t5"))
    shard = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"][HEAD]
    tensors = load_tensors(folder / shard)
    del tensors[HEAD]
    save_tensors(folder / shard, tensors)
    assert f"{shard} lacks {HEAD}" in refusal(folder)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    both = {**load_tensors(first), **load_tensors(second)}
    save_tensors(second, both)
    assert f"is both in {first.name} and in {second.name}" in refusal(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "..\\outside.safetensors",
        "/etc/outside.safetensors",
        "C:outside.safetensors",
        "sub/model.safetensors",
        "weights.bin",
        "..",
        "",
        7,
        None,
    ],
)
def test_index_names_that_leave_the_folder(sharded: Path, name: object) -> None:
    # The file is there, so that only the check of the name refuses it.
    shutil.copy(next(sharded.glob("*.safetensors")), sharded.parent / "outside.safetensors")
    change_json(
        sharded / INDEX,
        lambda raw: {**raw, "weight_map": {**raw["weight_map"], "query_tokens": name}},
    )
    assert f"names {name!r}, which is not a safetensors file of this folder: refused" in refusal(sharded)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}', "\udcff"])
def test_a_damaged_index(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert INDEX in refusal(sharded)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1, -5000])
def test_a_truncated_file_is_named(sharded: Path, keep: int) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:keep])
    message = refusal(sharded)
    assert shard.name in message and "cut off" in message
    if keep < 0:
        assert f"{-keep} of its bytes are missing" in message


def test_a_file_with_bytes_to_spare(opt: Path) -> None:
    with (opt / "model.safetensors").open("ab") as file:
        file.write(b"123")
    assert "3 bytes more" in refusal(opt)


def test_a_git_lfs_pointer(opt: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14979047424\n"
    (opt / "model.safetensors").write_bytes(pointer)
    assert "git lfs pull" in refusal(opt)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    raw = json.dumps(change(header)).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])


def with_entry(header: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**header, "query_tokens": {**header["query_tokens"], **changed}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: [], "a header that is not safetensors'"),
        (lambda header: {**header, "query_tokens": 3}, "a header that is not safetensors'"),
        (lambda header: with_entry(header, shape=[-1, 5, 24]), "a header that is not safetensors'"),
        (
            lambda header: with_entry(header, shape=[1, 5, 25]),
            "the size of query_tokens is not that of its shape",
        ),
        (lambda header: with_entry(header, data_offsets=[0, 480]), "overlap or leave holes"),
    ],
)
def test_damaged_headers(opt: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    rewrite_header(opt / "model.safetensors", change)
    assert message in refusal(opt)


def test_a_header_that_is_not_json_or_far_too_long(opt: Path) -> None:
    path = opt / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:20] = b"\x00" * 12
    path.write_bytes(data)
    assert "not a safetensors file" in refusal(opt)
    with path.open("wb") as file:  # a sparse file: no disk is used
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    assert "header would have 200000000 bytes" in refusal(opt)


def test_missing_tensors_and_wrong_shapes(opt: Path) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    change_tensors(opt, lambda tensors: tensors.update({name: tensors[name].T}))
    assert f"{name} has the shape [32, 64], and config.json asks for [64, 32]" in refusal(opt)
    change_tensors(opt, lambda tensors: (tensors.pop(name), tensors.pop("query_tokens")))
    message = refusal(opt)
    assert "lack vision_model" in message or "lack query_tokens" in message
    assert "and 1 more of" in message


def test_a_config_of_another_size(opt: Path) -> None:
    def larger(raw: dict[str, Any]) -> dict[str, Any]:
        raw["vision_config"]["image_size"] = 42
        return raw

    change_json(opt / "config.json", larger)
    assert "position_embedding has the shape [1, 5, 32], and config.json asks for [1, 10, 32]" in refusal(opt)


def test_quantised_weights_are_named_as_such(opt: Path) -> None:
    name = "language_model.model.decoder.layers.0.fc1.weight"
    change_tensors(opt, lambda tensors: tensors.update({name: np.zeros((2304, 1), np.uint8)}))
    assert f"{name} is stored as U8, already quantised" in refusal(opt)
