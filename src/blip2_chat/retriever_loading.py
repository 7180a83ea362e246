"""`load_retriever`: a name -> a model that is ready to match pictures with texts, as `load` does for chat models."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from .checkpoint.embedded import default_retriever
from .checkpoint.inspect import Checkpoint, find, inspect_retriever
from .checkpoint.requirements import require_fit
from .checkpoint.retrieval_config import RetrievalConfig
from .checkpoint.wordpiece import WordPiece
from .engines.retrieval import RetrievalEngine
from .images import PictureLimits, Preprocess
from .loading import (
    EngineChoice,
    PrecisionChoice,
    absolute,
    choose,
    downloading,
    free_gpu_memory,
    require_torch,
)
from .plan import Plan
from .retriever import Retriever
from .system.progress import Progress
from .system.small_files import MANIFEST


def load_retriever(
    name_or_path: str | Path | None = None,
    *,
    precision: PrecisionChoice = "auto",
    engine: EngineChoice = "auto",
    device: str = "auto",
    revision: str | None = None,
    processor: str | Path | None = None,
    token: str | None = None,
    limits: PictureLimits | None = None,
    threads: int | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
) -> Retriever:
    """Loads a model that matches pictures with texts: the embedded one, a local folder, or a name on the Hugging Face
    hub such as "Salesforce/blip2-itm-vit-g".

    Without a name it is the one that the environment variable BLIP2_CHAT_RETRIEVER has, or else the embedded
    "demo-retrieval". Everything else is as for `load`.

    Raises `CheckpointError` (also for a chat model), `NotEnoughMemoryError`, `MissingExtraError`.
    """
    name = default_retriever() if name_or_path is None else name_or_path
    download = None if on_progress is None else downloading(on_progress)
    folder = find(name, revision=revision, token=token, on_progress=download)
    small = None if processor is None else find(processor, token=token, weights=False)
    checkpoint = inspect_retriever(folder, small)
    # Small, so before what is slow: a fault in them is not worth a conversion.
    tokenizer = WordPiece.from_folder(small or folder, checkpoint.config)
    preprocess = Preprocess.for_model(small or folder, checkpoint.config.vision.image_size)
    plan = choose(checkpoint, precision=precision, engine=engine, device=device)
    if not force and plan.device != "mps":
        free = None if plan.device == "cpu" else sum(free_gpu_memory(plan.device))
        require_fit(checkpoint.config, plan.precision, plan.engine, available=free, name=str(name))
    running = _start(checkpoint, plan, str(name), threads, on_progress)
    identity = _identity(checkpoint, plan)
    retriever = Retriever(running, tokenizer, preprocess, str(name), identity, plan, limits)
    # As chosen here: another machine, or another moment, might choose another, whose numbers differ. An access token
    # is no part of it: a secret has no place in a cache or on the way to a worker.
    options: dict[str, Any] = {
        "precision": plan.precision,
        "engine": plan.engine,
        "device": device,
        "revision": revision,
        "processor": None if processor is None else absolute(str(processor)),
        "limits": limits,
        "threads": threads,
        "force": force,
    }
    retriever.reduction = (partial(load_retriever, absolute(str(name)), **options), ())
    return retriever


def _start(
    checkpoint: Checkpoint[RetrievalConfig],
    plan: Plan,
    name: str,
    threads: int | None,
    on_progress: Progress | None,
) -> RetrievalEngine:
    if plan.engine == "torch":
        require_torch()
        from .engines.torch.folder import standard_folder
        from .engines.torch.retrieval import TorchRetrievalEngine

        with standard_folder(checkpoint) as folder:
            return TorchRetrievalEngine.load(folder, plan.precision, plan.device, on_progress)
    from .conversion.convert import converted
    from .engines.onnx.run.retrieval import load_onnx_retriever

    if checkpoint.kind == "converted":
        return load_onnx_retriever(checkpoint.folder, threads)
    made = converted(checkpoint, plan.precision, name=name, on_progress=on_progress)
    return load_onnx_retriever(made, threads)


def _identity(checkpoint: Checkpoint[RetrievalConfig], plan: Plan) -> str:
    """The same for the same weights and picture settings at the same precision."""
    if checkpoint.kind == "converted":
        made_of = (checkpoint.folder / MANIFEST).read_text(encoding="utf-8")
    else:
        from .conversion.fingerprint import fingerprint

        made_of = fingerprint(checkpoint.folder, checkpoint.weight_files, checkpoint.processor)
    return hashlib.sha256(f"{made_of} {plan.precision}".encode()).hexdigest()
