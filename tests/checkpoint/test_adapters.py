"""LoRA adapters that peft makes: merged tensor by tensor as peft merges them, and refused in one line otherwise."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import blip2_chat
from blip2_chat import CheckpointError
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.checkpoint.tensor_names import expected_tensors
from blip2_chat.checkpoint.weights import Weights
from tests.support.adapters import LINEARS, T5_LINEARS, base_model, make_adapter, merged
from tests.support.checkpoints import change_json
from tests.support.tensor_files import load_tensors, save_tensors

Make = Callable[..., Path]

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("opt", {"target_modules": LINEARS}),
    "T5": ("t5", {"target_modules": [*T5_LINEARS, "lm_head"], "r": 4, "lora_alpha": 16}),
    "all linear layers": ("opt", {"target_modules": "all-linear", "r": 2}),
    "a pattern of names": (
        "opt",
        {"target_modules": r".*(qformer.*\.(query|value)|layers\.\d\.self_attn\.(q|v)_proj)"},
    ),
    "ranks and alphas by pattern": (
        "opt",
        {
            "target_modules": LINEARS,
            "r": 8,
            "lora_alpha": 12,
            "rank_pattern": {"q_proj": 2, r"qformer.*query": 3},
            "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 5, "query": 7},
        },
    ),
    "rank-stabilised": (
        "opt",
        {
            "target_modules": LINEARS,
            "use_rslora": True,
            "rank_pattern": {"fc1": 3},
            "alpha_pattern": {"fc1": 4},
        },
    ),
    "DoRA": ("opt", {"target_modules": LINEARS, "use_dora": True}),
    "the biases of its layers": ("opt", {"target_modules": LINEARS, "bias": "lora_only"}),
    "all biases": ("opt", {"target_modules": ["q_proj"], "bias": "all"}),
    "transposed in name only": ("opt", {"target_modules": LINEARS, "fan_in_fan_out": True}),
    "a convolution": ("opt", {"target_modules": ["patch_embedding", "qkv"]}),
    "whole modules": ("opt", {"target_modules": ["q_proj"], "modules_to_save": ["language_projection"]}),
    "a whole head": ("opt", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "a whole head and embeddings": (
        "opt",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "a whole head of T5": ("t5", {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
}


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request: pytest.FixtureRequest, checkpoint: Make, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A checkpoint and an adapter of it."""
    family, settings = SETTINGS[request.param]
    folder = checkpoint(family)
    return folder, make_adapter(folder, tmp_path_factory.mktemp("adapter"), **settings)


def test_every_tensor_is_as_peft_merges_it(pair: tuple[Path, Path]) -> None:
    folder, adapter = pair
    checkpoint = inspect(folder, adapter=adapter)
    expected = merged(folder, adapter).state_dict()
    plain = base_model(folder).state_dict()
    weights = Weights(checkpoint)
    changed = set()
    for name in expected_tensors(checkpoint.config):
        found = weights.read(name)
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=0, atol=1e-5, err_msg=name)
        if not np.allclose(found, plain[name].numpy(), rtol=0, atol=1e-4):
            changed.add(name)
    assert checkpoint.adapter is not None and changed == checkpoint.adapter.changed


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_both_engines_answer_as_the_merged_model(pair: tuple[Path, Path], engine: str) -> None:
    folder, adapter = pair
    reference = merged(folder, adapter)
    options: dict[str, Any] = {"engine": engine, "precision": "fp32", "device": "cpu"}
    model = blip2_chat.load(folder, adapter=adapter, **options)
    config = model.engine.config
    size = config.vision.image_size
    pixels = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    prompt = model.tokenizer.encode("Question: how many cats are there? Answer:")
    state, logits = model.engine.prefill(model.engine.encode_image(pixels), [prompt])
    tokens: list[int] = []
    for _ in range(8):
        tokens.append(int(logits[0].argmax()))
        logits = model.engine.step(state, [tokens[-1]])
    model.close()
    ids = torch.tensor([[config.image_token_id] * config.num_query_tokens + prompt])
    eos = config.text.vocab_size - 1  # never written by a random model, so that all eight tokens are
    with torch.no_grad():
        written = reference.generate(
            pixel_values=torch.from_numpy(pixels),
            input_ids=ids,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=eos,
        )
    assert written[0, -8:].tolist() == tokens


