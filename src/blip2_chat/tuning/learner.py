"""transformers' BLIP-2 with PEFT's LoRA on the Q-Former, the projection and the language model: the loss of examples.

The picture encoder stays as it is, so what it makes of each picture is computed once and kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from ..checkpoint.config import ModelConfig
from ..checkpoint.tokenizer import Tokenizer
from ..images import Preprocess, open_picture, to_pixels
from ..prompts import PromptTemplate
from ..system.progress import Progress
from .examples import Example
from .memory import KEPT
from .recipe import Recipe

_IGNORED = -100


class Learner:
    """A model that learns. `weights` are the adapter's, in fp32."""

    def __init__(
        self,
        model: Any,
        config: ModelConfig,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        template: PromptTemplate,
        recipe: Recipe,
        name: str,
    ) -> None:
        """model: from `engines.torch.loading.load_weights`, at fp32 or bf16. name: of the base, for the adapter."""
        self._config, self._tokenizer, self._preprocess = config, tokenizer, preprocess
        self._template = template
        self._features: dict[str, Tensor] = {}
        self._kept = 0
        self._memories: dict[Example, Tensor] = {}
        self._remembered = 0
        target = (
            r"qformer\..*\.(query|key|value|dense)|language_projection"
            rf"|language_model\..*\.({config.language.adapted})"
        )
        lora = LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules=target
        )
        torch.manual_seed(recipe.seed)
        model.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that PEFT sets right by itself
            self.adapted: PeftModel = get_peft_model(model, lora)
        self.adapted.peft_config["default"].base_model_name_or_path = name
        self._base = model
        self.weights = {name: one for name, one in self.adapted.named_parameters() if one.requires_grad}
        for one in self.weights.values():
            one.data = one.data.float()

    def train(self) -> None:
        """From now on with dropout, but for the picture encoder."""
        self.adapted.train()
        self._base.vision_model.eval()

    def tokens(self, example: Example) -> int:
        """What an example takes of the context, the picture aside."""
        prompt, answer = self._ids(example)
        return (
            len(prompt) + len(answer) if self._config.text.is_decoder_only else max(len(prompt), len(answer))
        )

    def losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """For each of [B] examples: its mean loss per answer token, float32 [B], and whether each of its tokens is
        the likeliest, bool [B]."""
        logits, labels = self._logits(examples)
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none"
        )
        right = ((logits.argmax(-1) == labels) | (labels == _IGNORED)).all(dim=1)
        return each.sum(dim=1) / (labels != _IGNORED).sum(dim=1), right

    def drifts(self, examples: Sequence[Example]) -> Tensor:
        """For each of [B] examples: how far the model has moved from what it would write before training.

        The mean over the answer's tokens of the Kullback-Leibler divergence from the model without the adapter
        (Li and Hoiem 2016, arXiv 1606.09282), float32 [B]: 0 where nothing has changed.
        """
        with torch.no_grad():
            was = [self._before(example) for example in examples]
        logits, labels = self._logits(examples)
        found = [
            torch.nn.functional.kl_div(
                row[answer != _IGNORED].log_softmax(-1), before.to(row), log_target=True, reduction="none"
            ).sum(-1).mean()
            for row, answer, before in zip(logits, labels, was, strict=True)
        ]  # fmt: skip
        return torch.stack(found)

    def _before(self, example: Example) -> Tensor:
        """Log-probabilities [T, V] at each of the answer's tokens, of the model without the adapter."""
        if example in self._memories:
            return self._memories[example]
        was_training = self.adapted.training
        self.adapted.eval()
        with self.adapted.disable_adapter():
            logits, labels = self._logits([example])
        self.adapted.train(was_training)
        self._base.vision_model.eval()
        found = logits[0][labels[0] != _IGNORED].log_softmax(-1).half().cpu()
        if self._remembered + found.nbytes <= KEPT:
            self._memories[example] = found
            self._remembered += found.nbytes
        return found

    def _logits(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Logits, float32 [B, T, V], and the tokens that they should be of, int64 [B, T]; `_IGNORED` where no answer
        is."""
        vectors = self._vectors(examples)
        pairs = [self._ids(example) for example in examples]
        alone = self._config.text.is_decoder_only
        ids, mask = self._padded([[*prompt, *answer] if alone else prompt for prompt, answer in pairs], 0)
        language = self._base.language_model
        embeds = torch.cat([vectors, language.get_input_embeddings()(ids).to(vectors.dtype)], dim=1)
        seen = torch.cat([mask.new_ones(vectors.shape[:2]), mask], dim=1)
        answers = [[*([_IGNORED] * len(prompt) if alone else []), *answer] for prompt, answer in pairs]
        labels, _ = self._padded(answers, _IGNORED)
        if alone:
            # The token at each place is predicted at the place before it: the last picture token's for the first.
            logits = language(inputs_embeds=embeds, attention_mask=seen).logits[:, vectors.shape[1] - 1 : -1]
        else:
            logits = language(inputs_embeds=embeds, attention_mask=seen, labels=labels).logits
        return logits.float(), labels

    @torch.no_grad()
    def encode(self, examples: Sequence[Example], on_progress: Progress) -> None:
        """Encodes pictures that are not yet kept, as far as there is room for them."""
        pictures = list(dict.fromkeys(example.picture for example in examples))
        for number, picture in enumerate(pictures, 1):
            if self._kept >= KEPT:
                return
            self._encoded(picture)
            on_progress("encoding pictures", number, len(pictures))

    def _prompt(self, example: Example) -> str:
        if example.question is None:
            return self._template.caption
        return self._template.render([], example.question)

    def _ids(self, example: Example) -> tuple[list[int], list[int]]:
        """Prompt, and answer with its end token."""
        prompt = self._prompt(example)
        answer = self._tokenizer.encode_answer(example.answer, prompt)
        return self._tokenizer.encode(prompt), [*answer, self._config.text.eos_token_ids[0]]

    def _padded(self, rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        device = self._base.device
        ids = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        return ids, mask

    def _vectors(self, examples: Sequence[Example]) -> Tensor:
        """The query vectors of the examples' pictures: [B, Q, D]."""
        base = self._base
        features = torch.stack([self._encoded(example.picture) for example in examples]).to(base.device)
        queries = base.query_tokens.expand(len(examples), -1, -1)
        more = {}
        if self._config.reads_instruction:
            ids, mask = self._padded(
                [self._tokenizer.instruction(self._prompt(example)) for example in examples], 0
            )
            more = {
                "input_ids": ids,
                "attention_mask": torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1),
            }
        hidden = base.qformer(query_embeds=queries, encoder_hidden_states=features, **more).last_hidden_state
        projection = base.language_projection
        weights = getattr(projection, "base_layer", projection).weight
        vectors: Tensor = projection(hidden[:, : queries.shape[1]].to(weights.dtype))
        return vectors

    @torch.no_grad()
    def _encoded(self, picture: str) -> Tensor:
        """What the picture encoder makes of a picture: [P, W], in the dtype that the Q-Former reads."""
        if picture in self._features:
            return self._features[picture]
        pixels = torch.from_numpy(to_pixels(open_picture(picture), self._preprocess))
        vision = self._base.vision_model
        given = pixels.to(self._base.device, next(vision.parameters()).dtype)
        found: Tensor = vision(pixel_values=given).last_hidden_state[0]
        found = found.to(self._base.query_tokens.dtype).cpu()
        if self._kept + found.nbytes <= KEPT:
            self._features[picture] = found
            self._kept += found.nbytes
        return found
