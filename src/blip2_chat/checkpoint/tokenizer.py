"""The checkpoint's own tokenizers: `tokenizer.json`, and that of the Q-Former, read without transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from ..errors import CheckpointError
from ..system.small_files import (
    MOST_TOKENIZER_BYTES,
    OWN_QFORMER_TOKENIZER,
    QFORMER_TOKENIZER,
    read_small,
    short,
)
from .config import ModelConfig, QFormerConfig, TextConfig
from .text_config import LANGUAGE_MODELS


class Tokenizer:
    """`tokenizer.json`, giving the ids that transformers' processors give for the text part of a prompt."""

    def __init__(
        self, tokenizer: _Tokenizer, text_config: TextConfig, qformer: QFormerTokenizer | None = None
    ) -> None:
        """`qformer` is the Q-Former's own tokenizer, where it reads the instruction."""
        self._tokenizer = tokenizer
        self._language = LANGUAGE_MODELS[text_config.kind]
        self._qformer = qformer
        # A user may type "</s>" or "<image>": that must not become a control token. A byte-level tokenizer then
        # takes it for text; T5's finds it in its vocabulary all the same, so there it is left out.
        tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {at for at, token in added.items() if token.special and token.content != "<unk>"}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._before, self._after = self._language.around(text_config, tokenizer.encode("").ids)
        self._special = {at for at, token in added.items() if token.special}
        self._bytes = _byte_pieces(tokenizer) if self._language.has_byte_pieces else {}

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> Tokenizer:
        """Reads the tokenizers of a checkpoint, official or converted. Raises `CheckpointError`."""
        path = folder / "tokenizer.json"
        qformer = QFormerTokenizer.from_folder(folder, config.qformer) if config.reads_instruction else None
        tokenizer = cls(_read(path), config.text, qformer)
        _require_fitting(path, tokenizer._ids(), config.text.vocab_size)
        return tokenizer

    def _ids(self) -> list[int]:
        """What `encode` may give, control tokens aside."""
        return [at for at in self._tokenizer.get_vocab().values() if at not in self._controls]

    def encode(self, text: str) -> list[int]:
        """The prompt's ids for the language model, with its control tokens, also when the text is empty."""
        ids = self._tokenizer.encode(_plain(text), add_special_tokens=False).ids
        return [*self._before, *(one for one in ids if one not in self._controls), *self._after]

    def encode_answer(self, answer: str, prompt: str) -> list[int]:
        """The ids of an answer as the model would write it after a prompt, without control tokens."""
        if self._language.spaces_answers and prompt:
            answer = f" {answer}"  # after a prompt a word begins with a space, which is a part of its token
        ids = self.encode(answer)
        return ids[len(self._before) : len(ids) - len(self._after)]

    def instruction(self, text: str) -> tuple[int, ...]:
        """The prompt in the Q-Former's token ids; empty where the Q-Former reads only the picture."""
        return () if self._qformer is None else self._qformer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, control tokens left out, leading space kept as the tokenizer has it."""
        if self._bytes:
            return self._decode_bytes(ids)
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _decode_bytes(self, ids: Sequence[int]) -> str:
        """What the library gives for LLaMA's pieces, some of which are single bytes. Of a run of bytes that is no
        text the library shows nothing, not even the characters that it begins with; here they stay, so that what a
        next token adds never changes what was shown before."""
        text = bytearray()
        for token in ids:
            if token in self._bytes:
                text.append(self._bytes[token])
            elif token not in self._special:
                text += (self._tokenizer.id_to_token(token) or "").replace("▁", " ").encode()
        return text.decode("utf-8", "replace").removeprefix(" ")


class QFormerTokenizer:
    """BERT's WordPiece, as the Q-Former reads an instruction: `[CLS] … [SEP]`."""

    def __init__(self, tokenizer: _Tokenizer, most: int) -> None:
        """`most` tokens have a position; of longer texts the end is kept, as in LAVIS."""
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "[SEP]" in what people write is text
        tokenizer.no_padding()
        tokenizer.enable_truncation(most, direction="left")

    @classmethod
    def from_folder(cls, folder: Path, config: QFormerConfig) -> QFormerTokenizer:
        """Raises `CheckpointError`."""
        path = folder / OWN_QFORMER_TOKENIZER
        if not path.is_file():
            path = folder / QFORMER_TOKENIZER
        tokenizer = cls(_read(path), config.max_position_embeddings)
        _require_fitting(path, tokenizer._tokenizer.get_vocab().values(), config.vocab_size)
        return tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, also of an empty one."""
        return tuple(self._tokenizer.encode(_plain(text)).ids)


def _byte_pieces(tokenizer: _Tokenizer) -> dict[int, int]:
    """Token -> byte, of the pieces `<0x00>` to `<0xFF>` that stand for what the vocabulary lacks."""
    found = ((tokenizer.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256))
    return {token: byte for token, byte in found if token is not None}


def _plain(text: str) -> str:
    """No tokenizer accepts lone surrogates, which Python makes of undecodable bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(path: Path) -> _Tokenizer:
    content = read_small(path, MOST_TOKENIZER_BYTES)
    try:
        return _Tokenizer.from_buffer(content)
    # The library raises bare Exception for every fault of the file, and its Rust part's panics are not even that.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise CheckpointError(
            f"{path} cannot be read ({short(str(error), 100)}); copy it from where the checkpoint came from",
            path=path,
        ) from None


def _require_fitting(path: Path, ids: Iterable[int], vocabulary: int) -> None:
    largest = max(ids, default=0)
    if largest >= vocabulary:
        raise CheckpointError(
            f"{path} has tokens up to number {largest} and the model knows {vocabulary}: "
            "it is another model's; copy it from where the checkpoint came from",
            path=path,
        )
