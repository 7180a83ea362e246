"""LoRA adapters as PEFT saves them: what they change in a checkpoint, read without any of their weights.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. `read_adapter` says which tensors
of the model it changes and how, and refuses what it could not apply exactly; `weights.py` merges.

LoRA: Hu et al. 2021 (arXiv 2106.09685), W + s B A with s = alpha / r; rank-stabilised (Kalajdzievski 2023, arXiv
2312.03732) s = alpha / sqrt(r); DoRA: Liu et al. 2024 (arXiv 2402.09353).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, Parameter
from ..system.small_files import plain, read_json, shown
from .config import ModelConfig
from .safetensors_headers import FLOATS, TensorInfo, is_adapter, is_pickle, read_header
from .tensor_names import Shape, aliases, expected_tensors, is_unused

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)

_PREFIX = "base_model.model."
_LOW_RANK = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")
_MERGE = "merge it into its model (PEFT's merge_and_unload) and name the merged one"
# Settings under which PEFT computes something else than a sum that can be merged into one tensor.
_REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Initialisations that leave the base as it is; others move a part of it into the adapter.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LowRank:
    """W + scaling * B A, of which a magnitude per row makes DoRA. a: [r, ...], b: [N, r, ...], magnitude: [N]."""

    a: TensorInfo
    b: TensorInfo
    scaling: float
    magnitude: TensorInfo | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits its model."""

    folder: Path
    base: str | None  # what its author trained it on, as adapter_config.json has it
    low_rank: Mapping[str, LowRank]  # by the tensors that they are added to
    replaced: Mapping[str, TensorInfo]  # tensors that it has whole: biases, modules_to_save
    unties_head: bool  # whether the head, one with the embeddings before, is then a matrix of its own

    @property
    def changed(self) -> frozenset[str]:
        """The names of all tensors that it changes."""
        return frozenset((*self.low_rank, *self.replaced))

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def has_adapter(folder: Path) -> bool:
    """Whether PEFT saved an adapter there."""
    return any(is_adapter(path.name) for path in folder.iterdir())


def not_applied(folder: Path) -> str:
    """What to say of an adapter beside a whole model, when none is asked for."""
    return (
        f"{folder} also holds a LoRA adapter, which is not applied: answers are the model's without it; name the "
        "folder as the adapter, too, to apply it"
    )


def alone(folder: Path, name: str) -> CheckpointError:
    """For a folder with an adapter and no model. `name` is what the user calls it."""
    path = folder / CONFIG
    raw = read_json(path) if path.exists() else None
    base = raw.get("base_model_name_or_path") if isinstance(raw, dict) else None
    of = f" of {plain(base)}" if isinstance(base, str) and base else ""
    return CheckpointError(
        f"{name} is a LoRA adapter{of}, and not a whole model; load its model with ",
        Parameter("adapter", name),
    )


def check_files(folder: Path) -> None:
    """`CheckpointError` unless the folder has the files of an adapter, and its weights as safetensors."""
    names = sorted(path.name for path in folder.iterdir())
    if CONFIG not in names:
        raise CheckpointError(f"{folder} is not a PEFT adapter: it has no {CONFIG}", path=folder)
    if WEIGHTS not in names:
        raise without_weights(str(folder), names, folder)


def without_weights(name: str, files: list[str], folder: Path | None = None) -> CheckpointError:
    """For an adapter among whose files there are no safetensors."""
    pickles = [file for file in files if is_adapter(file) and is_pickle(file)]
    if pickles:
        return CheckpointError(
            f"{name} has its weights only as a pickle ({plain(pickles[0])}), which can run code when loaded; save it "
            "again with a newer PEFT, which writes safetensors",
            path=folder,
        )
    return CheckpointError(f"{name} has no {WEIGHTS}: fetch it again", path=folder)


def read_adapter(folder: Path, config: ModelConfig, tied_head: bool | None = None) -> Adapter:
    """The adapter in `folder`, checked against a model of that shape; `tied_head` as in `aliases`.

    `CheckpointError`, in one line, for what is no LoRA adapter, belongs to another model, or cannot be merged
    exactly.
    """
    check_files(folder)
    path = folder / CONFIG
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is damaged: fetch it again", path=path)
    _check_kind(folder, raw)
    base = raw.get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else None
    expected = expected_tensors(config)
    low_rank: dict[str, dict[str, TensorInfo]] = {}
    replaced: dict[str, TensorInfo] = {}
    tensors = read_header(folder / WEIGHTS)
    _check_tables(folder, tensors)
    for key, info in tensors.items():
        # A layer that LoRA is added to is one within another, under whose name its bias may be stored.
        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if info.dtype not in FLOATS:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {plain(key)} is stored as {plain(str(info.dtype))}; save it in float32",
                path=folder / WEIGHTS,
            )
        found = _LOW_RANK.fullmatch(name)
        target = f"{found[1]}.weight" if found else name
        if is_unused(target, config):
            continue
        if target not in expected:
            raise _foreign(folder, key, base)
        if found:
            low_rank.setdefault(target, {})[found[2].removesuffix(".weight")] = info
        else:
            replaced[target] = info
    if not low_rank and not replaced:
        raise CheckpointError(f"{folder / WEIGHTS} changes nothing: it is empty", path=folder / WEIGHTS)
    for name, info in replaced.items():
        _check_shape(folder, name, info.shape, expected[name], base)
    sums = {
        name: _low_rank(folder, raw, name, parts, expected[name], base) for name, parts in low_rank.items()
    }
    embeddings = aliases(config, tied_head)
    unties = _check_embeddings(folder, config, embeddings, sums, replaced)
    if unties and raw.get("ensure_weight_tying"):
        for name in embeddings:
            replaced.setdefault(name, replaced[next(one for one in embeddings if one in replaced)])
    return Adapter(folder, base, sums, replaced, unties)


