"""`load`: a name -> a model that is ready to talk, on the engine and at the precision that fit the machine."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from .checkpoint.embedded import is_embedded
from .checkpoint.hub import is_hub_name
from .checkpoint.inspect import EMBEDDED, AnyCheckpoint, Checkpoint, find, find_adapter, inspect
from .checkpoint.requirements import (
    COSTS,
    EngineName,
    Precision,
    best_precision,
    is_small,
    needed,
    require_fit,
)
from .checkpoint.retrieval_config import AnyConfig
from .checkpoint.tokenizer import Tokenizer
from .engines.engine import Engine
from .errors import CheckpointError, MissingExtraError
from .images import PictureLimits, Preprocess
from .model import Model
from .plan import Plan
from .prompts import PromptTemplate
from .sizes import gigabytes
from .system.memory import available_memory
from .system.progress import Progress

PrecisionChoice = Literal[Precision, "auto"]
EngineChoice = Literal[EngineName, "auto"]

PRECISIONS = ("auto", *sorted({kind for costs in COSTS.values() for kind in costs.matrix}, reverse=True))
ENGINES = ("auto", "onnx", "torch")
DEVICES = ("auto", "cpu", "cuda", "mps")


def load(
    name_or_path: str | Path = EMBEDDED,
    *,
    precision: PrecisionChoice = "auto",
    engine: EngineChoice = "auto",
    device: str = "auto",
    revision: str | None = None,
    processor: str | Path | None = None,
    adapter: str | Path | None = None,
    token: str | None = None,
    template: PromptTemplate | None = None,
    limits: PictureLimits | None = None,
    threads: int | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
) -> Model:
    """Loads a BLIP-2 model: the embedded one, a local folder, or a name on the Hugging Face hub.

    `precision` is "fp32", "int8" or "int4" (the torch engine has "fp16" and "bf16" too); `engine` "onnx"
    (any CPU, no torch) or "torch" (GPUs, and the reference); "auto" picks what fits this machine. The onnx
    engine converts a checkpoint once, and keeps the result in the user's cache. `threads` are those of the
    onnx engine (by default all cores). `processor` names the checkpoint whose tokenizer and picture settings are
    used, for one that has none of its own. `adapter` is a LoRA adapter that PEFT saved, a folder or a hub name, which
    is merged with the model. `force` loads the model even if the memory check says that it will not fit.

    Raises `CheckpointError`, `NotEnoughMemoryError`, `MissingExtraError`.
    """
    download = None if on_progress is None else downloading(on_progress)
    folder = find(name_or_path, revision=revision, token=token, on_progress=download)
    small = None if processor is None else find(processor, token=token, weights=False)
    added = None if adapter is None else find_adapter(adapter, token=token, on_progress=download)
    checkpoint = inspect(folder, small, added)
    # Small, so before what is slow: a fault in them is not worth a conversion.
    tokenizer = Tokenizer.from_folder(small or folder, checkpoint.config)
    preprocess = Preprocess.for_model(small or folder, checkpoint.config.vision.image_size)
    name = str(name_or_path)
    if adapter is not None:
        _warn_of_another_base(checkpoint, name)
        name = f"{name}+{adapter}"
    plan = choose(checkpoint, precision=precision, engine=engine, device=device)
    if not force and plan.device != "mps":
        free = None if plan.device == "cpu" else sum(free_gpu_memory(plan.device))
        require_fit(checkpoint.config, plan.precision, plan.engine, available=free, name=name)
    running = _start(checkpoint, plan, str(name_or_path), threads, on_progress)
    model = Model(running, tokenizer, preprocess, name, template, limits)
    model.plan = plan
    recipe = Recipe(
        name=absolute(str(name_or_path)),
        # As chosen here: another machine, or another moment, might choose another, whose answers differ.
        precision=plan.precision,
        engine=plan.engine,
        device=device,
        revision=revision,
        processor=absolute(str(processor)) if processor is not None else None,
        adapter=absolute(str(adapter)) if adapter is not None else None,
        threads=threads,
        force=force,
        template=template,
        limits=limits,
    )
    model.reduction = (Recipe.load, (recipe,))
    return model


def _warn_of_another_base(checkpoint: Checkpoint, name: str) -> None:
    """Of an adapter that fits, and was made for another model of the same shape."""
    base = checkpoint.adapter.base if checkpoint.adapter is not None else None
    repository = name.partition("@")[0]
    if base and is_hub_name(base) and is_hub_name(repository) and base != repository:
        warnings.warn(
            f"the adapter was made for {base}, and is merged with {repository}: its answers may be worse",
            stacklevel=3,
        )


def absolute(name: str) -> str:
    """A model's name as it is found from another working directory, too."""
    path = Path(name).expanduser()
    return str(path.absolute()) if not is_embedded(name) and path.is_dir() else name


