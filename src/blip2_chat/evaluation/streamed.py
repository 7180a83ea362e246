"""Compares int8 and int4 with the checkpoint's own float32, on machines that could never hold float32.

The float32 model is run layer by layer (`engines/onnx/streamed.py`), each time reading its weights once, so writing
an answer token by token would cost one reading per token. Instead a quantised model drafts whole answers and one
reading verifies them all, as in speculative decoding (Leviathan et al. 2023): a draft is kept up to its first token
that float32 would not have written, corrected there, and continued by the quantised model. What remains is float32's
own greedy answer, and its logits along it.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..checkpoint.inspect import Checkpoint, find, find_adapter, inspect
from ..checkpoint.requirements import require_fit
from ..checkpoint.tokenizer import Tokenizer
from ..conversion.convert import converted
from ..engines.engine import Engine, Floats
from ..engines.onnx.fidelity import (
    Comparison,
    Outputs,
    converted_outputs,
    estimated_seconds,
    reference_outputs,
    reference_size,
)
from ..engines.onnx.manifest import Fidelity
from ..engines.onnx.reference import Sample
from ..engines.onnx.run.session import load_onnx_engine
from ..errors import Blip2ChatError, CheckpointError
from ..generation.loop import generate
from ..generation.rows import Task
from ..generation.settings import Decoding
from ..generation.text_stream import clean
from ..images import Picture, Preprocess, open_picture, to_pixels
from ..prompts import TEMPLATES, fit
from ..system.progress import Progress, silent
from .compare import Item, Questions
from .held_out import picture_in

PRECISIONS = ("int8", "int4")
# Tokens of an answer that are compared.
_LONGEST = 30
# Of a prompt and its answer, for estimates.
_USUAL_TOKENS = 24


@dataclass
class Row:
    """One item: float32's greedy answer, and per precision the share of its next tokens that agree."""

    item: Item
    answer: str
    agreement: dict[str, float] = field(default_factory=dict)


@dataclass
class StreamedOutcome:
    """What is compared so far: `fidelity` by precision, and a row per item."""

    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    readings: int = 0  # of the float32 weights