def _check_tables(folder: Path, keys: Iterable[str]) -> None:
    table = next((key for key in keys if "lora_embedding_" in key), None)
    if table is not None:
        raise CheckpointError(
            f"{folder / WEIGHTS}: {plain(table)} changes a table of embeddings by LoRA, which is not applied: "
            f"{_MERGE}",
            path=folder / WEIGHTS,
        )


def _check_kind(folder: Path, raw: dict[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder} is an adapter of the kind {shown(kind)}; only LoRA and DoRA are applied: {_MERGE}",
            path=folder,
        )
    for setting in _REFUSED:
        if raw.get(setting):
            raise CheckpointError(
                f"{folder}: an adapter with {setting} cannot be merged into one tensor each: {_MERGE}",
                path=folder,
            )
    how = raw.get("init_lora_weights", True)
    if how not in _INITIALISATIONS or raw.get("loftq_config"):
        raise CheckpointError(
            f"{folder}: its initialisation ({shown(how)}) also changed the model; save it with PEFT's "
            "path_initial_model_for_weight_conversion, which makes a plain adapter of it",
            path=folder,
        )


def _low_rank(
    folder: Path, raw: dict[str, Any], name: str, parts: dict[str, TensorInfo], shape: Shape, base: str | None
) -> LowRank:
    module = name.removesuffix(".weight")
    path = folder / WEIGHTS
    for part in ("lora_A", "lora_B"):
        if part not in parts:
            raise CheckpointError(f"{path} lacks {part} of {module}: fetch it again", path=path)
    a, b, magnitude = parts["lora_A"], parts["lora_B"], parts.get("lora_magnitude_vector")
    if len(shape) not in (2, 4):
        raise CheckpointError(f"{path}: {module} is not a layer that LoRA applies to", path=path)
    rank = a.shape[0] if a.shape else 0
    if rank == 0 or prod(b.shape) != shape[0] * rank or b.shape[:2] != (shape[0], rank):
        raise CheckpointError(
            f"{path}: lora_A and lora_B of {module} have the shapes {list(a.shape)} and {list(b.shape)}, which do "
            f"not make {list(shape)}: {_of_another(base)}",
            path=path,
        )
    _check_shape(folder, f"lora_A of {module}", a.shape[1:], shape[1:], base)
    is_dora = bool(raw.get("use_dora"))
    if is_dora and len(shape) != 2:
        raise CheckpointError(f"{path}: DoRA of {module}, a convolution, is not applied: {_MERGE}", path=path)
    if is_dora != (magnitude is not None):
        raise CheckpointError(
            f"{path} and {CONFIG} do not agree about DoRA in {module}: fetch the adapter again", path=path
        )
    if magnitude is not None:
        _check_shape(folder, f"lora_magnitude_vector of {module}", magnitude.shape, shape[:1], base)
    return LowRank(a, b, _scaling(folder, raw, module, rank), magnitude)


def _scaling(folder: Path, raw: dict[str, Any], module: str, rank: int) -> float:
    """What B A is multiplied by, with PEFT's rule for the patterns of module names."""
    path = folder / CONFIG
    patterns = raw.get("alpha_pattern") or {}
    alpha = raw.get("lora_alpha", 8)
    try:
        for pattern, own in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = own
                break
        scaling = float(alpha / sqrt(rank)) if raw.get("use_rslora") else float(alpha / rank)
    except (AttributeError, TypeError, re.error, RecursionError, OverflowError):
        raise CheckpointError(
            f"{path}: lora_alpha or alpha_pattern is damaged: fetch it again", path=path
        ) from None
    if not isfinite(scaling):
        raise CheckpointError(f"{path}: lora_alpha is {shown(alpha)}", path=path)
    return scaling


def _check_embeddings(
    folder: Path,
    config: ModelConfig,
    embeddings: tuple[str, ...],
    sums: Mapping[str, LowRank],
    replaced: Mapping[str, TensorInfo],
) -> bool:
    """Whether the adapter makes the head a matrix of its own. `CheckpointError` where one tensor with several names
    would be changed under one of them, in a way that PEFT's own merging does not follow."""
    if len(embeddings) == 1:
        return False
    shared = [name for name in embeddings if name in sums]
    if not config.language.may_untie_head:
        shared += [name for name in embeddings if name in replaced]
    if shared:
        raise CheckpointError(
            f"{folder} changes {shared[0]}, which this model shares between its embeddings and another "
            f"part: {_MERGE}",
            path=folder,
        )
    return any(name in replaced for name in embeddings)


def _check_shape(folder: Path, what: str, found: Shape, expected: Shape, base: str | None) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{folder / WEIGHTS}: {what} has the shape {list(found)}, and the model asks for {list(expected)}: "
            f"{_of_another(base)}",
            path=folder / WEIGHTS,
        )


def _foreign(folder: Path, key: str, base: str | None) -> CheckpointError:
    return CheckpointError(
        f"{folder / WEIGHTS} changes {plain(key)}, which this model does not have: {_of_another(base)}",
        path=folder / WEIGHTS,
    )


def _of_another(base: str | None) -> str:
    return "the adapter is another model's" + (f" (it names {plain(base)})" if base else "")
