"""The checkpoint's own tokenizer: `tokenizer.json`, read without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from ..errors import CheckpointError
from ..system.small_files import MOST_TOKENIZER_BYTES, read_small, short
from .config import OptConfig, TextConfig


class Tokenizer:
    """`tokenizer.json`, giving the ids that `Blip2Processor` gives for the text part of a prompt."""

    def __init__(self, tokenizer: _Tokenizer, text_config: TextConfig) -> None:
        self._tokenizer = tokenizer
        self._config = text_config
        # A user may type "</s>" or "<image>": that must not become a control token. A byte-level tokenizer then
        # takes it for text; T5's finds it in its vocabulary all the same, so there it is left out.
        tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {at for at, token in added.items() if token.special and token.content != "<unk>"}
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_folder(cls, folder: Path, text_config: TextConfig) -> Tokenizer:
        path = folder / "tokenizer.json"
        content = read_small(path, MOST_TOKENIZER_BYTES)
        try:
            tokenizer = cls(_Tokenizer.from_buffer(content), text_config)
        # The library raises bare Exception for every fault of the file, and its Rust part's panics are not even that.
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise CheckpointError(
                f"{path} cannot be read ({short(str(error), 100)}); copy it from where the checkpoint came from",
                path=path,
            ) from None
        largest = max(tokenizer._ids(), default=0)
        if largest >= text_config.vocab_size:
            raise CheckpointError(
                f"{path} has tokens up to number {largest} and the model knows {text_config.vocab_size}: "
                "it is another model's; copy it from where the checkpoint came from",
                path=path,
            )
        return tokenizer

    def _ids(self) -> list[int]:
        """What `encode` may give, control tokens aside."""
        return [at for at in self._tokenizer.get_vocab().values() if at not in self._controls]

    def encode(self, text: str) -> list[int]:
        """The prompt's ids: OPT reads `</s>` first, T5 reads `</s>` last, also when the text is empty."""
        # Half a pair of surrogates, as Python reads bytes that are no text, no tokenizer takes.
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        ids = [one for one in ids if one not in self._controls]
        if isinstance(self._config, OptConfig):
            return [self._config.bos_token_id, *ids]
        return [*ids, self._config.eos_token_ids[0]]

    def encode_answer(self, answer: str, prompt: str) -> list[int]:
        """The ids of an answer as the model would write it after a prompt, without control tokens."""
        if isinstance(self._config, OptConfig):
            # After a prompt a word begins with a space, which is a part of its token.
            return self.encode(f" {answer}" if prompt else answer)[1:]
        return self.encode(answer)[:-1]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, control tokens left out, leading space kept as the tokenizer has it."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
