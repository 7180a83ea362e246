"""Train the shipped retrieval model: ``python -m training.retrieval``.

It takes the picture encoder and the Q-Former of the demo model; the encoder stays as it is, and the Q-Former, with a
branch for texts, learns to compare and to match. If it is killed, the same command resumes. The schedule follows the
clock (``--minutes``). At the end the running average of the weights is written to ``src/blip2_chat/demo_retrieval/``
in the official layout, as float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
)

from . import checkpoints, concepts
from .batches import to_pixels
from .descriptions import Described, changed, describe
from .export import DEMO, write_picture_settings
from .icons import IconStore
from .kept_pictures import Part, drawn, parts
from .matching import Matcher, Pairs, Texts
from .optimiser import SharedOptimiser
from .ranking import AT_ONCE, orders
from .wordpiece import build_wordpiece

RETRIEVAL = DEMO.parent / "demo_retrieval"
RANKED = 16  # pictures that ITM puts in order
WIDTH = 128  # of the vectors that are compared
POSITIONS = 64
PROBE_SEED, PROBE_PICTURES, PROBE_STRENGTH = 900_003, 256, 0.35


@dataclass(frozen=True)
class Options:
    name: str = "retrieval"
    encoder: str = str(DEMO)
    minutes: float = 50.0
    batch: int = 64
    parts: int = 24  # of 1,024 kept pictures each
    seed: int = 11
    peak_rate: float = 1e-3
    matrix_rate: float = 2.0
    decay: float = 0.05
    matrix_decay: float = 0.15
    strength: float = 0.45
    cool_down: float = 0.6
    warm_up: float = 0.03
    average: float = 0.99
    save_every: float = 120.0
    probe_every: float = 900.0

    def rate(self, progress: float) -> float:
        if progress < self.warm_up:
            return self.peak_rate * max(progress, 1e-3) / self.warm_up
        return self.peak_rate * max(0.01, min(1.0, (1 - progress) / self.cool_down))


def build_matcher(encoder: Path, vocabulary: int, seed: int) -> Matcher:
    """The retrieval model with the demo's picture encoder, queries and Q-Former; texts begin with copies of the
    queries' feed-forward layers."""
    source = Blip2ForConditionalGeneration.from_pretrained(encoder, dtype=torch.float32)
    qformer = source.config.qformer_config.to_dict() | {
        "use_qformer_text_input": True, "vocab_size": vocabulary, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    config = Blip2Config(
        vision_config=source.config.vision_config.to_dict(),
        qformer_config=qformer,
        num_query_tokens=source.config.num_query_tokens,
        image_text_hidden_size=WIDTH,
        image_token_index=None,
    )
    torch.manual_seed(seed)
    model = Blip2ForImageTextRetrieval(config)
    known = {
        name: value
        for name, value in source.state_dict().items()
        if name.startswith(("vision_model.", "qformer.", "query_tokens"))
    }
    for name in list(known):
        if "_query." in name:
            known[name.replace("_query.", ".")] = known[name]
    model.load_state_dict(known, strict=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_(0, 0.3)
        model.embeddings.position_embeddings.weight.normal_(0, 0.1)
    model.set_attn_implementation("sdpa")
    model.vision_model.requires_grad_(False)
    return Matcher(model)


class DrawnPairs:
    """Batch number → pairs with pictures drawn for it; the same number and seed always give the same batch."""

    def __init__(
        self, store: IconStore, tokenizer: BertTokenizerFast, seed: int, size: int, strength: float,
        held_out: bool = False, whole: float = 0.6,
    ) -> None:  # fmt: skip
        self.store, self.tokenizer, self.seed, self.size = store, tokenizer, seed, size
        self.strength, self.held_out, self.whole = strength, held_out, whole

    def __getitem__(self, number: int) -> Pairs:
        """With pixels in place of what the encoder sees."""
        found = list(drawn(self.store, self.seed, number, self.size, self.strength, self.held_out))
        pixels = to_pixels([one.picture for one, _ in found])
        rng = np.random.default_rng((self.seed, number))
        return described(pixels, [truth for _, truth in found], self.tokenizer, rng, self.whole)


class KeptPairs:
    """Batch number → pairs of kept pictures, described anew each time."""

    def __init__(self, kept: Sequence[Part], tokenizer: BertTokenizerFast, seed: int, size: int) -> None:
        self.kept, self.tokenizer, self.seed, self.size = kept, tokenizer, seed, size

    def __getitem__(self, number: int) -> Pairs:
        rng = np.random.default_rng((self.seed, number))
        part = self.kept[int(rng.integers(len(self.kept)))]
        rows = rng.choice(len(part.truths), self.size, replace=False)
        seen = part.seen[torch.from_numpy(rows)].float()
        return described(seen, [part.truths[row] for row in rows.tolist()], self.tokenizer, rng)


def described(
    pictures: Tensor,
    truths: list[Described],
    tokenizer: BertTokenizerFast,
    rng: Generator,
    whole: float = 0.6,
) -> Pairs:
    """Pictures with a true description for each, and the same with one detail changed."""
    right = [describe(truth, rng, whole) for truth in truths]
    wrong = [changed(one, truth, rng) for one, truth in zip(right, truths, strict=True)]
    texts = [*right, *wrong]
    fits = [[text.fits(truth) for text in texts] for truth in truths]
    known = torch.tensor([[-1 if fit is None else int(fit) for fit in row] for row in fits])
    words = tokenised(tokenizer, [text.text for text in texts])
    return Pairs(pictures, words, known, concepts.of_pictures(truths), concepts.of_texts(texts))


def tokenised(tokenizer: BertTokenizerFast, texts: list[str]) -> Texts:
    found = tokenizer(texts, padding=True, return_tensors="pt")
    return Texts(found["input_ids"], found["attention_mask"])


@torch.no_grad()
def probe(matcher: Matcher, batches: DrawnPairs) -> dict[str, float]:
    """Share of descriptions whose picture comes first, by ITC and after re-ranking the first 16 by ITM, and
    how often ITM tells a true description from one with one detail changed."""
    pairs = batches[0]
    seen = torch.cat([matcher.look(part) for part in pairs.pictures.split(AT_ONCE)])
    found = orders(matcher, seen, pairs.texts, RANKED)
    texts = torch.arange(len(seen))
    figures = {
        "itc_first": pairs.truth[found.itc[:, 0], texts] == 1,
        "itm_first": pairs.truth[found.itm[:, 0], texts] == 1,
        "told_apart": found.told_apart,
    }
    return {name: round(float(right.float().mean()), 4) for name, right in figures.items()}


class Trainer:
    """The matcher, its optimiser, its running average, and where it is in the run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = checkpoints.RUNS / options.name
        self.tokenizer = build_wordpiece(self.folder / "tokenizer")
        self.store = IconStore.load()
        self.matcher, self.averaged = (
            build_matcher(Path(options.encoder), len(self.tokenizer), options.seed) for _ in range(2)
        )
        self.averaged.eval()
        matrices = [value for value in self.matcher.model.qformer.encoder.parameters() if value.ndim == 2]
        learnt = nn.ModuleList(
            [part for name, part in self.matcher.model.named_children() if name != "vision_model"]
        )
        learnt.register_parameter("query_tokens", self.matcher.model.query_tokens)
        learnt.register_parameter("log_scale", self.matcher.log_scale)
        learnt.add_module("reading", self.matcher.reading)
        self.learnt = list(learnt.parameters())
        self.optimiser = SharedOptimiser(learnt, matrices, options.decay, options.matrix_decay, 0, 1)
        self.step, self.elapsed = 0, 0.0
        self._resume()

    @property
    def progress(self) -> float:
        return self.elapsed / (60 * self.options.minutes)

    def _resume(self) -> None:
        found = checkpoints.complete(self.folder)
        if not found:
            return
        state = torch.load(found[-1] / checkpoints.WEIGHTS, weights_only=True)
        self.matcher.load_state_dict(state["matcher"])
        self.averaged.load_state_dict(state["averaged"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        own = found[-1] / checkpoints.optimiser_file(0)
        self.optimiser.load_state_dict(torch.load(own, weights_only=True))

    def save(self) -> None:
        folder = checkpoints.step_folder(self.folder, self.step)
        checkpoints.write(folder / checkpoints.optimiser_file(0), self.optimiser.state_dict())
        state = {"matcher": self.matcher.state_dict(), "averaged": self.averaged.state_dict()}
        state |= {"step": self.step, "elapsed": self.elapsed, "processes": 1}
        checkpoints.write(folder / checkpoints.WEIGHTS, state)
        checkpoints.remove_old(self.folder)

    def log(self, record: dict[str, float | str]) -> None:
        record = {"step": self.step, "minutes": round(self.elapsed / 60, 2)} | record
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    def probe(self) -> None:
        for held_out in (False, True):
            batches = DrawnPairs(
                self.store, self.tokenizer, PROBE_SEED, PROBE_PICTURES, PROBE_STRENGTH, held_out, whole=1.0
            )
            self.log({"probe": "unseen" if held_out else "seen"} | probe(self.averaged, batches))

    def train(self) -> None:
        options = self.options
        kept = parts(
            self.folder / "pictures", Path(options.encoder), options.seed, options.parts, options.strength, 2
        )
        batches = KeptPairs(kept, self.tokenizer, options.seed, options.batch)
        began = time.monotonic() - self.elapsed
        last_save = last_probe = self.elapsed
        while self.progress < 1:
            rate = options.rate(self.progress)
            self.optimiser.set_rate(rate, rate * options.matrix_rate)
            loss, shown = self.matcher(batches[self.step], self.step)
            for parameter in self.learnt:
                parameter.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learnt, 1.0)
            self.optimiser.step()
            self.step += 1
            self.elapsed = time.monotonic() - began
            keep = min(options.average, (1 + self.step) / (20 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.averaged.parameters()), list(self.matcher.parameters()), 1 - keep
                )
            if self.step % 25 == 0:
                self.log({key: round(value, 4) for key, value in shown.items()})
            if self.elapsed - last_save > options.save_every or self.progress >= 1:
                self.save()
                last_save = self.elapsed
            if self.elapsed - last_probe > options.probe_every and self.progress < 1:
                self.probe()
                last_probe = self.elapsed


def export(run: Trainer, folder: Path) -> None:
    """Write the averaged weights as an official checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    run.averaged.model.half().save_pretrained(part)
    for file in part.iterdir():
        file.replace(folder / file.name)
    shutil.rmtree(part)
    for file in (run.folder / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    write_picture_settings(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Options()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--folder", type=Path, default=RETRIEVAL)
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")
    torch.set_num_threads(1)
    run = Trainer(Options(**arguments))
    run.train()
    export(run, folder)
    run.probe()


if __name__ == "__main__":
    main()
