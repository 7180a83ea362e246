"""transformers' own `Blip2ForImageTextRetrieval` behind the protocol of retrieval engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.retrieval_config import RetrievalConfig
from ...errors import MissingExtraError
from ...system.progress import Progress
from ..engine import Floats
from ..retrieval import RetrievalEngine, padded

try:
    import torch
    from torch import Tensor
    from torch.nn.functional import normalize

    from .loading import accelerator, load_weights, weight_bytes
except ImportError as error:  # one line for the user, whichever of the two is absent
    raise MissingExtraError(f"the torch engine ({error.name} is not installed)", "torch") from None


class TorchRetrievalEngine:
    """BLIP-2 for image-text retrieval on a CPU or a GPU; see `RetrievalEngine`. Not thread-safe."""

    name = "torch"

    def __init__(self, model: Any, config: RetrievalConfig, precision: str, device: str) -> None:
        self.config = config
        self.precision = precision
        self.device = device
        self._model: Any = model.eval()

    @classmethod
    def load(
        cls,
        folder: Path,
        precision: str = "fp32",
        device: str = "auto",
        on_progress: Progress | None = None,
    ) -> TorchRetrievalEngine:
        """Loads an official-layout folder; see `TorchEngine.load`."""
        config = RetrievalConfig.from_folder(folder)
        device = accelerator() or "cpu" if device == "auto" else device
        return cls(load_weights(folder, config, precision, device, on_progress), config, precision, device)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take, with what their quantisation needs beside them."""
        return weight_bytes(self._opened())

    @torch.inference_mode()
    def encode_image(self, pixels: Floats) -> Floats:
        model = self._opened()
        patches = model.vision_model.embeddings.patch_embedding.weight
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(patches.device, patches.dtype)
        return _numpy(model.vision_model(given).last_hidden_state)

    @torch.inference_mode()
    def embed_pictures(self, features: Floats) -> Floats:
        model = self._opened()
        states = model.qformer(
            query_embeds=self._queries(len(features)), encoder_hidden_states=self._tensor(features)
        ).last_hidden_state
        return _numpy(normalize(_through(model.vision_projection, states), dim=-1))

    @torch.inference_mode()
    def embed_texts(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        model = self._opened()
        ids, mask = (torch.from_numpy(array).to(self._home) for array in padded(token_ids, 0))
        states = model.qformer(
            query_embeds=model.embeddings(input_ids=ids).to(self._dtype),
            query_length=0,
            attention_mask=mask,
        ).last_hidden_state
        return _numpy(normalize(_through(model.text_projection, states[:, 0]), dim=-1))

    @torch.inference_mode()
    def match_logits(self, features: Floats, token_ids: Sequence[Sequence[int]]) -> Floats:
        model, count = self._opened(), self.config.num_query_tokens
        ids, mask = (torch.from_numpy(array).to(self._home) for array in padded(token_ids, count))
        words = model.embeddings(input_ids=ids, query_embeds=self._queries(len(features)))
        states = model.qformer(
            query_embeds=words.to(self._dtype),
            query_length=count,
            attention_mask=mask,
            encoder_hidden_states=self._tensor(features),
        ).last_hidden_state
        return _numpy(_through(model.itm_head, states[:, :count]).mean(dim=1))

    def close(self) -> None:
        self._model = None

    def _opened(self) -> Any:
        if self._model is None:
            raise ValueError("this engine is closed")
        return self._model

    @property
    def _home(self) -> torch.device:
        """Where the Q-Former is."""
        device: torch.device = self._opened().query_tokens.device
        return device

    @property
    def _dtype(self) -> torch.dtype:
        """What the Q-Former computes in: fp32 at every precision."""
        dtype: torch.dtype = self._opened().qformer.layernorm.weight.dtype
        return dtype

    def _queries(self, rows: int) -> Tensor:
        tokens: Tensor = self._opened().query_tokens
        return tokens.to(self._dtype).expand(rows, -1, -1)

    def _tensor(self, features: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(features)).to(self._home, self._dtype)


def _through(layer: Any, x: Tensor) -> Tensor:
    y: Tensor = layer(x.to(layer.weight.device, layer.weight.dtype)).float()
    return y


def _numpy(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array


def _satisfies_the_protocol(engine: TorchRetrievalEngine) -> RetrievalEngine:
    return engine
