"""One runtime, one process: load, first word, words, a follow-up; times, peak memory and bytes.

Each figure is reported as JSON as soon as it is known, so that a failure later on does not lose it.

    python -m benchmarks.measure transformers CHECKPOINT fp32
    python -m benchmarks.measure onnx CONVERTED int8

Both answer the same question about the same picture, and go on for the same number of words whatever they say.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blip2_chat.system.memory import peak_memory

from .bandwidth import Reader, share_of_limit
from .child import tell

QUESTION = "Question: how many cats are there? Answer:"
FOLLOW_UP = " Question: what are they doing? Answer:"


@dataclass
class Figures:
    """Seconds, unless it says otherwise; None: not measured yet."""

    runtime: str
    precision: str
    words: int
    load: float | None = None
    first_word: float | None = None  # from the picture and the question; the encoding included
    per_word: float | None = None  # median
    follow_up: float | None = None  # from the second question to its first word
    peak_memory: int | None = (
        None  # bytes, the process's largest resident set until both questions are answered
    )
    encode: float | None = None
    bytes_per_word: int | None = None  # weights that each word reads
    bandwidth: float | None = None  # bytes per second that memory gave between words, median
    share_of_limit: float | None = None  # of the speed that this allows

    def report(self) -> None:
        """What there is so far, so that it is kept if this process comes to a bad end."""
        tell({name: value for name, value in asdict(self).items() if value is not None})


class Clock:
    """When each word came. With a `reader`, memory is read between words, on time of its own.

    With `figures`, the first word and the median of those after it are reported as they come.
    """

    def __init__(self, reader: Reader | None = None, figures: Figures | None = None) -> None:
        self.begun = time.perf_counter()
        self.times: list[float] = []
        self._figures = figures
        self._went_on: list[float] = []
        self._rates: list[float] = []
        self._reader = reader

    def tick(self) -> None:
        """A word is there."""
        self.times.append(time.perf_counter())
        if self._reader:
            self._rates.append(self._reader.read())
        if self._figures:
            self._figures.first_word = self.first_word()
            self._figures.per_word = self._per_word()
            self._figures.report()
        self._went_on.append(time.perf_counter())

    def first_word(self) -> float:
        """Seconds from the start of this clock."""
        return self.times[0] - self.begun

    def _per_word(self) -> float | None:
        """The median of the seconds between words; None for a single one."""
        return statistics.median(np.diff(self.times).tolist()) if len(self.times) > 1 else None

    def memory_limit(self, figures: Figures, bytes_per_word: int) -> None:
        """Sets the figures of memory from what the reader measured and the time that the words took."""
        seconds = [came - went_on for came, went_on in zip(self.times[1:], self._went_on, strict=False)]
        figures.bandwidth = statistics.median(self._rates)
        figures.bytes_per_word = bytes_per_word
        figures.share_of_limit = share_of_limit(bytes_per_word, seconds, self._rates)
        figures.report()


def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def measure_transformers(folder: Path, precision: str, words: int) -> None:
    """As in the common tutorial: processor, from_pretrained, generate."""
    import torch
    from transformers import (
        BitsAndBytesConfig,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )
    from transformers.generation.streamers import BaseStreamer

    from blip2_chat.checkpoint.config import ModelConfig

    class Streamer(BaseStreamer):  # type: ignore[misc]
        """Ticks a clock at every token; the first call is the prompt's."""

        def __init__(self, clock: Clock) -> None:
            self._clock = clock
            self._begun = False

        def put(self, value: object) -> None:
            if self._begun:
                self._clock.tick()
            self._begun = True

        def end(self) -> None: ...

    figures = Figures("transformers", precision, words)
    start = time.perf_counter()
    is_instruct = ModelConfig.from_folder(folder).reads_instruction
    processor = (InstructBlipProcessor if is_instruct else Blip2Processor).from_pretrained(folder)
    options: dict[str, object] = {"dtype": {"fp32": torch.float32}.get(precision, torch.bfloat16)}
    if precision == "int8":
        skipped = ["query_tokens", "qformer", "language_projection", "lm_head"]
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
        options["device_map"] = {"": "cpu"}
    kind = InstructBlipForConditionalGeneration if is_instruct else Blip2ForConditionalGeneration
    model = kind.from_pretrained(folder, **options).eval()
    figures.load = time.perf_counter() - start
    figures.report()

    def ask(prompt: str, length: int, clock: Clock) -> str:
        """The answer; `clock` was started just now."""
        inputs = processor(images=picture(), text=prompt, return_tensors="pt").to(dtype=options["dtype"])
        written = model.generate(
            **inputs, max_new_tokens=length, min_new_tokens=length, do_sample=False, streamer=Streamer(clock)
        )
        # A decoder-only model gives the prompt back.
        start = 0 if model.config.text_config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return str(processor.decode(written[0, start:], skip_special_tokens=True))

    answer = ask(QUESTION, words + 1, Clock(figures=figures))
    clock = Clock()
    ask(f"{QUESTION} {answer}{FOLLOW_UP}", 1, clock)
    figures.follow_up = clock.first_word()
    figures.peak_memory = peak_memory()
    figures.report()
    with torch.inference_mode():
        given = processor(images=picture(), text=QUESTION, return_tensors="pt").to(dtype=options["dtype"])
        read_by_qformer = {name: given[name] for name in ("qformer_input_ids",) if name in given}
        start = time.perf_counter()
        model.get_image_features(given["pixel_values"], **read_by_qformer, return_dict=True)
        figures.encode = time.perf_counter() - start
    figures.report()
    language = model.language_model
    read = sum(
        p.numel() * p.element_size() for n, p in language.named_parameters() if "embed_positions" not in n
    )
    clock = Clock(Reader())
    ask(QUESTION, words + 1, clock)
    clock.memory_limit(figures, read)