def test_int8_is_made_of_the_merged_tensors(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint("opt")
    adapter = make_adapter(folder, tmp_path / "adapter", target_modules=LINEARS, lora_alpha=64)
    adapted = blip2_chat.load(folder, adapter=adapter, precision="int8")
    exact = blip2_chat.load(folder, adapter=adapter, precision="fp32")
    plain = blip2_chat.load(folder, precision="int8")
    pixels = np.random.default_rng(1).standard_normal((1, 3, 28, 28)).astype(np.float32)
    near, same, other = (one.engine.encode_image(pixels) for one in (adapted, exact, plain))
    assert np.abs(near - same).max() < 0.2 * np.abs(other - same).max()


# The cache


def test_conversions_are_kept_apart_by_adapter(checkpoint: Make, tmp_path: Path) -> None:
    from blip2_chat.conversion.cache import cached
    from blip2_chat.conversion.prune import is_orphan

    folder = checkpoint("opt")
    names = []
    for seed in (1, 2):
        adapter = make_adapter(folder, tmp_path / f"adapter-{seed}", seed=seed, target_modules=LINEARS)
        blip2_chat.load(folder, adapter=adapter, engine="onnx", precision="fp32").close()
        names.append(str(adapter))
    held = {one.adapter: one for one in cached() if one.adapter in names}
    assert len({one.folder for one in held.values()}) == 2
    entry = held[names[0]]
    assert entry.title == f"{folder.resolve()} with {names[0]}" and not is_orphan(entry)
    count = len(cached())
    blip2_chat.load(folder, adapter=names[0], engine="onnx", precision="fp32").close()
    assert len(cached()) == count, "loaded again, not converted again"
    # The same folder with other weights is another adapter.
    make_adapter(folder, Path(names[0]), seed=3, target_modules=LINEARS)
    blip2_chat.load(folder, adapter=names[0], engine="onnx", precision="fp32").close()
    assert len(cached()) == count + 1
    shutil.rmtree(names[0])
    assert is_orphan(entry)


def test_a_pickled_model_keeps_its_adapter(checkpoint: Make, tmp_path: Path) -> None:
    import pickle

    folder = checkpoint("opt")
    adapter = make_adapter(folder, tmp_path / "adapter", target_modules=LINEARS)
    model = blip2_chat.load(folder, adapter=adapter)
    again = pickle.loads(pickle.dumps(model))
    assert again.name == model.name == f"{folder}+{adapter}"
    pixels = np.zeros((1, 3, 28, 28), np.float32)
    assert np.array_equal(again.engine.encode_image(pixels), model.engine.encode_image(pixels))


# What is refused


@pytest.fixture
def lora(checkpoint: Make, tmp_path: Path) -> Path:
    return make_adapter(checkpoint("opt"), tmp_path / "lora", target_modules=LINEARS)


def refused(checkpoint: Make, adapter: Path, match: str, family: str = "opt") -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        blip2_chat.load(checkpoint(family), adapter=adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "settings", "kind"),
    [
        ("IA3Config", {"target_modules": ["q_proj"], "feedforward_modules": []}, "IA3"),
        ("LoHaConfig", {"target_modules": ["q_proj"]}, "LOHA"),
    ],
)
def test_other_kinds(
    checkpoint: Make, tmp_path: Path, config: str, settings: dict[str, Any], kind: str
) -> None:
    import peft

    made = getattr(peft, config)(**settings)
    peft.get_peft_model(base_model(checkpoint("opt")), made).save_pretrained(tmp_path)
    refused(
        checkpoint, tmp_path, f"an adapter of the kind '{kind}'; only LoRA and DoRA are applied: merge it"
    )


