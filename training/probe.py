"""A cheap look at how good the model is while it trains.

An answer is counted as right when every one of its tokens, the final newline included, scores highest
given the tokens before it; that is exactly when greedy decoding writes that answer.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from . import scenes
from .batches import Writer, pad, to_pixels
from .icons import IconStore
from .losses import Learner
from .precision import mixed_precision
from .questions import Asker, caption

PROBE_STRENGTH = 0.35
FIRST_TASKS = (
    "what", "side", "count", "count-kind", "count-group", "is-there", "is-there", "background", "relation",
    "relation", "colour", "is-colour", "place", "compare",
)  # fmt: skip


@torch.no_grad()
def probe(
    learner: Learner,
    store: IconStore,
    tokenizer: PreTrainedTokenizerFast,
    held_out: bool,
    seed: int,
    pictures: int,
) -> dict[str, float]:
    """Share of right answers by task, of all single questions and follow-ups, and of exact captions."""
    writer, table = Writer(tokenizer), store.table(held_out)
    right: dict[str, list[float]] = defaultdict(list)
    for start in range(0, pictures, 64):
        planned, drawn, rows, tasks = [], [], [], []
        for row in range(min(64, pictures - start)):
            rng = np.random.default_rng((seed, start + row))
            scene = scenes.plan(table, rng)
            planned.append(scene)
            shown = scenes.draw(scene, store, rng, PROBE_STRENGTH)
            drawn.append(shown.picture)
            asker = Asker(scene, rng, shown.colours)
            first = FIRST_TASKS[(start + row) % len(FIRST_TASKS)]
            talk = asker.conversation(1, first) or asker.conversation(1)
            rows.append((row, *writer.conversation(talk)))
            tasks.append(talk[0].task)
            longer = asker.conversation(3)
            rows.append((row, *writer.conversation(longer)))
            tasks.append("talk")
            rows.append((row, *writer.prompt_and_answer("", caption(scene))))
            tasks.append("caption")
        with mixed_precision("cpu"):
            queries = learner.look(to_pixels(drawn))[1]
            read = learner.heads.slot(queries[:, : scenes.MAX_THINGS]).argmax(-1)
            for row, scene in enumerate(planned):
                right["slot"] += [int(read[row, i]) == thing.kind + 1 for i, thing in enumerate(scene.things)]
            for (row, tokens, targets), task in zip(rows, tasks, strict=True):
                scores, wanted = learner.logits(queries, pad([(row, tokens, targets)]))
                hits = (scores.argmax(-1) == wanted).tolist()
                answer_ok = True
                for hit, target in zip(hits, wanted.tolist(), strict=True):
                    answer_ok &= hit
                    if target == writer.stop:
                        right[task].append(answer_ok)
                        answer_ok = True
    result = {task: round(float(np.mean(values)), 4) for task, values in sorted(right.items())}
    single = [
        value for task, values in right.items() if task not in ("talk", "caption", "slot") for value in values
    ]
    result["single"] = round(float(np.mean(single)), 4)
    return result