def measure_onnx(folder: Path, precision: str, words: int) -> None:
    """Through the package, as a user's Python does it; nothing is kept from one run to the next."""
    import blip2_chat
    from blip2_chat.engines.engine import State
    from blip2_chat.generation.loop import Batch, Member
    from blip2_chat.generation.reuse import kept_under
    from blip2_chat.generation.rows import Task
    from blip2_chat.generation.settings import Decoding
    from blip2_chat.images import to_pixels

    figures = Figures("blip2-chat", precision, words)
    start = time.perf_counter()
    model = blip2_chat.load(folder, force=True)
    figures.load = time.perf_counter() - start
    figures.report()

    def ask(prompt: str, length: int, clock: Clock) -> str:
        """The answer; `clock` was started just now."""
        opened = model.open(picture())
        tokens, instruction = model.tokenizer.encode(prompt), model.tokenizer.instruction(prompt)
        vectors, key = model.query_vectors(opened, instruction), kept_under(opened.digest, instruction)
        kept = model.states.take(key, tokens)
        decoding = Decoding.of(max_new_tokens=length, min_new_tokens=length)

        def keep(_: Member, state: State) -> None:
            model.states.put(key, state)

        batch = Batch(model.engine, model.tokenizer, keep)
        (member,) = batch.join(vectors, [Task(tokens, decoding)], kept)
        while batch.members:
            batch.choose()
            clock.tick()
            batch.step()
        return model.tokenizer.decode(member.rows.results[0].token_ids)

    answer = ask(QUESTION, words + 1, Clock(figures=figures))
    clock = Clock()
    ask(f"{QUESTION} {answer}{FOLLOW_UP}", 1, clock)
    figures.follow_up = clock.first_word()
    figures.peak_memory = peak_memory()
    figures.report()
    pixels = to_pixels(model.open(picture()), model.preprocess)
    start = time.perf_counter()
    model.engine.query(model.engine.encode_image(pixels), [model.tokenizer.instruction(QUESTION)])
    figures.encode = time.perf_counter() - start
    figures.report()
    clock = Clock(Reader())
    ask(QUESTION, words + 1, clock)
    clock.memory_limit(figures, (folder / "language.onnx.data").stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runtime", choices=["transformers", "onnx"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("precision")
    parser.add_argument("--words", type=int, default=16)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    measure = {"transformers": measure_transformers, "onnx": measure_onnx}[options.runtime]
    measure(options.folder, options.precision, options.words)


if __name__ == "__main__":
    main()
