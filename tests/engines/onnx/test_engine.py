"""The fp32 engine against transformers: the same logits, whatever was asked of the state before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Blip2ForConditionalGeneration

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx import OnnxEngine, load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.errors import CheckpointError, GenerationError
from tests.support.checkpoints import make_checkpoint

TOLERANCE = 1e-4

ODD_VISION = {
    "hidden_size": 36,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "image_size": 42,
    "hidden_act": "gelu_new",
    "qkv_bias": False,
}
ODD_QFORMER = {
    "hidden_size": 30,
    "num_attention_heads": 5,
    "num_hidden_layers": 4,
    "cross_attention_frequency": 3,
    "hidden_act": "relu",
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {}),
    "opt odd": (
        "opt",
        {
            "vision": ODD_VISION,
            "qformer": ODD_QFORMER,
            "text": {
                "hidden_size": 51,
                "word_embed_proj_dim": 51,
                "num_attention_heads": 3,
                "ffn_dim": 70,
                "num_hidden_layers": 3,
                "activation_function": "gelu",
            },
            "num_query_tokens": 7,
        },
    ),
    "opt without biases": (
        "opt",
        {
            "text": {
                "enable_bias": False,
                "layer_norm_elementwise_affine": False,
                "_remove_final_layer_norm": True,
            },
            "tied_head": False,
        },
    ),
    "t5": ("t5", {}),
    "t5 odd": (
        "t5",
        {
            "vision": ODD_VISION,
            "qformer": ODD_QFORMER,
            "text": {
                "d_model": 33,
                "d_kv": 7,
                "num_heads": 3,
                "d_ff": 50,
                "feed_forward_proj": "gated-silu",
                "relative_attention_num_buckets": 10,
                "relative_attention_max_distance": 20,
                "num_layers": 1,
                "num_decoder_layers": 3,
            },
            "num_query_tokens": 1,
        },
    ),
    "t5 1.0": (
        "t5",
        {"text": {"feed_forward_proj": "relu", "tie_word_embeddings": True}, "tied_head": True},
    ),
}


class Reference:
    """transformers, computing every logit anew from the whole sequence."""

    def __init__(self, folder: Path) -> None:
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        self.config = self.model.config
        self.is_t5 = self.config.text_config.model_type == "t5"

    @torch.no_grad()
    def query_vectors(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()

    @torch.no_grad()
    def logits(self, picture: np.ndarray, prompt: list[int], answer: list[int]) -> np.ndarray:
        """After `answer` (which follows the prompt; for T5 the start token): [V]."""
        ids = [self.config.image_token_index] * self.config.num_query_tokens + prompt
        more: dict[str, Any] = {"use_cache": False}
        if self.is_t5:
            more["decoder_input_ids"] = torch.tensor([[0, *answer]])
        else:
            ids = ids + answer
        output = self.model(
            pixel_values=torch.from_numpy(picture[None]), input_ids=torch.tensor([ids]), **more
        )
        return output.logits[0, -1].numpy()


class Case:
    def __init__(self, folder: Path, shape: str) -> None:
        family, overrides = SHAPES[shape]
        make_checkpoint(folder / "official", family, seed=len(shape), **overrides)
        convert(inspect(folder / "official"), folder / "onnx", "fp32")
        self.reference = Reference(folder / "official")
        self.engine = load_onnx_engine(folder / "onnx", threads=1)
        self.rng = np.random.default_rng(len(shape))
        size = self.engine.config.vision.image_size
        self.pixels = self.rng.standard_normal((3, 3, size, size)).astype(np.float32)
        self.vectors = self.engine.encode_image(self.pixels)

    def tokens(self, count: int) -> list[int]:
        # From 4: above the special tokens; below the picture's own.
        return self.rng.integers(4, self.engine.config.image_token_id, count).tolist()

    def check(self, logits: np.ndarray, rows: list[tuple[int, list[int], list[int]]]) -> None:
        """Each row of `logits` against the reference for (picture, prompt, answer)."""
        assert logits.shape == (len(rows), self.engine.config.text.vocab_size)
        for row, (picture, prompt, answer) in zip(logits, rows, strict=True):
            expected = self.reference.logits(self.pixels[picture], prompt, answer)
            assert expected.std() > 0.1
            np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), request.param)


@pytest.fixture(scope="module", params=["opt", "t5"])
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), request.param)


def test_query_vectors(case: Case) -> None:
    expected = case.reference.query_vectors(case.pixels)
    assert expected.std() > 0.3 and np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(case.vectors, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [1, 2, 40, 300])
def test_one_prompt_and_its_answer(case: Case, length: int) -> None:
    prompt, answer = case.tokens(length), []
    state, logits = case.engine.prefill(case.vectors[:1], [prompt])
    case.check(logits, [(0, prompt, answer)])
    for _ in range(3):
        answer = answer + case.tokens(1)
        logits = case.engine.step(state, answer[-1:])
        case.check(logits, [(0, prompt, answer)])
    assert state.tokens == [answer if case.reference.is_t5 else prompt + answer]


def test_a_long_answer_outgrows_the_buffer(official: Case) -> None:
    prompt, answer = official.tokens(5), official.tokens(150)
    state, _ = official.engine.prefill(official.vectors[:1], [prompt])
    before = state.nbytes
    for token in answer:
        logits = official.engine.step(state, [token])
    official.check(logits, [(0, prompt, answer)])
    assert state.nbytes > before


def test_ragged_rows(case: Case) -> None:
    prompts = [case.tokens(n) for n in (3, 41, 1)]
    rows = [(i, prompt, []) for i, prompt in enumerate(prompts)]
    state, logits = case.engine.prefill(case.vectors, prompts)
    case.check(logits, rows)
    for _ in range(2):
        new = case.tokens(3)
        rows = [(i, prompt, [*answer, token]) for (i, prompt, answer), token in zip(rows, new, strict=True)]
        case.check(case.engine.step(state, new), rows)


def test_reorder_as_beams_do(case: Case) -> None:
    prompt = case.tokens(9)
    state, _ = case.engine.prefill(case.vectors[:1], [prompt])
    state.reorder([0, 0, 0])
    answers = [[], [], []]
    for parents in ([2, 1, 0], [0, 0, 2], [1, 1, 1], [2, 0, 1], [1, 0]):
        new = case.tokens(len(answers))
        logits = case.engine.step(state, new)
        answers = [[*answer, token] for answer, token in zip(answers, new, strict=True)]
        case.check(logits, [(0, prompt, answer) for answer in answers])
        state.reorder(parents)
        answers = [answers[parent] for parent in parents]
        assert state.tokens == [answer if case.reference.is_t5 else prompt + answer for answer in answers]
    case.check(
        case.engine.step(state, [5, 6]), [(0, prompt, [*a, t]) for a, t in zip(answers, [5, 6], strict=True)]
    )


def test_reorder_across_pictures(official: Case) -> None:
    prompts = [official.tokens(4), official.tokens(7)]
    state, _ = official.engine.prefill(official.vectors[:2], prompts)
    new = official.tokens(2)
    official.engine.step(state, new)
    state.reorder([1, 0])
    logits = official.engine.step(state, [8, 9])
    official.check(logits, [(1, prompts[1], [new[1], 8]), (0, prompts[0], [new[0], 9])])
    state.reorder([1, 1, 0])
    logits = official.engine.step(state, [4, 5, 6])
    left, right = (0, prompts[0], [new[0], 9]), (1, prompts[1], [new[1], 8])
    official.check(
        logits, [(i, p, [*a, t]) for (i, p, a), t in zip([left, left, right], [4, 5, 6], strict=True)]
    )


def test_truncate(official: Case) -> None:
    prompt, answer = official.tokens(6), official.tokens(5)
    state, _ = official.engine.prefill(official.vectors[:1], [prompt])
    for token in answer:
        official.engine.step(state, [token])
    kept = 2 if official.reference.is_t5 else len(prompt) + 2
    state.truncate(kept)
    assert [len(row) for row in state.tokens] == [kept]
    official.check(official.engine.step(state, [7]), [(0, prompt, [*answer[:2], 7])])


def test_append(official: Case) -> None:
    rows = []
    states = []
    for picture, (length, steps) in enumerate([(3, 4), (90, 1), (8, 0)]):
        prompt, answer = official.tokens(length), official.tokens(steps)
        state, _ = official.engine.prefill(official.vectors[picture : picture + 1], [prompt])
        for token in answer:
            official.engine.step(state, [token])
        states.append(state)
        rows.append((picture, prompt, answer))
    states[0].append(states[1])
    states[0].append(states[2])
    new = official.tokens(3)
    logits = official.engine.step(states[0], new)
    official.check(logits, [(i, p, [*a, token]) for (i, p, a), token in zip(rows, new, strict=True)])


def test_rows_join_and_leave_a_running_batch(official: Case) -> None:
    """Continuous batching: in and out in any order, with rows that outgrow the buffer in between."""
    rows: list[tuple[int, list[int], list[int]]] = []
    running = None
    for turn in range(16):
        if turn in (0, 1, 2, 3, 5, 6, 9, 10, 11):
            picture, prompt = turn % 3, official.tokens(4 + 9 * (turn % 4))
            state, _ = official.engine.prefill(official.vectors[picture : picture + 1], [prompt])
            if running is None:
                running = state
            else:
                running.append(state)
            rows.append((picture, prompt, []))
        assert running is not None
        new = official.tokens(len(rows))
        logits = official.engine.step(running, new)
        rows = [(i, p, [*a, token]) for (i, p, a), token in zip(rows, new, strict=True)]
        official.check(logits, rows)
        staying = {4: [0, 2, 3], 6: [4, 0, 1, 2], 7: [1, 1, 3], 8: [2], 12: [0, 3], 13: [1, 0]}.get(turn)
        if staying:
            running.reorder(staying)
            rows = [rows[row] for row in staying]


def test_take(official: Case) -> None:
    prompts = [official.tokens(length) for length in (3, 90, 8)]
    state, _ = official.engine.prefill(official.vectors, prompts)
    official.engine.step(state, [5, 6, 7])
    taken = state.take([2, 0])
    rows = [(2, prompts[2], [7, 11]), (0, prompts[0], [5, 12])]
    official.check(official.engine.step(taken, [11, 12]), rows)
    logits = official.engine.step(state, [14, 15, 16])
    official.check(logits, [(i, prompt, [5 + i, 14 + i]) for i, prompt in enumerate(prompts)])
    assert state.take([0]).nbytes < state.nbytes / 3.5


def test_take_and_reorder(official: Case) -> None:
    prompts = [official.tokens(3), official.tokens(8)]
    state, _ = official.engine.prefill(official.vectors[:2], prompts)
    taken = state.take([1, 0, 1])
    logits = official.engine.step(taken, [4, 5, 6])
    official.check(logits, [(1, prompts[1], [4]), (0, prompts[0], [5]), (1, prompts[1], [6])])
    # The state taken from is as it was.
    official.check(official.engine.step(state, [7, 8]), [(0, prompts[0], [7]), (1, prompts[1], [8])])
    taken.reorder([2, 1, 0])
    official.check(official.engine.step(taken, [9, 9, 9])[:1], [(1, prompts[1], [6, 9])])


def test_a_follow_up_reuses_the_common_prefix(official: Case) -> None:
    shared = official.tokens(20)
    state, _ = official.engine.prefill(official.vectors[:1], [[*shared, 5, 6]])
    official.engine.step(state, [9])
    for follow_up in ([*shared, 7, 8, 9], [*shared, 7], [*shared, 7], shared[:3], [4], official.tokens(90)):
        state, logits = official.engine.prefill(official.vectors[:1], [follow_up], state)
        official.check(logits, [(0, follow_up, [])])
        official.check(official.engine.step(state, [11]), [(0, follow_up, [11])])


def test_follow_ups_in_a_batch(official: Case) -> None:
    prompts = [official.tokens(5), official.tokens(30)]
    state, _ = official.engine.prefill(official.vectors[:2], prompts)
    official.engine.step(state, [5, 6])
    prompts = [[*prompts[0], 5, 8, 9, 10], [*prompts[1][:10], 7]]
    state, logits = official.engine.prefill(official.vectors[:2], prompts, state)
    official.check(logits, [(i, prompt, []) for i, prompt in enumerate(prompts)])
    official.check(
        official.engine.step(state, [4, 4]), [(i, prompt, [4]) for i, prompt in enumerate(prompts)]
    )


def test_only_new_tokens_are_computed(official: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if official.reference.is_t5:
        pytest.skip("an encoder reads both ways; it reuses whole prompts only")
    prompt = official.tokens(50)
    state, _ = official.engine.prefill(official.vectors[:1], [prompt])
    language, computed = official.engine._language, []
    run = language._run
    monkeypatch.setattr(language, "_run", lambda s, x, *more: (computed.append(x.shape[1]), run(s, x, *more)))
    official.engine.prefill(official.vectors[:1], [[*prompt, 5, 6, 7]], state)
    assert computed == [3]


def test_batch_and_alone_are_the_same(official: Case) -> None:
    np.testing.assert_array_equal(official.vectors[1:2], official.engine.encode_image(official.pixels[1:2]))


def test_what_lies_behind_the_rows_does_not_matter(official: Case) -> None:
    prompts = [official.tokens(3), official.tokens(12)]
    state, _ = official.engine.prefill(official.vectors[:2], prompts)
    for row, length in enumerate(state.cache.lengths):
        state.cache.data[:, row, :, length:] = np.nan
    logits = official.engine.step(state, [5, 6])
    official.check(logits, [(i, p, [t]) for i, (p, t) in enumerate(zip(prompts, [5, 6], strict=True))])


def test_clear_refusals(official: Case) -> None:
    engine = official.engine
    with pytest.raises(ValueError, match="at least one token"):
        engine.prefill(official.vectors[:1], [[]])
    with pytest.raises(ValueError, match="1 pictures and 2 prompts"):
        engine.prefill(official.vectors[:1], [[5], [6]])
    with pytest.raises(ValueError, match=r"pixels are \[1, 3, 8, 8\]"):
        engine.encode_image(np.zeros((1, 3, 8, 8), np.float32))
    state, _ = engine.prefill(official.vectors[:2], [[5], [6]])
    with pytest.raises(ValueError, match="has 2 rows, not 1"):
        engine.step(state, [5])
    if not official.reference.is_t5:
        with pytest.raises(GenerationError, match="512 positions"):
            engine.prefill(official.vectors[:1], [official.tokens(508)])


def test_close(tmp_path: Path, official: Case) -> None:
    folder = tmp_path / "m"
    make_checkpoint(tmp_path / "c", "opt")
    convert(inspect(tmp_path / "c"), folder, "fp32")
    engine: OnnxEngine = load_onnx_engine(folder)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.encode_image(np.zeros((1, 3, 28, 28), np.float32))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"do_layer_norm_before": False}, "as opt-350m.*use engine='torch'"),
        ({"do_layer_norm_before": False, "word_embed_proj_dim": 24}, "as opt-350m; BLIP-2's have one width"),
        ({"activation_function": "laplace"}, "activation 'laplace': use engine='torch'"),
    ],
)
def test_what_the_graphs_do_not_have_is_refused(tmp_path: Path, text: dict[str, Any], said: str) -> None:
    make_checkpoint(tmp_path / "c", "opt", text=text)
    with pytest.raises(CheckpointError, match=said):
        convert(inspect(tmp_path / "c"), tmp_path / "m", "fp32")
    assert not (tmp_path / "m").exists()
