"""transformers' own BLIP-2 and InstructBLIP behind the engine protocol: the reference, and the way to a GPU.

Only the modules in this folder import torch: `engine.py` computes, `state.py` has the KV caches, `loading.py`
loads the weights at a precision, and `graphs.py` replays steps as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...checkpoint.config import ModelConfig
from ...errors import CheckpointError, MissingExtraError
from ..engine import Floats, Given, State, common_prefix, require_instructions

try:
    import torch
    from torch import Tensor
    from transformers import DynamicCache, EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    from .graphs import StepGraph
    from .inside import Inside
    from .loading import accelerator, load_weights, weight_bytes
    from .state import TorchState, cache_name, left_padded
except ImportError as error:  # one line for the user, whichever of the two is absent
    raise MissingExtraError(f"the torch engine ({error.name} is not installed)", "torch") from None


class TorchEngine:
    """`Blip2ForConditionalGeneration` or `InstructBlipForConditionalGeneration` on a CPU or a GPU; see
    `engine.Engine`."""

    name = "torch"

    def __init__(self, model: Any, config: ModelConfig, precision: str, device: str) -> None:
        self.config = config
        self.precision = precision
        self.device = device
        self._model = model.eval().requires_grad_(False)
        self._language_model = model.language_model
        self._cache_name = cache_name(model.language_model)
        self._home = _where(self._language_model.get_input_embeddings())
        self._graph: StepGraph | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        precision: str = "fp32",
        device: str = "auto",
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> TorchEngine:
        """Loads an official-layout folder; `precision` int8 and int4 through bitsandbytes.

        `device` "cuda" is the GPU with room for the model, or all of them together when none has; "cuda:1" is
        that one.
        """
        config = ModelConfig.from_folder(folder)
        device = accelerator() or "cpu" if device == "auto" else device
        model = load_weights(folder, config, precision, device, on_progress)
        return cls(model, config, precision, device)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take, with what their quantisation needs beside them."""
        return weight_bytes(self._model)

    def use_graphs(self) -> None:
        """From now on, steps of one row go through a CUDA graph; see `graphs.py`. Raises `CheckpointError` where
        that is not possible."""
        devices = {one.device for one in self._model.parameters()}
        if self._home.type != "cuda" or len(devices) > 1:
            raise CheckpointError(f"CUDA graphs need a model on one CUDA GPU; this one is on {self.device}")
        if not self.config.language.has_step_graphs or self.precision in ("int8", "int4"):
            # bitsandbytes' int8 looks for outliers on the host in every layer, which a graph cannot replay.
            raise CheckpointError("CUDA graphs are for OPT checkpoints at fp16, bf16 and fp32")
        self._graph = self._step_graph()

    @property
    def graphs_off(self) -> str:
        """Why the steps asked to go through a graph no longer do; empty where they do, or were never asked to."""
        return "" if self._graph is None else self._graph.off

    def _step_graph(self, **options: Any) -> StepGraph:
        return StepGraph(
            self._language_model, lambda state, token: self._plain_step(state, [token]), **options
        )

    @torch.inference_mode()
    def encode_image(self, pixels: Floats) -> Floats:
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._home)
        if self.config.reads_instruction:
            return _numpy(self._model.vision_model(pixel_values=given).last_hidden_state)
        features = self._model.get_image_features(given, return_dict=True).pooler_output
        return _numpy(features)

    @torch.inference_mode()
    def query(self, pictures: Floats, instructions: Sequence[Sequence[int]]) -> Floats:
        if not self.config.reads_instruction:
            return pictures
        require_instructions(instructions, len(pictures))
        features = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._home)
        return _numpy(self._qformer(features, instructions)[1])

    def attention(self, pixels: Floats, given: Given) -> Floats:
        return self._inside.attention(pixels, given)

    def gradient(self, pixels: Floats, given: Given) -> Iterator[tuple[int, int, Floats]]:
        return self._inside.gradient(pixels, given)

    @torch.inference_mode()
    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[TorchState, Floats]:
        rows = [list(row) for row in token_ids]
        mine = cast("TorchState | None", state)
        if not self.config.text.is_decoder_only:
            return self._prefill_encoder_decoder(query_vectors, rows, mine)
        if mine is not None and len(mine.tokens) == len(rows):
            pairs = zip(mine.tokens, rows, strict=True)
            # The last token is always computed, because its logits are needed.
            common = min(min(common_prefix(old, new), len(new) - 1) for old, new in pairs)
            mine.truncate(common)
            new = [row[common:] for row in rows]
            return mine, _numpy(self._feed(mine, [self._embed(row) for row in new], new))
        vectors = self._vectors(query_vectors)
        embeds = [torch.cat([vectors[i], self._embed(row)]) for i, row in enumerate(rows)]
        mask = torch.zeros((len(rows), 0), dtype=torch.bool, device=self._home)
        fresh = TorchState(vectors.shape[1], DynamicCache(), mask, [[] for _ in rows])
        return fresh, _numpy(self._feed(fresh, embeds, rows))

    @torch.inference_mode()
    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        mine = cast(TorchState, state)
        if not self.config.text.is_decoder_only:
            return self._decode(mine, list(token_ids), [[token] for token in token_ids])
        logits = self._graph.step(mine, token_ids[0]) if self._graph and len(token_ids) == 1 else None
        return _numpy(self._plain_step(mine, token_ids) if logits is None else logits)

    def close(self) -> None:
        self._graph = None
        del self._model, self._language_model

    @property
    def _inside(self) -> Inside:
        return Inside(self._model, self.config, self._home, self._qformer)

    def _qformer(
        self, features: Tensor, instructions: Sequence[Sequence[int]], **options: Any
    ) -> tuple[Any, Tensor]:
        """The Q-Former's output over features [B,T,W], and the query vectors [B,Q,D]. It is kept in fp32."""
        model = self._model
        queries = model.query_tokens.expand(len(features), -1, -1)
        if self.config.reads_instruction:
            longest = max(map(len, instructions))
            ids = torch.zeros((len(features), longest), dtype=torch.long, device=self._home)
            mask = torch.zeros_like(ids)
            for i, instruction in enumerate(instructions):
                ids[i, : len(instruction)] = torch.as_tensor(instruction)
                mask[i, : len(instruction)] = 1
            seen = torch.ones(queries.shape[:2], dtype=torch.long, device=self._home)
            options |= {"input_ids": ids, "attention_mask": torch.cat([seen, mask], dim=1)}
        output = model.qformer(
            query_embeds=queries, encoder_hidden_states=features.to(queries.dtype), **options
        )
        hidden = output.last_hidden_state[:, : queries.shape[1]]
        return output, model.language_projection(hidden.to(model.language_projection.weight.dtype))

    def _plain_step(self, state: TorchState, token_ids: Sequence[int]) -> Tensor:
        return self._feed(
            state, [self._embed([token]) for token in token_ids], [[token] for token in token_ids]
        )

    def _feed(self, state: TorchState, embeds: list[Tensor], tokens: list[list[int]]) -> Tensor:
        """Runs the decoder-only model over new slots, right-aligned -> logits [B,V] of the last one."""
        longest = max(len(one) for one in embeds)
        chunk = torch.stack([left_padded(one, longest, 0) for one in embeds])
        lengths = torch.as_tensor([len(one) for one in embeds], device=self._home)
        new_mask = torch.arange(longest, device=self._home) >= longest - lengths[:, None]
        state.mask = torch.cat([state.mask, new_mask], dim=1)
        positions = (state.mask.long().cumsum(1) - 1).clamp(min=0)[:, -longest:]
        # A mask of ones is left out, so that the fast causal kernels can be taken.
        attention = None if bool(state.mask.all()) else state.mask.long()
        logits = self._language_model(
            inputs_embeds=chunk,
            attention_mask=attention,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: state.cache},
        ).logits
        for row, new in zip(state.tokens, tokens, strict=True):
            row.extend(new)
        return cast(Tensor, logits[:, -1])

    def _prefill_encoder_decoder(
        self, query_vectors: Floats, rows: list[list[int]], state: TorchState | None
    ) -> tuple[TorchState, Floats]:
        if state is None or state.prompts != rows:
            state = self._encode(query_vectors, rows)
        # Without a configuration: T5's counts the encoder's layers.
        state.cache = DynamicCache()
        state.mask = torch.zeros((len(rows), 0), dtype=torch.bool, device=self._home)
        start = self.config.text.decoder_start_token_id
        assert start is not None
        # The start token stands where OPT has its picture: before the row's own tokens.
        return state, self._decode(state, [start] * len(rows), [[] for _ in rows], fresh=True)

    def _encode(self, query_vectors: Floats, rows: list[list[int]]) -> TorchState:
        vectors = self._vectors(query_vectors)
        embeds = [torch.cat([vectors[i], self._embed(row)]) for i, row in enumerate(rows)]
        longest = max(len(one) for one in embeds)
        chunk = torch.stack([left_padded(one, longest, 0) for one in embeds])
        lengths = torch.as_tensor([len(one) for one in embeds], device=self._home)
        encoded_mask = torch.arange(longest, device=self._home) >= longest - lengths[:, None]
        hidden = self._language_model.encoder(inputs_embeds=chunk, attention_mask=encoded_mask.long())
        state = TorchState(1, DynamicCache(), encoded_mask[:, :0], [[] for _ in rows])
        state.encoded, state.encoded_mask = hidden.last_hidden_state, encoded_mask
        state.prompts = rows
        return state

    def _decode(
        self, state: TorchState, ids: list[int], tokens: list[list[int]], fresh: bool = False
    ) -> Floats:
        """One decoder step of the encoder-decoder model -> logits [B,V]."""
        assert state.encoded is not None and state.encoded_mask is not None
        if fresh:
            state._tokens = [[] for _ in ids]
        new = torch.ones((len(ids), 1), dtype=torch.bool, device=self._home)
        state.mask = torch.cat([state.mask, new], dim=1)
        first = state.cross is None
        cross = DynamicCache() if state.cross is None else state.cross
        cache = EncoderDecoderCache(state.cache, cross)
        if not first:
            cache.is_updated = dict.fromkeys(range(len(cross.layers)), True)
        logits = self._language_model(
            encoder_outputs=BaseModelOutput(last_hidden_state=state.encoded),
            attention_mask=state.encoded_mask.long(),
            decoder_input_ids=torch.as_tensor(ids, device=self._home)[:, None],
            decoder_attention_mask=state.mask.long(),
            use_cache=True,
            **{self._cache_name: cache},
        ).logits
        state.cross = cross
        for row, one in zip(state.tokens, tokens, strict=True):
            row.extend(one)
        return _numpy(logits[:, -1])

    def _embed(self, ids: list[int]) -> Tensor:
        table = self._language_model.get_input_embeddings()
        return cast(Tensor, table(torch.as_tensor(ids, dtype=torch.long, device=self._home)))

    def _vectors(self, query_vectors: Floats) -> Tensor:
        dtype = self._language_model.get_input_embeddings().weight.dtype
        return torch.from_numpy(np.ascontiguousarray(query_vectors)).to(self._home, dtype)


def _numpy(tensor: Tensor) -> Floats:
    return cast(Floats, tensor.float().cpu().numpy())


def _where(embeddings: Any) -> torch.device:
    """The device of the language model's first weights. Those that accelerate offloads are on the "meta"
    device."""
    device: torch.device = embeddings.weight.device
    return torch.device(embeddings._hf_hook.execution_device) if device.type == "meta" else device