def test_pickles(checkpoint: Make, lora: Path) -> None:
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    refused(checkpoint, lora, r"only as a pickle \(adapter_model.bin\), which can run code")


def test_the_adapter_of_another_model(checkpoint: Make, lora: Path, tmp_path: Path) -> None:
    refused(checkpoint, lora, "which this model does not have: the adapter is another model's", "t5")
    wide = checkpoint("opt")
    other = make_adapter(wide, tmp_path / "other", target_modules=["fc1"])
    tensors = load_tensors(other / "adapter_model.safetensors")
    tensors = {name: tensor[..., :-1] if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_tensors(
        other / "adapter_model.safetensors", {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    )
    refused(checkpoint, other, "has the shape .*, and the model asks for .*another model's")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"init_lora_weights": "pissa"}, "its initialisation .* also changed the model; save it with PEFT's"),
        ({"use_dora": True}, "do not agree about DoRA"),
        ({"lora_alpha": "many"}, "lora_alpha or alpha_pattern is damaged"),
        ({"lora_alpha": 1e400}, "lora_alpha"),
        ({"alpha_pattern": {"(": 1}}, "lora_alpha or alpha_pattern is damaged"),
        ({"layer_replication": [[0, 2]]}, "with layer_replication cannot be merged"),
        ({"peft_type": None}, "of the kind None"),
    ],
)
def test_settings_that_cannot_be_merged(
    checkpoint: Make, lora: Path, changes: dict[str, Any], match: str
) -> None:
    change_json(lora / "adapter_config.json", lambda raw: {**raw, **changes})
    refused(checkpoint, lora, match)


def test_embeddings_by_lora(checkpoint: Make, tmp_path: Path) -> None:
    adapter = make_adapter(checkpoint("opt"), tmp_path / "one", target_modules=["embed_tokens"])
    refused(checkpoint, adapter, "a table of embeddings by LoRA, which is not applied")
    adapter = make_adapter(checkpoint("opt"), tmp_path / "two", target_modules=["lm_head"])
    refused(checkpoint, adapter, "lm_head.weight, which this model shares between its embeddings and another")


def test_no_adapter_at_all(checkpoint: Make, tmp_path: Path) -> None:
    refused(checkpoint, tmp_path, "is not a PEFT adapter: it has no adapter_config.json")
    refused(checkpoint, tmp_path / "nowhere" / "else", "is neither a folder nor a hub name")


def test_a_converted_folder(checkpoint: Make, lora: Path, tmp_path: Path) -> None:
    from blip2_chat.conversion.convert import convert

    out = convert(inspect(checkpoint("opt")), tmp_path / "out", "fp32", name="x")
    with pytest.raises(
        CheckpointError, match="an adapter is merged before that; give adapter with the original"
    ):
        blip2_chat.load(out, adapter=lora)


@pytest.mark.filterwarnings("error")
def test_an_adapter_beside_its_base_is_applied_when_it_is_named(checkpoint: Make, lora: Path) -> None:
    folder = checkpoint("opt")
    both = lora.with_name("both")
    shutil.copytree(folder, both)
    shutil.copytree(lora, both, dirs_exist_ok=True)
    found = Weights(inspect(both, adapter=both)).read("language_projection.weight")
    expected = Weights(inspect(folder, adapter=lora)).read("language_projection.weight")
    np.testing.assert_array_equal(found, expected)


# The command line


def test_commands(checkpoint: Make, lora: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from blip2_chat.cli import app

    folder, photo = str(checkpoint("opt")), tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "teal").save(photo)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.stderr
        return result.stdout

    asked = ("ask", str(photo), "how many?", "--max-new-tokens", "8")
    adapted = run(*asked, "--model", folder, "--adapter", str(lora))
    assert adapted != run(*asked, "--model", folder)
    out = tmp_path / "converted"
    assert str(out) in run("convert", folder, str(out), "--adapter", str(lora), "--precision", "fp32")
    assert run(*asked, "--model", str(out)) == adapted
    assert f"Converted here: {Path(folder).resolve()} with {lora} at fp32" in run("models")
