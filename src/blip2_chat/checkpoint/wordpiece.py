"""BERT's WordPiece (Devlin et al. 2019), as the Q-Former reads texts: from `tokenizer.json`, or from `vocab.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ..errors import CheckpointError, GenerationError
from ..system.small_files import MOST_TOKENIZER_BYTES, read_json, read_small, short
from .retrieval_config import RetrievalConfig

_CLS, _SEP, _UNKNOWN = "[CLS]", "[SEP]", "[UNK]"


class WordPiece:
    """Texts -> ids from `[CLS]` to `[SEP]`, those that transformers' tokenizer gives."""

    def __init__(self, tokenizer: Tokenizer, longest: int) -> None:
        self._tokenizer = tokenizer
        self._longest = longest
        tokenizer.encode_special_tokens = True  # "[SEP]" in what people write is text
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_folder(cls, folder: Path, config: RetrievalConfig) -> WordPiece:
        """Raises `CheckpointError` when there is no tokenizer, or it is not this model's."""
        path = folder / "tokenizer.json"
        is_there = path.is_file()
        path = path if is_there else folder / "vocab.txt"
        try:
            made = Tokenizer.from_buffer(_content(path)) if is_there else _from_vocabulary(folder, path)
        except CheckpointError:
            raise
        # The library raises bare Exception for every fault of the file, and its Rust part's panics are not even that.
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise _unreadable(path, short(str(error), 100)) from None
        if any(made.token_to_id(token) is None for token in (_CLS, _SEP)):
            raise _unreadable(path, f"it has no {_CLS} or no {_SEP}")
        largest = max(made.get_vocab().values())
        if largest >= config.qformer.vocab_size:
            raise CheckpointError(
                f"{path} has tokens up to number {largest} and the model knows {config.qformer.vocab_size}: "
                "it is another model's; copy it from where the checkpoint came from",
                path=path,
            )
        return cls(made, config.context_length)

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """`GenerationError` for a text of more tokens than the model has positions, unless `most` is given: then a
        text of more tokens is cut to so many, the last of which stays `[SEP]`."""
        # No tokenizer accepts lone surrogates, which Python makes of undecodable bytes.
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8")).ids
        longest = self._longest if most is None else min(most, self._longest)
        if most is not None and len(ids) > longest:
            return [*ids[: longest - 1], ids[-1]]
        if len(ids) > longest:
            raise GenerationError(
                f"a text of {len(ids)} tokens is too long: the model reads at most {self._longest}; shorten it"
            )
        return ids


def _content(path: Path) -> bytes:
    return read_small(path, MOST_TOKENIZER_BYTES)


def _from_vocabulary(folder: Path, path: Path) -> Tokenizer:
    """transformers' `BertTokenizer` of a folder: one token a line, its number the line's."""
    lines = _content(path).decode("utf-8").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines) if line}
    if _UNKNOWN not in vocabulary:
        raise _unreadable(path, f"it has no {_UNKNOWN}")
    settings = _settings(folder / "tokenizer_config.json")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case") is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if _CLS in vocabulary and _SEP in vocabulary:
        tokenizer.post_processor = processors.BertProcessing(
            (_SEP, vocabulary[_SEP]), (_CLS, vocabulary[_CLS])
        )
    return tokenizer


def _settings(path: Path) -> dict[str, Any]:
    raw = read_json(path) if path.is_file() else None
    return raw if isinstance(raw, dict) else {}


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read ({why}); copy it from where the checkpoint came from", path=path
    )
