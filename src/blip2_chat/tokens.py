"""The checkpoint's own tokenizer, and the text that grows out of its tokens while they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from .config import OptConfig, TextConfig
from .errors import CheckpointError
from .small_files import MOST_TOKENIZER_BYTES, read_small, short

# What a byte-level decoder shows for the first bytes of a character whose last ones have not come yet.
_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


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
                f"{path} cannot be read ({short(str(error), 100)}); copy it from where the checkpoint came from"
            ) from None
        largest = max(tokenizer._ids(), default=0)
        if largest >= text_config.vocab_size:
            raise CheckpointError(
                f"{path} has tokens up to number {largest} and the model knows {text_config.vocab_size}: "
                "it is another model's; copy it from where the checkpoint came from"
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

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, control tokens left out, leading space kept as the tokenizer has it."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


class TextStream:
    """Turns tokens into pieces of text that may be shown at once and are never taken back.

    Held back are half a character, white space that may turn out to be the answer's end, and any ending that
    may grow into a stop string. Joined, the pieces are the answer: stripped, and cut before the first stop.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._shown = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """All that has been shown."""
        return self._shown

    def push(self, token: int) -> str:
        """One more token -> the new piece, often empty. After a stop string nothing more comes."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        cut = first_stop(text, self._stop)
        if cut is not None:
            self.stopped = True
            return self._show(text[:cut].strip())
        return self._show(self._settled(text))

    def finish(self) -> str:
        """No token will follow -> what was held back."""
        if self.stopped:
            return ""
        self.stopped = True
        return self._show(self._tokenizer.decode(self._ids).strip())

    def _settled(self, text: str) -> str:
        """The part of `text` that no later token can change."""
        text = text.rstrip(_HALF_CHARACTER)
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return text[: len(text) - held].strip()

    def _show(self, text: str) -> str:
        # A tokenizer may rewrite what it decoded (T5 tidies spaces); what was shown stays shown.
        if not text.startswith(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._shown = text
        return piece


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in `text`; None when there is none."""
    found = [place for place in (text.find(one) for one in stop) if place >= 0]
    return min(found, default=None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest ending of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
