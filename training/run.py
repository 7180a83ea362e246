"""Train the shipped model: ``python -m training.run``.

Two stages, like BLIP-2's: first the vision encoder and the Q-Former learn what is in a picture, then
the language model learns to talk about it while they go on. The schedule follows the step count, so a
run is the same however busy the machine is; with ``--steps 0 --minutes N`` it follows the clock instead.
Interrupt or kill it at will: the same command goes on from the last checkpoint.

On a CPU one single-threaded process per core, each with its share of the batch, is a good deal faster
than one process with many threads: the layers are small, and other programs on the machine then slow
down single processes instead of every matrix product.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast

from . import checkpoints
from .batches import Batch, SceneBatches
from .curve import draw_curve
from .heads import SceneHeads, SceneTargets
from .icons import IconStore
from .losses import Learner
from .model import Shape, build_model
from .optimiser import SharedOptimiser, layer_matrices
from .precision import mixed_precision
from .probe import probe
from .tokenizer import build_tokenizer, newline_id

PROBE_SEED = 900_001
PROBE_PICTURES = 240


@dataclass(frozen=True)
class Options:
    """What a run is made of; kept in its folder."""

    name: str = "demo"
    steps: int = 4_000  # the schedule follows this ...
    minutes: float = 0.0  # ... or, when it is 0, the clock
    batch: int = 32  # pictures per process and step
    processes: int = 2
    seed: int = 7
    peak_rate: float = 2e-3
    matrix_rate: float = 2.0  # Muon's rate as a multiple of AdamW's
    decay: float = 0.05
    # Muon's updates have the same size whatever the gradients', so only decay bounds the matrices
    matrix_decay: float = 0.3
    easy: float = 0.4  # how strongly pictures are distorted at the start ...
    hard: float = 0.45  # ... and at the end
    warm_up: float = 0.015
    cool_down: float = 0.3  # share of the run, at its end, over which the learning rate falls
    keep: int = 40  # patches of each picture that are looked at until then; 0: all
    speak_from: float = 0.2  # share of the run after which the language model joins
    average: float = 0.995
    save_every: float = 120.0
    probe_every: float = 900.0
    start: str = ""  # a checkpoint folder to go on from; empty: from scratch
    heads_alone: float = 0.0  # share of the run, at its start, in which only the heads learn
    device: str = "cpu"

    def rate(self, progress: float) -> float:
        if progress < self.warm_up:
            return self.peak_rate * max(progress, 1e-3) / self.warm_up
        left = min(1.0, (1 - progress) / self.cool_down)
        return self.peak_rate * max(0.01, left)

    def kept(self, progress: float) -> int:
        """How many patches to look at; 0: all."""
        return self.keep if progress < 1 - self.cool_down else 0

    def strength(self, progress: float) -> float:
        """Easy pictures first: much is learnt sooner from pictures that are not yet distorted much."""
        return self.easy + (self.hard - self.easy) * min(1.0, progress)


class Trainer:
    """The learner, its optimiser, its running average and where it is in the run.

    Every process of a run has one; they stay alike because they apply the same averaged gradients.
    """

    def __init__(self, options: Options, shape: Shape, rank: int) -> None:
        self.options, self.rank = options, rank
        self.folder = checkpoints.RUNS / options.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(options.device)
        self.tokenizer = self._tokenizer()
        self.store = IconStore.load()
        self.learner, self.averaged = (
            Learner(
                build_model(newline_id(self.tokenizer), len(self.tokenizer), shape, options.seed),
                SceneHeads(shape.vision_width, shape.qformer_width),
            ).to(self.device)
            for _ in range(2)
        )
        if options.start:
            self._start_from(Path(options.start))
        self.averaged.load_state_dict(self.learner.state_dict())
        self.averaged.eval()
        # for such short sequences the plain form is the fastest on a CPU
        for part in (self.learner, self.averaged):
            part.model.set_attn_implementation("eager" if options.device == "cpu" else "sdpa")
        self.optimiser = SharedOptimiser(
            self.learner, layer_matrices(self.learner.model), options.decay, options.matrix_decay, rank,
            options.processes,
        )  # fmt: skip
        self.step, self.elapsed = 0, 0.0
        self._resume()

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        """The run's own, so that going on after a change to the wordings keeps every token's number."""
        kept = self.folder / "tokenizer"
        if (kept / "tokenizer.json").exists():
            return PreTrainedTokenizerFast.from_pretrained(kept)
        start = self.options.start
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start) if start else build_tokenizer()
        if self.rank == 0:
            tokenizer.save_pretrained(kept)
        return tokenizer

    def _start_from(self, folder: Path) -> None:
        """The weights of a checkpoint in the official layout; the heads are new."""
        state = load_file(folder / "model.safetensors")
        missing, unexpected = self.learner.model.load_state_dict(
            {name: value.float() for name, value in state.items()}, strict=False
        )
        if unexpected or set(missing) - {"language_model.lm_head.weight"}:
            raise SystemExit(f"{folder} has another shape: {[*missing, *unexpected][:3]}")

    @property
    def progress(self) -> float:
        options = self.options
        return self.step / options.steps if options.steps else self.elapsed / (60 * options.minutes)

    def _resume(self) -> None:
        found = checkpoints.complete(self.folder)
        if not found:
            return
        state = torch.load(found[-1] / checkpoints.WEIGHTS, map_location=self.device, weights_only=True)
        if state["processes"] != self.options.processes:
            raise SystemExit(f"{found[-1]} is of {state['processes']} processes: use --processes with that")
        self.learner.load_state_dict(state["learner"])
        self.averaged.load_state_dict(state["averaged"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        own = found[-1] / checkpoints.optimiser_file(self.rank)
        self.optimiser.load_state_dict(torch.load(own, map_location=self.device, weights_only=True))
        if self.rank == 0:
            print(f"going on from step {self.step}, {self.elapsed / 60:.1f} minutes in", flush=True)

    def save(self) -> None:
        """Every process keeps its share of the optimiser; the first keeps the weights."""
        folder = checkpoints.step_folder(self.folder, self.step)
        checkpoints.write(folder / checkpoints.optimiser_file(self.rank), self.optimiser.state_dict())
        if self.rank == 0:
            learner, averaged = self.learner.state_dict(), self.averaged.state_dict()
            at = {"step": self.step, "elapsed": self.elapsed, "processes": self.options.processes}
            state = {"learner": learner, "averaged": averaged, **at}
            checkpoints.write(folder / checkpoints.WEIGHTS, state)
            checkpoints.remove_old(self.folder)

    def log(self, record: dict[str, Any]) -> None:
        record = {"step": self.step, "minutes": round(self.elapsed / 60, 3)} | record
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    def _share(self, elapsed: float) -> None:
        """Average the gradients over the processes and take the first one's clock, so that all keep step."""
        if self.options.processes == 1:
            self.elapsed = elapsed
            return
        grads = [p.grad for p in self.learner.parameters() if p.grad is not None]
        clock = torch.tensor([elapsed if self.rank == 0 else 0.0])
        flat = torch.cat([grad.flatten() for grad in grads] + [clock])
        distributed.all_reduce(flat)
        self.elapsed = float(flat[-1])
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad)).div_(self.options.processes)
            start += grad.numel()

    def _learn(self, batch: Batch, began: float) -> dict[str, float]:
        """One step; ``began`` is when the clock would have shown zero."""
        rate = self.options.rate(self.progress)
        self.optimiser.set_rate(rate, rate * self.options.matrix_rate)
        speak = self.progress >= self.options.speak_from
        shown: dict[str, float]
        with mixed_precision(self.device.type):
            loss, shown = self.learner(batch, speak)
        self.learner.zero_grad(set_to_none=True)
        loss.backward()
        if self.progress < self.options.heads_alone:
            self.learner.model.zero_grad(set_to_none=True)
        self._share(time.monotonic() - began)
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(self.options.average, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.learner.parameters()), 1 - keep)
        shown["rate"] = rate
        return shown

    def probe(self, pictures: int) -> None:
        """The processes share the work: the first looks at the seen styles, the second at the unseen one."""
        for held_out in (False, True):
            if self.rank == min(int(held_out), self.options.processes - 1):
                figures = probe(self.averaged, self.store, self.tokenizer, held_out, PROBE_SEED, pictures)
                self.log({"probe": "unseen" if held_out else "seen"} | figures)
        if self.rank == 0:
            draw_curve(self.folder / "log.jsonl", self.folder / "loss_curve.png")

    def train(self) -> None:
        options = self.options
        batches = SceneBatches(self.store, self.tokenizer, options.seed, options.batch)
        began = time.monotonic() - self.elapsed
        last_save = last_probe = last_log = self.elapsed
        logged_step = self.step
        while self.progress < 1:
            batches.strength = options.strength(self.progress)
            batches.keep = options.kept(self.progress)
            batch = batches[self.step * options.processes + self.rank]
            shown = self._learn(moved(batch, self.device), began)
            if self.step % 25 == 0 and self.rank == 0:
                pictures = (self.step - logged_step) * options.batch * options.processes
                speed = pictures / max(self.elapsed - last_log, 1e-6)
                self.log(
                    {key: round(value, 5) for key, value in shown.items()}
                    | {"pictures_per_s": round(speed, 1)}
                )
                last_log, logged_step = self.elapsed, self.step
            if self.elapsed - last_save > options.save_every or self.progress >= 1:
                self.save()
                last_save = self.elapsed
            if self.elapsed - last_probe > options.probe_every:
                self.probe(PROBE_PICTURES)
                last_probe = self.elapsed
        self.probe(PROBE_PICTURES)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on the training device."""
    if device.type == "cpu":
        return batch

    def there(group: Any) -> Any:
        return type(group)(**{name: tensor.to(device) for name, tensor in vars(group).items()})

    truth: SceneTargets = there(batch.truth)
    kept = None if batch.kept is None else batch.kept.to(device)
    return Batch(batch.pixels.to(device), truth, there(batch.talks), there(batch.captions), kept)


def work(rank: int, options: Options, meeting: str) -> None:
    """One process of the run."""
    if options.processes > 1:
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes
        )
    trainer = Trainer(options, Shape(), rank)
    if rank == 0:
        (trainer.folder / "options.json").write_text(json.dumps(asdict(options), indent=1) + "\n")
        size = sum(p.numel() for p in trainer.learner.model.parameters())
        print(f"{size / 1e6:.2f} million parameters", flush=True)
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Options()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = Options(**vars(parser.parse_args()))
    if options.device != "cpu":
        options = replace(options, processes=1)
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.path.join(folder, "meeting")
        if options.processes == 1:
            work(0, options, meeting)
        else:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            spawn(work, (options, meeting), options.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