class StreamedComparison:
    """`outcome` is up to date while `run` runs, and after it was broken off."""

    def __init__(
        self,
        name: str,
        questions: Questions,
        precisions: Sequence[str] = PRECISIONS,
        *,
        adapter: str | None = None,
        force: bool = False,
        most_readings: int = 8,
        memory: int = 1_000_000_000,
        on_progress: Progress | None = None,
    ) -> None:
        """Opens the checkpoint and converts it where that was not done before. The first of the precisions writes the
        drafts. After `most_readings` of the weights for a group, what is verified of its answers is taken.
        `memory`: the bytes that the samples of one group may hold at once, beside the weights.
        Raises `NotEnoughMemoryError` when it does not fit (not with `force`), and `CheckpointError`, also for a
        folder that is converted already: it has no float32 weights."""
        self.outcome = StreamedOutcome()
        self._tell = on_progress or silent
        self._questions = questions
        self._most_readings, self._memory = most_readings, memory
        self._checkpoint = _official(name, adapter, self._tell)
        if not force:
            require_fit(self._checkpoint.config, precisions[0], "onnx", name=name)
        self._folders = {
            precision: converted(self._checkpoint, precision, name=name, on_progress=self._tell)
            for precision in precisions
        }
        small = self._checkpoint.processor or self._checkpoint.folder
        self._config = self._checkpoint.config
        self._tokenizer = Tokenizer.from_folder(small, self._config)
        self._preprocess = Preprocess.for_model(small, self._config.vision.image_size)
        self._comparisons = {precision: Comparison() for precision in precisions}
        self._groups = _groups(questions.items, self._group_size())
        self._last: tuple[str, Floats] | None = None  # the picture opened last

    @property
    def bytes_per_reading(self) -> int:
        """Float32 weights that each reading goes through."""
        return reference_size(self._checkpoint)

    @property
    def estimated_seconds(self) -> float:
        """How long the whole may take: two to three readings per group are usual."""
        tokens = self._config.num_query_tokens + _USUAL_TOKENS
        return 3 * sum(
            estimated_seconds(self._checkpoint, len({item.picture for item in group}), len(group) * tokens)
            for group in self._groups
        )

    def run(self) -> StreamedOutcome:
        """Compares everything, group by group."""
        engine = load_onnx_engine(next(iter(self._folders.values())))
        try:
            with self._pictures() as opened:
                for number, group in enumerate(self._groups, 1):
                    of = f" ({number} of {len(self._groups)})" if len(self._groups) > 1 else ""
                    self._compare(engine, group, [self._sample(item, opened) for item in group], of)
        finally:
            engine.close()
        return self.outcome

    def _compare(self, engine: Engine, items: Sequence[Item], samples: list[Sample], of: str) -> None:
        samples, exact = self._answers(engine, samples, of)
        rows = [Row(item, self._text(sample)) for item, sample in zip(items, samples, strict=True)]
        for precision, folder in self._folders.items():
            what = f"{precision}{of}"
            found = converted_outputs(folder.folder, samples, partial(self._tell, what))
            same = self._comparisons[precision].add(samples, exact, found)
            for row, agreeing in zip(rows, same, strict=True):
                row.agreement[precision] = float(agreeing.mean())
        place = {id(item): at for at, item in enumerate(self._questions.items)}
        self.outcome.rows = sorted([*self.outcome.rows, *rows], key=lambda row: place[id(row.item)])
        self.outcome.fidelity = {name: one.result() for name, one in self._comparisons.items()}

    def _answers(self, engine: Engine, samples: list[Sample], of: str) -> tuple[list[Sample], Outputs]:
        """The samples with float32's greedy answers, and its outputs along them."""
        eos = self._config.text.eos_token_ids
        longest = [self._longest(sample) for sample in samples]
        pictures = {id(sample.pixels): engine.encode_image(sample.pixels) for sample in samples}
        vectors = [engine.query(pictures[id(sample.pixels)], [sample.instruction]) for sample in samples]
        samples = [
            replace(sample, answer=self._draft(engine, vectors[at], sample, [], longest[at]))
            for at, sample in enumerate(samples)
        ]
        exact: dict[int, tuple[Floats, Floats]] = {}
        waiting = list(range(len(samples)))
        for reading in range(1, self._most_readings + 1):
            what = f"fp32, reading {reading}{of}"
            outputs = reference_outputs(
                self._checkpoint,
                [samples[at] for at in waiting],
                partial(self._tell, what),
            )
            self.outcome.readings += 1
            wrong = []
            for place, at in enumerate(waiting):
                sample, logits = samples[at], outputs.logits[place]
                kept, is_whole = _verified(sample.answer, logits.argmax(axis=-1).tolist(), eos, longest[at])
                if is_whole or reading == self._most_readings:
                    samples[at] = replace(sample, answer=kept[:-1] if not is_whole else kept)
                    exact[at] = (outputs.vectors[place], logits[: len(samples[at].answer) + 1])
                    continue
                draft = self._draft(engine, vectors[at], sample, kept, longest[at])
                samples[at] = replace(sample, answer=draft)
                wrong.append(at)
            waiting = wrong
            if not waiting:
                break
        ordered = [exact[at] for at in range(len(samples))]
        return samples, Outputs([one for one, _ in ordered], [logits for _, logits in ordered])

    def _draft(
        self, engine: Engine, vectors: Floats, sample: Sample, begun: Sequence[int], longest: int
    ) -> list[int]:
        """The engine's greedy answer that begins with given tokens."""
        if len(begun) >= longest:
            return list(begun)
        task = Task(sample.prompt, Decoding(max_new_tokens=longest), begun=tuple(begun))
        ((written,),) = generate(engine, self._tokenizer, vectors, [task])
        return written.token_ids

    def _sample(self, item: Item, opened: Callable[[str], Picture]) -> Sample:
        config = self._config
        template = TEMPLATES[config.family]
        text, prompt = template.caption, self._tokenizer.encode(template.caption)
        if item.question is not None:
            budget = config.prompt_budget - (_LONGEST if config.text.is_decoder_only else 0)
            fitted = fit(template, self._tokenizer.encode, item.turns, item.question, max(budget, 1))
            text, prompt = fitted.text, fitted.token_ids
        instruction = self._tokenizer.instruction(text)
        return Sample(self._pixels(item.picture, opened), prompt, [], instruction)

    def _pixels(self, name: str, opened: Callable[[str], Picture]) -> Floats:
        # Samples of one picture share its array: it is run once. Items of a picture follow each other.
        if self._last is None or self._last[0] != name:
            self._last = (name, to_pixels(opened(name), self._preprocess))
        return self._last[1]

    @contextlib.contextmanager
    def _pictures(self) -> Iterator[Callable[[str], Picture]]:
        """A function that opens the set's pictures by name."""
        if self._questions.archive is None:
            yield _opened
            return
        with zipfile.ZipFile(self._questions.archive) as archive:
            yield lambda name: picture_in(archive, name, open_picture)

    def _longest(self, sample: Sample) -> int:
        room = self._config.prompt_budget - len(sample.prompt)
        return max(1, min(_LONGEST, room)) if self._config.text.is_decoder_only else _LONGEST

    def _text(self, sample: Sample) -> str:
        return clean(self._tokenizer.decode(sample.answer), TEMPLATES[self._config.family].stop)

    def _group_size(self) -> int:
        """Items whose logits and activations stay within the memory allowed."""
        text, vision = self._config.text, self._config.vision
        tokens = self._config.num_query_tokens + 64
        logits = 2 * 4 * text.vocab_size * _LONGEST
        activations = 4 * 12 * tokens * text.hidden_size
        # Keys and values of every layer's cross-attention, where there is one.
        activations += 4 * tokens * (self._config.cached_numbers - text.cached_numbers)
        picture = 4 * 6 * vision.hidden_size * ((vision.image_size // vision.patch_size) ** 2 + 1)
        return max(1, self._memory // (logits + activations + picture))


def _opened(path: str) -> Picture:
    try:
        return open_picture(path)
    except Blip2ChatError as error:
        raise Blip2ChatError(f"{path}: {error}") from None


def _official(name: str, adapter: str | None, tell: Progress) -> Checkpoint:
    def downloading(done: int, total: int) -> None:
        tell("downloading", done, total)

    added = None if adapter is None else find_adapter(adapter, on_progress=downloading)
    checkpoint = inspect(find(name, on_progress=downloading), adapter=added)
    if checkpoint.kind == "converted":
        raise CheckpointError(
            f"{name} is a conversion and has no float32 weights; name the checkpoint that it was made from"
        )
    return checkpoint


def _groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    ordered = sorted(items, key=lambda item: item.picture)
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def _verified(
    draft: Sequence[int], likeliest: Sequence[int], eos: Sequence[int], longest: int
) -> tuple[list[int], bool]:
    """(The draft as far as float32 writes it, with its own token in place of the first that is wrong; whether that is
    its whole answer). `likeliest` [1 + draft]: float32's next tokens before and after each of the draft's."""
    for at, token in enumerate(draft):
        if likeliest[at] in eos:
            return list(draft[:at]), True
        if likeliest[at] != token:
            return [*draft[:at], likeliest[at]], False
    if len(draft) >= longest or likeliest[len(draft)] in eos:
        return list(draft), True
    return [*draft, likeliest[len(draft)]], False
