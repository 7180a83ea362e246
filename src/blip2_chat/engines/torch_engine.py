"""transformers' own BLIP-2 behind the engine protocol: the reference, and the way to a GPU.

The only module of the package that imports torch. Rows of unequal length stand right-aligned in one cache, with a
mask over its slots.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..config import ModelConfig
from ..errors import Blip2ChatError, MissingExtraError
from .engine import Floats, State, common_prefix

try:
    import torch
    from torch import Tensor
    from transformers import (
        BitsAndBytesConfig,
        Blip2ForConditionalGeneration,
        DynamicCache,
        EncoderDecoderCache,
    )
    from transformers.modeling_outputs import BaseModelOutput
except ImportError as error:  # one line for the user, whichever of the two is absent
    raise MissingExtraError(f"the torch engine ({error.name} is not installed)", "torch") from None

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Casting these below fp32 changes captions (transformers #37068, #38858); an 8-bit head picks wrong tokens.
_KEPT_HIGH = ["query_tokens", "qformer", "language_projection", "lm_head"]


class _Blip2(Blip2ForConditionalGeneration):  # type: ignore[misc]
    """transformers' model, with what must be fp32 kept there in bf16 too; its own rule is for fp16 only."""

    _keep_in_fp32_modules_strict = ("query_tokens", "qformer")


class TorchState:
    """B rows in one KV cache; see `engine.State`."""

    def __init__(
        self, picture_slots: int, cache: DynamicCache, mask: Tensor, tokens: list[list[int]]
    ) -> None:
        self._picture_slots = picture_slots  # slots before each row's first token: pictures, or a start token
        self.cache = cache
        self.mask = mask  # bool [B, slots]
        self._tokens = tokens
        # Encoder-decoder only: what the decoder looks at, and the prompts it came from.
        self.encoded: Tensor | None = None  # [B, S, D]
        self.encoded_mask: Tensor | None = None  # bool [B, S]
        self.cross: DynamicCache | None = None
        self.prompts: list[list[int]] = []

    @property
    def tokens(self) -> list[list[int]]:
        return self._tokens

    @property
    def nbytes(self) -> int:
        caches = [self.cache, *([self.cross] if self.cross is not None else [])]
        tensors = [half for one in caches for layer in one.layers for half in (layer.keys, layer.values)]
        return sum(half.numel() * half.element_size() for half in tensors if half is not None)

    def reorder(self, rows: Sequence[int]) -> None:
        index = torch.as_tensor(list(rows), device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        self._tokens = [list(self._tokens[row]) for row in rows]
        if self.encoded is not None and self.encoded_mask is not None:
            self.encoded, self.encoded_mask = self.encoded[index], self.encoded_mask[index]
            self.prompts = [self.prompts[row] for row in rows]
        if self.cross is not None:
            self.cross.batch_select_indices(index)

    def truncate(self, length: int) -> None:
        keep = self.mask & (self.mask.cumsum(1) <= self._picture_slots + length)
        used = int(keep.sum(1).max())
        # Each row's kept slots, in their order, moved to the right end: T5 measures distances in slots.
        order = keep.int().argsort(dim=1, stable=True)[:, -used:]
        self.mask = keep.gather(1, order)
        for layer in self.cache.layers:
            index = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
        self._tokens = [row[:length] for row in self._tokens]

    def append(self, other: State) -> None:
        other = cast(TorchState, other)
        slots = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_left_padded(mine.keys, slots), _left_padded(theirs.keys, slots)])
            mine.values = torch.cat([_left_padded(mine.values, slots), _left_padded(theirs.values, slots)])
        self.mask = torch.cat([_left_padded(self.mask, slots, 1), _left_padded(other.mask, slots, 1)])
        self._tokens = [*self._tokens, *other._tokens]
        if self.encoded is not None and other.encoded is not None:
            self._append_encoded(other)

    def take(self, rows: Sequence[int]) -> TorchState:
        # Nothing is ever written into the cache's tensors, so a shallow copy may be cut as it pleases.
        taken = copy.copy(self)
        taken.cache, taken.cross = _shallow(self.cache), self.cross and _shallow(self.cross)
        taken.reorder(rows)
        taken.truncate(max(map(len, taken.tokens)))  # the slots that only longer rows needed go
        return taken

    def _append_encoded(self, other: TorchState) -> None:
        assert self.encoded is not None and self.encoded_mask is not None
        assert other.encoded is not None and other.encoded_mask is not None
        size = max(self.encoded.shape[1], other.encoded.shape[1])
        both = ((self.encoded, other.encoded), (self.encoded_mask, other.encoded_mask))
        self.encoded, self.encoded_mask = (
            torch.cat([_left_padded(one, size, 1) for one in pair]) for pair in both
        )
        if self.cross is not None and other.cross is not None:
            for mine, theirs in zip(self.cross.layers, other.cross.layers, strict=True):
                mine.keys = torch.cat([_left_padded(mine.keys, size), _left_padded(theirs.keys, size)])
                mine.values = torch.cat([_left_padded(mine.values, size), _left_padded(theirs.values, size)])
        self.prompts = [*self.prompts, *other.prompts]