@dataclass(frozen=True)
class Recipe:
    """What `load` was asked for, so that a pickled model can be loaded again elsewhere. An access token is no
    part of it: a secret has no place in a cache or on the way to a worker."""

    name: str
    precision: str
    engine: str
    device: str
    revision: str | None
    processor: str | None
    adapter: str | None
    threads: int | None
    force: bool
    template: PromptTemplate | None
    limits: PictureLimits | None

    def __reduce__(self) -> tuple[object, ...]:
        # In one string, because pickle writes equal strings differently when they are not one object: the same
        # recipe has the same bytes, by which `datasets` finds what it has computed before.
        plain = {name: value for name, value in vars(self).items() if name not in ("template", "limits")}
        return _recipe, (json.dumps(plain, sort_keys=True), self.template, self.limits)

    def load(self) -> Model:
        """The model again; raises what `load` does."""
        options: dict[str, Any] = {**vars(self)}
        return load(options.pop("name"), **options)


def _recipe(plain: str, template: PromptTemplate | None, limits: PictureLimits | None) -> Recipe:
    return Recipe(**json.loads(plain), template=template, limits=limits)


def choose(
    checkpoint: AnyCheckpoint, *, precision: str = "auto", engine: str = "auto", device: str = "auto"
) -> Plan:
    """Fills in what is "auto". `CheckpointError` for a word that is none of the choices, or for a combination
    that does not exist."""
    for what, given, known in (
        ("precision", precision, PRECISIONS),
        ("engine", engine, ENGINES),
        ("device", device.split(":")[0], DEVICES),
    ):
        if given not in known:
            raise CheckpointError(f"{what} {given!r} is none of {', '.join(known)}")
    reasons = []
    if checkpoint.kind == "converted":
        return _converted(checkpoint, precision, engine, device)
    if engine == "auto":
        engine, reason = _engine(precision, device)
        reasons.append(reason)
    if engine == "onnx" and device not in ("auto", "cpu"):
        raise CheckpointError(f"the onnx engine runs on the CPU; for {device} use engine='torch'")
    if engine == "onnx" and precision in ("fp16", "bf16"):
        raise CheckpointError(f"{precision} needs the torch engine; the onnx engine has fp32, int8 and int4")
    if device == "auto":
        device = "cpu" if engine == "onnx" else _accelerator() or "cpu"
        if device == "mps" and precision in ("int8", "int4"):
            device = "cpu"
            reasons.append("bitsandbytes runs on CUDA GPUs and CPUs")
    if precision == "auto":
        precision, reason = _precision(checkpoint.config, engine, device)
        reasons.append(reason)
    return Plan(engine, precision, device, "; ".join(reasons) or "as asked")


