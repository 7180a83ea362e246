"""The language models that this package knows, and the reading of `text_config`.

To know another, add its file to `language/` and its description to `LANGUAGE_MODELS`."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..errors import CheckpointError
from ..system.small_files import shown
from .language.description import LanguageModel
from .language.llama import LLAMA, LlamaConfig
from .language.opt import OPT, OptConfig
from .language.t5 import T5, T5Config

DecoderOnly: TypeAlias = OptConfig | LlamaConfig
"""One that reads picture and prompt, and writes the answer, with the same layers."""
EncoderDecoder: TypeAlias = T5Config
"""One whose encoder reads picture and prompt, once, and whose decoder writes the answer."""
TextConfig: TypeAlias = DecoderOnly | EncoderDecoder

LANGUAGE_MODELS: dict[str, LanguageModel] = {one.kind: one for one in (OPT, T5, LLAMA)}


def read_text_config(raw: dict[str, Any], where: str) -> TextConfig:
    """The parsed `text_config`; `where` names the file in errors. `CheckpointError` for another language model,
    `ValueError` for one that cannot be."""
    kind = raw.get("model_type", OPT.kind)
    if not isinstance(kind, str) or kind not in LANGUAGE_MODELS:
        *names, last = map(repr, LANGUAGE_MODELS)
        raise CheckpointError(
            f"{where}: the language model is {shown(kind)}; this package knows {', '.join(names)} and {last}",
            path=where,
        )
    text: TextConfig = LANGUAGE_MODELS[kind].read(raw)
    _require_tokens(text)
    return text


def _require_tokens(text: TextConfig) -> None:
    """The tokens that the package itself puts into prompts and looks for in answers are in the vocabulary."""
    named = {"decoder_start_token_id": text.decoder_start_token_id, "bos_token_id": text.bos_token_id}
    for name, token in [*named.items(), *(("eos_token_id", token) for token in text.eos_token_ids)]:
        if token is not None and not 0 <= token < text.vocab_size:
            raise ValueError(f"{name} is {shown(token)}, and the vocabulary has {text.vocab_size} tokens")