def _shallow(cache: DynamicCache) -> DynamicCache:
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _left_padded(tensor: Tensor, size: int, axis: int = -2) -> Tensor:
    """Zeros before the content along `axis` until it is `size` long."""
    shape = list(tensor.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=axis) if shape[axis] else tensor


class TorchEngine:
    """`Blip2ForConditionalGeneration` on a CPU or a GPU; see `engine.Engine`."""

    name = "torch"

    def __init__(self, model: Any, config: ModelConfig, precision: str, device: str) -> None:
        self.config = config
        self.precision = precision
        self.device = device
        self._model = model.eval()
        self._language_model = model.language_model

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32", device: str = "auto") -> TorchEngine:
        """Loads an official-layout folder. `precision` int8 and int4 go through bitsandbytes."""
        config = ModelConfig.from_folder(folder)
        device = accelerator() or "cpu" if device == "auto" else device
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        if precision in _DTYPES:
            options["dtype"] = _DTYPES[precision]
        else:
            options |= _bitsandbytes(precision, device)
        try:
            model = _Blip2.from_pretrained(folder, **options)
        except torch.OutOfMemoryError:
            raise Blip2ChatError(f"{device} has not enough memory for {folder.name} in {precision}") from None
        if precision in _DTYPES:
            model = model.to(device)
        return cls(model, config, precision, device)

    @torch.inference_mode()
    def encode_image(self, pixels: Floats) -> Floats:
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        features = self._model.get_image_features(given, return_dict=True).pooler_output
        return _numpy(features)

    @torch.inference_mode()
    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[TorchState, Floats]:
        rows = [list(row) for row in token_ids]
        mine = cast("TorchState | None", state)
        if self.config.family == "t5":
            return self._prefill_encoder_decoder(query_vectors, rows, mine)
        if mine is not None and len(mine.tokens) == len(rows):
            pairs = zip(mine.tokens, rows, strict=True)
            # The last token is always read again: its logits are what is asked for.
            common = min(min(common_prefix(old, new), len(new) - 1) for old, new in pairs)
            mine.truncate(common)
            return mine, self._feed(
                mine, [self._embed(row[common:]) for row in rows], [row[common:] for row in rows]
            )
        vectors = self._vectors(query_vectors)
        embeds = [torch.cat([vectors[i], self._embed(row)]) for i, row in enumerate(rows)]
        mask = torch.zeros((len(rows), 0), dtype=torch.bool, device=self.device)
        fresh = TorchState(
            vectors.shape[1], DynamicCache(config=self._text_config()), mask, [[] for _ in rows]
        )
        return fresh, self._feed(fresh, embeds, rows)

    @torch.inference_mode()
    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        mine = cast(TorchState, state)
        if self.config.family == "t5":
            return self._decode(mine, list(token_ids), [[token] for token in token_ids])
        return self._feed(
            mine, [self._embed([token]) for token in token_ids], [[token] for token in token_ids]
        )

    def close(self) -> None:
        del self._model, self._language_model

    def _feed(self, state: TorchState, embeds: list[Tensor], tokens: list[list[int]]) -> Floats:
        """Runs the decoder-only model over new slots, right-aligned -> logits [B,V] of the last one."""
        longest = max(len(one) for one in embeds)
        chunk = torch.stack([_left_padded(one, longest, 0) for one in embeds])
        lengths = torch.as_tensor([len(one) for one in embeds], device=self.device)
        new_mask = torch.arange(longest, device=self.device) >= longest - lengths[:, None]
        state.mask = torch.cat([state.mask, new_mask], dim=1)
        positions = (state.mask.long().cumsum(1) - 1).clamp(min=0)[:, -longest:]
        # A mask of ones is left out, so that the fast causal kernels can be taken.
        attention = None if bool(state.mask.all()) else state.mask.long()
        logits = self._language_model(
            inputs_embeds=chunk,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        for row, new in zip(state.tokens, tokens, strict=True):
            row.extend(new)
        return _numpy(logits[:, -1])

    def _prefill_encoder_decoder(
        self, query_vectors: Floats, rows: list[list[int]], state: TorchState | None
    ) -> tuple[TorchState, Floats]:
        if state is None or state.prompts != rows:
            state = self._encode(query_vectors, rows)
        state.cache = DynamicCache(config=self._text_config())
        state.mask = torch.zeros((len(rows), 0), dtype=torch.bool, device=self.device)
        start = self.config.text.decoder_start_token_id
        assert start is not None
        # The start token stands where OPT has its picture: before the row's own tokens.
        return state, self._decode(state, [start] * len(rows), [[] for _ in rows], fresh=True)

    def _encode(self, query_vectors: Floats, rows: list[list[int]]) -> TorchState:
        vectors = self._vectors(query_vectors)
        embeds = [torch.cat([vectors[i], self._embed(row)]) for i, row in enumerate(rows)]
        longest = max(len(one) for one in embeds)
        chunk = torch.stack([_left_padded(one, longest, 0) for one in embeds])
        lengths = torch.as_tensor([len(one) for one in embeds], device=self.device)
        encoded_mask = torch.arange(longest, device=self.device) >= longest - lengths[:, None]
        hidden = self._language_model.encoder(inputs_embeds=chunk, attention_mask=encoded_mask.long())
        state = TorchState(
            1, DynamicCache(config=self._text_config()), encoded_mask[:, :0], [[] for _ in rows]
        )
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
        new = torch.ones((len(ids), 1), dtype=torch.bool, device=self.device)
        state.mask = torch.cat([state.mask, new], dim=1)
        first = state.cross is None
        cross = DynamicCache(config=self._text_config()) if state.cross is None else state.cross
        cache = EncoderDecoderCache(state.cache, cross)
        if not first:
            cache.is_updated = dict.fromkeys(range(len(cross.layers)), True)
        logits = self._language_model(
            encoder_outputs=BaseModelOutput(last_hidden_state=state.encoded),
            attention_mask=state.encoded_mask.long(),
            decoder_input_ids=torch.as_tensor(ids, device=self.device)[:, None],
            decoder_attention_mask=state.mask.long(),
            past_key_values=cache,
            use_cache=True,
        ).logits
        state.cross = cross
        for row, one in zip(state.tokens, tokens, strict=True):
            row.extend(one)
        return _numpy(logits[:, -1])

    def _embed(self, ids: list[int]) -> Tensor:
        table = self._language_model.get_input_embeddings()
        return cast(Tensor, table(torch.as_tensor(ids, dtype=torch.long, device=self.device)))

    def _vectors(self, query_vectors: Floats) -> Tensor:
        dtype = self._language_model.get_input_embeddings().weight.dtype
        return torch.from_numpy(np.ascontiguousarray(query_vectors)).to(self.device, dtype)

    def _text_config(self) -> Any:
        return self._language_model.config


def _numpy(tensor: Tensor) -> Floats:
    return cast(Floats, tensor.float().cpu().numpy())


def accelerator() -> str | None:
    """The GPU that torch can use here: "cuda", "mps", or None."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def _bitsandbytes(precision: str, device: str) -> dict[str, Any]:
    """LLM.int8() (Dettmers et al. 2022) or NF4 (Dettmers et al. 2023) on the encoder and language model."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"{precision} with the torch engine (bitsandbytes)", "torch") from None
    compute = torch.float16 if device == "cuda" else torch.bfloat16
    if precision == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT_HIGH)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=_KEPT_HIGH,
        )
    return {"quantization_config": config, "dtype": compute, "device_map": {"": device}}