def default_precision(config: AnyConfig, engine: str, available: int) -> str | None:
    """What `load` chooses with this engine when the precision is "auto"; None when even that does not fit.

    available: this machine's free memory, in bytes; on a GPU its own free memory counts instead.
    """
    device = "cpu" if engine == "onnx" else _accelerator() or "cpu"
    if device == "mps":
        return _precision(config, engine, device)[0]
    if device != "cpu":
        chosen, _ = _precision(config, engine, device)
        return chosen if needed(config, chosen, engine) <= sum(free_gpu_memory(device)) else None
    best = best_precision(config, engine, available)
    return best if needed(config, best, engine) <= available else None


def _precision(config: AnyConfig, engine: str, device: str) -> tuple[str, str]:
    """The precision for "auto", and why."""
    if is_small(config):
        return "fp32", "a model this small runs at fp32 anywhere"
    # T5 overflows fp16.
    half: Precision = "bf16" if config.text is not None and not config.text.is_decoder_only else "fp16"
    if device == "mps":
        return half, f"{half} is the usual one on a GPU"
    on_gpu = device.startswith("cuda")
    free = sum(free_gpu_memory(device)) if on_gpu else available_memory()
    chosen = best_precision(config, engine, free, (half, "int8", "int4") if on_gpu else None)
    room = f"the {gigabytes(free)} of {'GPU ' if on_gpu else ''}memory free"
    if engine == "onnx" and chosen == "int8":
        return chosen, f"int8 fits {room}, and answers several times as fast as fp32 on a CPU"
    return chosen, f"{chosen} is the most precise that fits {room}"


def _converted(checkpoint: AnyCheckpoint, precision: str, engine: str, device: str) -> Plan:
    """A folder of ours has one precision and one engine."""
    from .engines.onnx.manifest import Manifest

    has = Manifest.from_folder(checkpoint.folder).precision
    if precision not in ("auto", has) or engine == "torch" or device not in ("auto", "cpu"):
        raise CheckpointError(
            f"{checkpoint.folder} is converted to {has} for the onnx engine on the CPU; for anything else load "
            "the checkpoint that it was made from",
            path=checkpoint.folder,
        )
    return Plan("onnx", has, "cpu", "as it was converted")


def _engine(precision: str, device: str) -> tuple[str, str]:
    if device not in ("auto", "cpu") or precision in ("fp16", "bf16"):
        return "torch", f"{device if device != 'auto' else precision} needs it"
    # bitsandbytes has no kernels of its own for Apple's GPUs; on their CPU the onnx engine is the faster.
    gpu = _accelerator() if device == "auto" else None
    if gpu and not (gpu == "mps" and precision in ("int8", "int4")):
        return "torch", "there is a GPU"
    return "onnx", "the fastest on a CPU"


def _accelerator() -> str | None:
    """The GPU that torch could use; torch itself, seconds to import, is asked only where there may be one."""
    if not (sys.platform == "darwin" or shutil.which("nvidia-smi")) or find_spec("torch") is None:
        return None
    from .engines.torch.loading import accelerator

    return accelerator()


def free_gpu_memory(device: str) -> list[int]:
    """Free bytes of each GPU that `device` means."""
    require_torch()
    from .engines.torch import loading

    return loading.free_gpu_memory(device)


def require_torch() -> None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtraError("the torch engine", "torch")


def _start(
    checkpoint: Checkpoint, plan: Plan, name: str, threads: int | None, on_progress: Progress | None
) -> Engine:
    if plan.engine == "torch":
        require_torch()
        from .engines.torch.engine import TorchEngine
        from .engines.torch.folder import standard_folder

        with standard_folder(checkpoint) as folder:
            return TorchEngine.load(folder, plan.precision, plan.device, on_progress)
    from .conversion.convert import converted
    from .engines.onnx.run.session import load_onnx_engine

    if checkpoint.kind == "converted":
        return load_onnx_engine(checkpoint.folder, threads)
    return load_onnx_engine(
        converted(checkpoint, plan.precision, name=name, on_progress=on_progress), threads
    )


def downloading(on_progress: Progress) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        on_progress("downloading", done, total)

    return told
