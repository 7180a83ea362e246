"""What models need and what machines have: against the converter's plans, psutil, and made system files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from blip2_chat.checkpoint import requirements as memory
from blip2_chat.checkpoint.catalogue import KNOWN
from blip2_chat.checkpoint.config import ModelConfig, OptConfig, QFormerConfig, VisionConfig
from blip2_chat.checkpoint.requirements import COSTS, best_precision, needed, require_fit
from blip2_chat.engines.onnx import convert
from blip2_chat.errors import NotEnoughMemoryError, Suggestion

GB = 10**9
BY_NAME = {known.name.removeprefix("Salesforce/").removeprefix("blip2-"): known for known in KNOWN}
OPT = BY_NAME["opt-2.7b"].config
XXL = BY_NAME["flan-t5-xxl"].config
TINY = ModelConfig(
    VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=28
    ),
    QFormerConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48),
    OptConfig(vocab_size=300, hidden_size=48, num_hidden_layers=2, ffn_dim=96, num_attention_heads=4),
)


# needed


@pytest.mark.parametrize(
    ("precision", "engine", "low", "high"),
    [
        ("int8", "onnx", 4.2, 4.8),
        ("int4", "onnx", 2.9, 3.4),
        ("fp32", "torch", 15.3, 15.8),
        ("fp16", "torch", 7.9, 8.6),
        # The file alone is 15.0 GB.
        ("fp32", "onnx", 15.0, 15.8),
    ],
)
def test_opt_2_7b_stays_near_what_is_aimed_at(precision: str, engine: str, low: float, high: float) -> None:
    assert low * GB <= needed(OPT, precision, engine) <= high * GB


@pytest.mark.parametrize("precision", get_args(convert.Precision))
@pytest.mark.parametrize(
    "name", ["opt-2.7b", "flan-t5-xl", "instructblip-flan-t5-xl", "instructblip-vicuna-7b"]
)
def test_the_onnx_weights_are_those_the_converter_writes(name: str, precision: convert.Precision) -> None:
    """All but what stays on disk; ONNX Runtime packs a sum beside every block's scale."""
    config = BY_NAME[name].config
    plan = convert.plan(config, precision, tied_head=config.text.kind == "opt")
    written = [one for graph in plan.graphs for recipe in graph.recipes for one in recipe.outputs]
    held = sum(one.nbytes for one in written if not one.mapped)
    held += 2 * sum(one.nbytes for one in written if one.mapped and one.name.endswith(".scale"))
    assert memory._weights(config, precision, COSTS["onnx"]) == pytest.approx(held, rel=0.005)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", BY_NAME)
