"""`find` by hub name: the real huggingface_hub client, in its own process, against a hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.checkpoint import hub
from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.inspect import inspect, inspect_retriever
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.conversion import fingerprint as provenance
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint, make_retriever
from tests.support.fake_hub import FakeHub, fake_hub, found
from tests.support.forking import called

NAME = "someone/blip2-tiny"

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sharded checkpoint with companions nobody needs, and the same weights as a pickle's file."""
    base = tmp_path_factory.mktemp("sources")
    sharded = make_checkpoint(base / "sharded", "opt", max_shard_size="100KB")
    for name in ("pytorch_model.bin", "training_args.pkl", "README.md", "flax_model.msgpack"):
        (sharded / name).write_bytes(b"not wanted")
    (sharded / "onnx").mkdir()
    for name in ("quantisation.json", "model.safetensors"):
        (sharded / "onnx" / name).write_bytes(b"not wanted")
    single = make_checkpoint(base / "single", "opt", seed=1)
    pickled = Path(shutil.copytree(single, base / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    return {"sharded": sharded, "single": single, "pickled": pickled}


@pytest.fixture
def served(sources: dict[str, Path]) -> Iterator[FakeHub]:
    with fake_hub() as server:
        server.revisions[NAME] = {"main": sources["sharded"], "refs/pr/3": sources["single"]}
        yield server


@pytest.fixture
def ask(served: FakeHub, tmp_path: Path) -> Ask:
    def run(name: str = NAME, *, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {
            "HF_ENDPOINT": served.url,
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
            **(env or {}),
        }
        code, out, err = called(found, name, options, environment={**kept, **settings})
        assert code == 0, err
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert "\n" not in answer.get("error", "")
        return answer

    return run


def test_download_then_cache_then_offline(ask: Ask, served: FakeHub, sources: dict[str, Path]) -> None:
    first = ask()
    folder = Path(first["folder"])
    shards = sorted(path.name for path in sources["sharded"].glob("*.safetensors"))
    assert inspect(folder).weight_files == tuple(shards)
    for name in ("config.json", "tokenizer.json", *shards):
        assert (folder / name).read_bytes() == (sources["sharded"] / name).read_bytes()
    assert {"quantisation.json", "model.safetensors"}.isdisjoint(served.files_sent)
    suffixes = {Path(name).suffix for name in served.files_sent}
    assert suffixes == {".json", ".safetensors"}
    # Small files first: nothing heavy is sent before they have been looked at.
    order = [Path(name).suffix for name in served.files_sent]
    assert order == sorted(order)
    total = sum((folder / name).stat().st_size for name in shards)
    assert first["progress"][-1] == [total, total]

    served.requests.clear()
    assert ask() == {"folder": str(folder), "progress": []}
    assert served.files_sent == []

    served.requests.clear()
    assert ask(env={"HF_HUB_OFFLINE": "1"})["folder"] == str(folder)
    assert served.requests == []


def test_the_tokenizer_of_the_qformer_comes_with_instructblip(
    ask: Ask, served: FakeHub, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "made", "instruct-t5")
    (made / "another" / "folder").mkdir(parents=True)
    (made / "another" / "folder" / "tokenizer.json").write_bytes(b"not wanted")
    served.revisions[NAME] = {"main": made}
    folder = Path(ask()["folder"])
    assert sorted(path.name for path in (folder / "qformer_tokenizer").iterdir()) == sorted(
        path.name for path in (made / "qformer_tokenizer").iterdir() if path.suffix == ".json"
    )
    assert not (folder / "another").exists()
    text = "what colour is the car?"
    tokenizers = [Tokenizer.from_folder(one, ModelConfig.from_folder(one)) for one in (made, folder)]
    assert tokenizers[0].instruction(text) == tokenizers[1].instruction(text) != ()


def test_the_cache_serves_when_the_hub_is_gone_or_down(ask: Ask, served: FakeHub) -> None:
    folder = ask()["folder"]
    with closed_port() as gone:
        assert ask(env={"HF_ENDPOINT": gone})["folder"] == folder
    served.failing = True
    assert ask()["folder"] == folder


@contextmanager
def closed_port() -> Iterator[str]:
    """The address of a port that nobody listens on; taken, so that nobody else begins to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


def test_a_revision_by_keyword_in_the_name_and_by_commit(
    ask: Ask, served: FakeHub, sources: dict[str, Path]
) -> None:
    folder = ask(revision="refs/pr/3")["folder"]
    assert Path(folder).name == served.commit_of(sources["single"])
    assert inspect(folder).weight_files == ("model.safetensors",)
    assert ask(f"{NAME}@refs/pr/3")["folder"] == folder
    served.requests.clear()
    assert ask(f"{NAME}@{served.commit_of(sources['single'])}")["folder"] == folder
    assert served.requests == []


def test_a_broken_download_goes_on(ask: Ask, served: FakeHub) -> None:
    """Shards that arrived are kept; offline, what is partial is said to be."""
    folder = Path(ask()["folder"])
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.resolve().unlink()
    shard.unlink(missing_ok=True)
    message = ask(env={"HF_HUB_OFFLINE": "1"})["error"]
    assert "only partly in the cache" in message and "HF_HUB_OFFLINE is set" in message
    served.requests.clear()
    assert ask()["folder"] == str(folder)
    assert served.files_sent == [shard.name]
    inspect(folder)


def test_not_found(ask: Ask) -> None:
    message = ask("salesforce/blip2-opt-2.7")["error"]
    assert message.startswith("the hub has no model salesforce/blip2-opt-2.7 that you may see")
    assert "Salesforce/blip2-opt-2.7b" in message and "hf auth login" in message
    assert ask(revision="v9")["error"] == f"{NAME} has no revision 'v9'; leave it out for the latest"


def test_tokens(ask: Ask, served: FakeHub) -> None:
    served.token = "hf_secret"
    message = ask()["error"]
    assert "that you may see" in message and "hf auth login" in message
    message = ask(token="hf_wrong")["error"]
    assert f"does not let your token read {NAME}" in message and "hf auth login" in message
    assert "folder" in ask(env={"HF_TOKEN": "hf_secret"})
    assert "folder" in ask(token="hf_secret")


def test_gated(ask: Ask, served: FakeHub) -> None:
    served.gated.add(NAME)
    message = ask()["error"]
    assert (
        f"{NAME} is gated: accept its terms at {served.url}/{NAME}" in message and "hf auth login" in message
    )


def test_nothing_cached_and_no_hub(ask: Ask, served: FakeHub, tmp_path: Path) -> None:
    message = ask(env={"HF_HUB_OFFLINE": "1"})["error"]
    assert f"{NAME} is not in the cache ({tmp_path / 'home' / 'hub'}) and HF_HUB_OFFLINE is set" in message
    assert "name a local folder" in message
    with closed_port() as gone:
        message = ask(env={"HF_ENDPOINT": gone})["error"]
    assert (
        f"not in the cache ({tmp_path / 'home' / 'hub'}) and {gone} cannot be reached (ConnectError"
        in message
    )
    served.failing = True
    message = ask()["error"]
    assert f"{served.url} cannot be reached" in message and "503" in message


def test_only_pickles_on_the_hub(ask: Ask, served: FakeHub, sources: dict[str, Path]) -> None:
    served.revisions[NAME]["main"] = sources["pickled"]
    message = ask()["error"]
    assert f"{NAME} at revision main has its weights only as pickles" in message
    assert f"{NAME}@refs/pr/NUMBER" in message
    assert not [name for name in served.files_sent if not name.endswith(".json")]
    assert "folder" in ask(f"{NAME}@refs/pr/3")


def test_another_kind_of_model_is_reported_before_its_weights_are_fetched(
    ask: Ask, served: FakeHub, sources: dict[str, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(sources["single"], tmp_path / "other"))
    config = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps({**config, "model_type": "llava"}), "utf-8")
    served.revisions["someone/llava"] = {"main": other}
    message = ask("someone/llava")["error"]
    assert message.startswith("someone/llava: ") and "'llava', not 'blip-2'" in message
    assert "model.safetensors" not in served.files_sent


def test_an_index_that_leaves_the_folder_or_promises_too_much(
    ask: Ask, served: FakeHub, sources: dict[str, Path], tmp_path: Path
) -> None:
    for shard, message in (
        ("../x.safetensors", "refused"),
        ("absent.safetensors", "has no absent.safetensors"),
    ):
        other = Path(shutil.copytree(sources["sharded"], tmp_path / shard.strip("./")))
        index = {"weight_map": {"query_tokens": shard}}
        (other / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
        served.revisions["someone/odd"] = {"main": other}
        assert message in ask("someone/odd")["error"]
    assert not [name for name in served.files_sent if name.endswith(".safetensors")]


def test_a_disk_that_is_too_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken download left behind need not be fetched again."""
    folder = tmp_path / "models--a--b" / "snapshots" / "0"
    blobs = tmp_path / "models--a--b" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 3_000_000_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    hub._check_disk("a/b", folder, 3_000_000_000)
    with pytest.raises(CheckpointError, match=r"too full for a/b: 3\.1 GB are missing and 3\.0 GB are free"):
        hub._check_disk("a/b", folder, 3_100_000_000)
    with (blobs / "x.incomplete").open("wb") as file:
        file.truncate(100_000_000)
    hub._check_disk("a/b", folder, 3_100_000_000)


def test_a_disk_that_fills_up_on_the_way() -> None:
    for error in (OSError(28, "No space left on device"), RuntimeError("Data error: (os error 28)")):
        with pytest.raises(CheckpointError, match="the disk is too full for a/b") as caught, \
                hub._one_line_errors("a/b", None):  # fmt: skip
            raise error
        assert "HF_HOME" in str(caught.value)


def test_any_other_failure_is_one_line_too() -> None:
    with pytest.raises(CheckpointError) as caught, hub._one_line_errors("a/b", None):
        raise ConnectionResetError("peer went away\n\nfor more see …")
    assert "(ConnectionResetError: peer went away); try again" in str(caught.value)
    assert "\n" not in str(caught.value)


# Repositories that are not laid out as the official ones


@pytest.fixture
def parsed(sources: dict[str, Path], served: FakeHub, tmp_path: Path) -> Path:
    """As microsoft/OmniParser: the model in a folder, shards of another name, no index, no tokenizer."""
    root = tmp_path / "parsed"
    inside = Path(shutil.copytree(sources["sharded"], root / "icon_caption_blip2"))
    shards = sorted(inside.glob("model-*.safetensors"))
    for shard in shards:
        shard.rename(inside / f"pytorch_{shard.name}")
    for name in ("model.safetensors.index.json", "tokenizer.json", "preprocessor_config.json"):
        (inside / name).unlink()
    (inside / "processor_config.json").unlink(missing_ok=True)
    (root / "other").mkdir()
    (root / "other" / "model.safetensors").write_bytes(b"not wanted")
    (root / "README.md").write_text("not wanted")
    served.revisions["someone/Parser"] = {"main": root, "v2": root}
    return inside


@pytest.mark.parametrize("at", ["", "@v2"])
def test_a_folder_of_a_repository(ask: Ask, served: FakeHub, parsed: Path, at: str) -> None:
    name = f"someone/Parser/icon_caption_blip2{at}"
    folder = Path(ask(name)["folder"])
    assert folder.name == "icon_caption_blip2"
    assert provenance.hub_commit(folder) == FakeHub.commit_of(parsed.parent)
    expected = sorted(path.name for path in parsed.glob("*.safetensors"))
    assert len(expected) > 1
    assert sorted(path.name for path in folder.glob("*.safetensors")) == expected
    assert {"README.md", "model.safetensors"}.isdisjoint(served.files_sent)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["icon_caption_blip2"]
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json") as caught:
        inspect(folder)
    assert (caught.value.parameter, caught.value.path) == ("processor", folder)
    served.requests.clear()
    assert ask(name, env={"HF_HUB_OFFLINE": "1"})["folder"] == str(folder)


def test_a_folder_that_the_repository_lacks(ask: Ask, parsed: Path) -> None:
    error = ask("someone/Parser/icon_caption")["error"]
    assert (
        "there is no folder someone/Parser/icon_caption here, and on the hub: someone/Parser has no" in error
    )


def test_a_processor_comes_without_its_weights(
    ask: Ask, served: FakeHub, sources: dict[str, Path], parsed: Path
) -> None:
    processor = Path(ask(NAME, weights=False)["folder"])
    assert not any(name.endswith(".safetensors") for name in served.files_sent)
    model = Path(ask("someone/Parser/icon_caption_blip2")["folder"])
    checkpoint = inspect(model, processor)
    assert (
        checkpoint.companion("tokenizer.json").read_bytes()
        == (sources["sharded"] / "tokenizer.json").read_bytes()
    )
    assert checkpoint.companion("config.json") == model / "config.json"


def test_an_adapter_alone_is_named_before_its_weights_come(ask: Ask, served: FakeHub, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "Salesforce/blip2-opt-2.7b"})
    )
    (lora / "adapter_model.safetensors").write_bytes(b"heavy")
    served.revisions["someone/lora"] = {"main": lora}
    error = ask("someone/lora")["error"]
    assert "someone/lora is a LoRA adapter of Salesforce/blip2-opt-2.7b, and not a whole model" in error
    assert served.files_sent == ["adapter_config.json"]


def test_a_vocabulary_comes_with_a_retrieval_model(ask: Ask, served: FakeHub, tmp_path: Path) -> None:
    """It has no tokenizer.json."""
    source = make_retriever(tmp_path / "itm")
    served.revisions["someone/itm"] = {"main": source}
    folder = Path(ask("someone/itm")["folder"])
    assert inspect_retriever(folder).config == inspect_retriever(source).config
    assert (folder / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()


@pytest.fixture
def lora(served: FakeHub, tmp_path: Path) -> Path:
    """The files of an adapter's repository, of which two are wanted."""
    folder = tmp_path / "adapter"
    (folder / "checkpoint-500").mkdir(parents=True)
    for name in ("adapter_config.json", "checkpoint-500/adapter_config.json"):
        (folder / name).write_text("{}")
    for name in (
        "adapter_model.safetensors",
        "checkpoint-500/adapter_model.safetensors",
        "training_args.bin",
    ):
        (folder / name).write_bytes(b"weights")
    served.revisions["someone/lora"] = {"main": folder, "v2": folder}
    return folder


@pytest.mark.parametrize("name", ["someone/lora", "someone/lora@v2"])
def test_an_adapter_is_its_two_files(ask: Ask, served: FakeHub, lora: Path, name: str) -> None:
    folder = Path(ask(name, adapter=True)["folder"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    served.requests.clear()
    assert Path(ask(name, adapter=True, env={"HF_HUB_OFFLINE": "1"})["folder"]) == folder
    assert served.requests == []


def test_an_adapter_in_a_folder_of_its_repository(ask: Ask, lora: Path) -> None:
    folder = Path(ask("someone/lora/checkpoint-500", adapter=True)["folder"])
    assert folder.name == "checkpoint-500" and (folder / "adapter_model.safetensors").is_file()


def test_an_adapter_without_safetensors(ask: Ask, served: FakeHub, lora: Path) -> None:
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    error = ask("someone/lora", adapter=True)["error"]
    assert "someone/lora has its weights only as a pickle (adapter_model.bin), which can run code" in error
    assert served.files_sent == ["adapter_config.json"]


def test_a_repository_without_an_adapter(ask: Ask) -> None:
    assert f"{NAME} is not a PEFT adapter: it has no adapter_config.json" in ask(adapter=True)["error"]
    assert "has no model someone/else" in ask("someone/else", adapter=True)["error"]