def test_less_precise_is_smaller_and_fp32_holds_all_weights(name: str, engine: str) -> None:
    known = BY_NAME[name]
    sizes = [needed(known.config, precision, engine) for precision in ("fp32", "bf16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    text = known.config.text
    # A table beside an untied head stays on disk with the onnx engine, and so do the Q-Former's words.
    mapped, qformer = 0, known.config.qformer
    if engine == "onnx":
        mapped += text.vocab_size * text.hidden_size if text.kind != "opt" else 0
        mapped += qformer.vocab_size * qformer.hidden_size if qformer.use_qformer_text_input else 0
    assert 0.2 * GB < sizes[0] - 4 * (known.parameters - mapped) < 1.2 * GB
    assert needed(known.config, "fp16", engine) == sizes[1]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_qformer_stays_fp32_and_the_rest_does_not(engine: str) -> None:
    """Doubling the Q-Former's layers adds the same bytes at every precision; the vision encoder's differ."""
    larger = replace(OPT, qformer=replace(OPT.qformer, num_hidden_layers=24))
    # Per pair of layers: 2 self-attentions, 1 cross-attention to 1408, 2 feed-forwards.
    attention, cross = 4 * 768 * 768 + 6 * 768, 2 * 768 * 768 + 2 * 1408 * 768 + 6 * 768
    feed_forward = 2 * 768 * 3072 + 3072 + 3 * 768
    pair = 2 * attention + cross + 2 * feed_forward
    for precision in ("fp32", "bf16", "int8", "int4"):
        added = needed(larger, precision, engine) - needed(OPT, precision, engine)
        assert added == pytest.approx(6 * pair * 4, abs=2)
    deeper = replace(OPT, vision=replace(OPT.vision, num_hidden_layers=78))
    added = [needed(deeper, p, engine) - needed(OPT, p, engine) for p in ("fp32", "bf16", "int8", "int4")]
    assert added[0] / added[1] == pytest.approx(2, rel=0.01)
    assert added[0] / added[2] == pytest.approx(4, rel=0.05)
    assert added[0] / added[3] == pytest.approx(4 if engine == "onnx" else 4 / 0.5625, rel=0.05)


def test_larger_pictures_cost_activations() -> None:
    """364 instead of 224 pixels: 677 instead of 257 tokens, in a layer's buffers, squared in its scores."""
    coco = BY_NAME["opt-2.7b-coco"].config
    grown = needed(coco, "fp32", "onnx") - needed(OPT, "fp32", "onnx") - 4 * 420 * 1408
    assert 20e6 < grown < 120e6


def test_a_precision_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="fp32, fp16, bf16, int8, int4"):
        needed(OPT, "fp8", "onnx")


# best_precision


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("available", [GB // 10, 64 * GB])
def test_small_models_are_fp32_anywhere(engine: str, available: int) -> None:
    assert best_precision(TINY, engine, available) == "fp32"


@pytest.mark.parametrize(
    ("engine", "gb", "precision"),
    [
        ("onnx", 64, "int8"),  # although fp32 would fit: several times faster
        ("onnx", 8, "int8"),
        ("onnx", 5, "int4"),  # int8 fits, but not comfortably
        ("onnx", 3.5, "int4"),  # uncomfortable, but it is the smallest
        ("onnx", 1, "int4"),
        ("torch", 64, "fp32"),
        ("torch", 18, "bf16"),
        ("torch", 9, "int8"),
        ("torch", 5, "int4"),
        ("torch", 1, "int4"),
    ],
)
def test_auto_precision_of_opt_2_7b(engine: str, gb: float, precision: str) -> None:
    assert best_precision(OPT, engine, int(gb * GB)) == precision


def test_when_nothing_is_comfortable_the_most_precise_that_fits_at_all() -> None:
    """Between int4 and its comfortable amount there is room for int4 only; for xxl on torch likewise."""
    edge = needed(XXL, "int4", "torch")
    assert best_precision(XXL, "torch", edge) == "int4"
    assert best_precision(XXL, "torch", int(edge / 0.79)) == "int4"


# require_fit


def test_what_fits_is_let_through() -> None:
    exact = needed(OPT, "int8", "onnx")
    require_fit(OPT, "int8", "onnx", available=exact, name="x")
    with pytest.raises(NotEnoughMemoryError):
        require_fit(OPT, "int8", "onnx", available=exact - 1, name="x")


def refusal(
    config: ModelConfig, precision: str, engine: str, gb: float, name: str = "my/model"
) -> NotEnoughMemoryError:
    with pytest.raises(NotEnoughMemoryError) as caught:
        require_fit(config, precision, engine, available=int(gb * GB), name=name)
    return caught.value


def suggested(*asked: Any) -> tuple[str, str, str]:
    suggestion = refusal(*asked).suggestion
    assert suggestion is not None
    return suggestion.name, suggestion.precision, suggestion.engine


def test_the_refusal_has_the_numbers_and_the_precision_that_fits() -> None:
    error = refusal(OPT, "fp32", "torch", 10)
    assert (error.name, error.precision, error.engine) == ("my/model", "fp32", "torch")
    assert (error.needed, error.available) == (needed(OPT, "fp32", "torch"), 10 * GB)
    assert error.suggestion == Suggestion("my/model", "bf16", "torch", needed(OPT, "bf16", "torch"))
    assert suggested(OPT, "fp32", "onnx", 10) == ("my/model", "int8", "onnx")
    assert suggested(OPT, "int8", "onnx", 4) == ("my/model", "int4", "onnx")


def test_the_refusal_names_the_other_engine_when_only_that_fits() -> None:
    config = BY_NAME["flan-t5-xl"].config
    between = (needed(config, "int4", "onnx") + needed(config, "int4", "torch")) / 2 / GB
    assert suggested(config, "fp32", "torch", between) == ("my/model", "int4", "onnx")


def test_the_refusal_names_a_checkpoint_that_fits() -> None:
    name = "Salesforce/blip2-flan-t5-xxl"
    assert suggested(XXL, "int8", "onnx", 7, name) == ("Salesforce/blip2-opt-6.7b", "int4", "onnx")
    assert suggested(XXL, "int8", "onnx", 4, name) == ("Salesforce/blip2-flan-t5-xl", "int4", "onnx")
    coco = BY_NAME["opt-6.7b-coco"]
    assert suggested(coco.config, "int8", "onnx", 4, coco.name)[0] == "Salesforce/blip2-flan-t5-xl-coco"


def test_the_refusal_names_the_embedded_model_when_nothing_else_fits() -> None:
    error = refusal(OPT, "int8", "onnx", 1)
    assert error.suggestion is None
    assert "nor any official checkpoint; the embedded model does" in str(error)


def test_who_asks_for_instructions_is_advised_a_model_that_follows_them() -> None:
    small = refusal(BY_NAME["instructblip-vicuna-7b"].config, "int8", "onnx", 5.0)
    assert small.suggestion is not None and "instructblip" in small.suggestion.name
    assert "instructblip" not in str(refusal(XXL, "int8", "onnx", 5.0))


def test_every_advice_is_true() -> None:
    """Following it is never refused again."""
    for known in KNOWN:
        for engine in COSTS:
            for gb in (2, 3.5, 6, 9, 14, 20, 33):
                available = int(gb * GB)
                if needed(known.config, "fp32", engine) <= available:
                    continue
                advice = refusal(known.config, "fp32", engine, gb, known.name).suggestion
                if advice is None:
                    assert gb == 2
                    continue
                config = next(one.config for one in KNOWN if one.name == advice.name)
                require_fit(config, advice.precision, advice.engine, available=available, name="x")
                assert advice.needed == needed(config, advice.precision, advice.engine) <= available


def test_this_machine_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * GB)
    with pytest.raises(NotEnoughMemoryError, match=r"2\.0 GB is available"):
        require_fit(OPT, "int8", "onnx", name="x")
