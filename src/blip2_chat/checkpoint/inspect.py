"""A name -> a local folder that is complete and safe.

`find` brings a folder: the embedded model, a directory, or a name on the hub. `inspect` looks it over without
reading any weight: files that are missing, truncated, of the wrong shape or pickles are reported in one line,
before anything heavy happens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal

from typing_extensions import TypeIs, TypeVar

from ..errors import CheckpointError, Parameter
from ..system.shell import python_command
from ..system.small_files import (
    COMPANIONS,
    MANIFEST,
    MOST_TOKENIZER_BYTES,
    OWN_QFORMER_TOKENIZER,
    QFORMER_TOKENIZER,
    plain,
    read_json,
    shown,
)
from .adapters import Adapter, alone, check_files, has_adapter, not_applied, read_adapter
from .catalogue import KNOWN, KnownCheckpoint, suggest
from .config import ModelConfig
from .embedded import EMBEDDED, embedded_folder, is_embedded
from .hub import Downloaded, download, download_adapter, is_hub_name
from .retrieval_config import AnyConfig, RetrievalConfig, read_config
from .safetensors_headers import FLOATS, TensorInfo, is_safe_name, read_tensors, weight_files
from .tensor_names import HEAD, Part, aliases, count_parameters, expected_tensors, is_unused

__all__ = [
    "EMBEDDED",
    "KNOWN",
    "AnyCheckpoint",
    "Checkpoint",
    "KnownCheckpoint",
    "TensorInfo",
    "expected_tensors",
    "find",
    "find_adapter",
    "inspect",
    "inspect_any",
    "inspect_retriever",
    "is_chat",
    "is_retrieval",
]

_Config = TypeVar("_Config", bound=AnyConfig, default=ModelConfig, covariant=True)


@dataclass(frozen=True)
class Checkpoint(Generic[_Config]):
    """A folder that passed `inspect` or `inspect_retriever`; the type of `config` tells which kind of model it
    is."""

    folder: Path
    config: _Config
    kind: Literal["official", "converted"]
    # Numbers per part; one that has several names counts once.
    parameters: dict[Part, int]
    # By name, those we do not use included; empty for a converted folder, whose weights are in its graphs.
    tensors: dict[str, TensorInfo] = field(default_factory=dict, repr=False)
    # The folder with tokenizer and picture settings, if another checkpoint's are used.
    processor: Path | None = None
    # Merged with the tensors as they are read.
    adapter: Adapter | None = None

    def companion(self, name: str) -> Path:
        """The path of the small file of that name, which need not exist."""
        if name == OWN_QFORMER_TOKENIZER and self.kind == "official":
            name = QFORMER_TOKENIZER
        if self.processor is None or name in ("config.json", "generation_config.json"):
            return self.folder / name
        return self.processor / name

    @property
    def tied_head(self) -> bool:
        """Whether the language model's head is its token embeddings, which depends on the weights."""
        if self.adapter is not None and self.adapter.unties_head:
            return False
        return HEAD not in self.tensors or self.stored_name(aliases(self.config)[0]) == HEAD

    def stored_name(self, name: str) -> str:
        """The name under which the files hold what the layout calls `name`: one tensor may have several."""
        names = aliases(self.config)
        if name in names and name not in self.tensors:
            return next((alias for alias in names if alias in self.tensors), name)
        return name

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The safetensors files, sorted; for hashing and for reading them in order."""
        return tuple(sorted({info.file for info in self.tensors.values()}))


AnyCheckpoint = Checkpoint[AnyConfig]


def is_chat(checkpoint: AnyCheckpoint) -> TypeIs[Checkpoint]:
    """Whether it is a chat model's, and not a retrieval model's."""
    return isinstance(checkpoint.config, ModelConfig)


def is_retrieval(checkpoint: AnyCheckpoint) -> TypeIs[Checkpoint[RetrievalConfig]]:
    """Whether it is a retrieval model's, and not a chat model's."""
    return isinstance(checkpoint.config, RetrievalConfig)


def find(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    on_progress: Downloaded | None = None,
    weights: bool = True,
) -> Path:
    """The local folder of a model: `demo` or `demo-retrieval` (inside the package), a directory, or `org/name` on the
    hub.

    A hub name may lead to a folder of its repository (`org/name/folder`), and carry its revision
    (`org/name@refs/pr/3`, a branch, tag or commit). Without `weights`, only the small files are fetched. The hub's
    cache, tokens (`token`, HF_TOKEN, `hf auth login`) and HF_HUB_OFFLINE work as everywhere; without a network the
    cached copy is used. A directory goes before a hub name; `./demo` is the directory of that name.
    `on_progress(bytes so far, bytes in all)` is called during a download, from its threads.

    The folder is not looked into (`inspect` does), except that the hub's small files are checked before its
    large ones are fetched. Raises `CheckpointError`.
    """
    name = str(name_or_path)
    if is_embedded(name):
        return embedded_folder(name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; name the folder that holds it", path=path)
    hub_name, _, at = name.partition("@")
    if isinstance(name_or_path, str) and is_hub_name(hub_name):
        try:
            return download(hub_name, revision or at or None, token, on_progress, weights=weights)
        except CheckpointError as error:
            if hub_name.count("/") == 1:
                raise
            # It may as well be a mistyped path.
            raise CheckpointError(f"there is no folder {hub_name} here, and on the hub: {error}") from error
    if path.is_absolute() or name.startswith((".", "~")) or isinstance(name_or_path, Path):
        raise CheckpointError(f"there is no folder {path}", path=path)
    raise CheckpointError(f"{name!r} is neither a folder nor a hub name (org/name); {suggest(name)}")


def find_adapter(
    name_or_path: str | Path, *, token: str | None = None, on_progress: Downloaded | None = None
) -> Path:
    """The local folder of a LoRA adapter: a directory, or a name on the hub, as for `find`.

    Of a repository only the adapter's two files are fetched. Raises `CheckpointError`.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if name and path.is_dir():
        check_files(path)
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; name the adapter's folder", path=path)
    hub_name, _, revision = name.partition("@")
    if isinstance(name_or_path, str) and is_hub_name(hub_name):
        return download_adapter(hub_name, revision or None, token, on_progress)
    raise CheckpointError(f"the adapter {name!r} is neither a folder nor a hub name (org/name)")


def inspect(
    folder: str | Path, processor: str | Path | None = None, adapter: str | Path | None = None
) -> Checkpoint:
    """Looks the folder of a chat model over; `CheckpointError`, in one line with the way out, when it is not complete
    and safe.

    `processor` is the folder whose tokenizer and picture settings are used in place of its own, which it may lack;
    `adapter` that of a LoRA adapter, which is checked against the model and merged as its tensors are read.
    Of the safetensors only the headers are read, so it takes milliseconds for checkpoints of any size.
    """
    return _inspect(Path(folder), ModelConfig.from_folder, processor, adapter)


def inspect_retriever(folder: str | Path, processor: str | Path | None = None) -> Checkpoint[RetrievalConfig]:
    """`inspect` for a model that matches pictures with texts."""
    return _inspect(Path(folder), RetrievalConfig.from_folder, processor)


def inspect_any(
    folder: str | Path, processor: str | Path | None = None, adapter: str | Path | None = None
) -> AnyCheckpoint:
    """`inspect` for either; an adapter is a chat model's."""
    return _inspect(
        Path(folder), read_config if adapter is None else ModelConfig.from_folder, processor, adapter
    )


def _inspect(
    folder: Path,
    read: Callable[[Path], _Config],
    processor: str | Path | None,
    adapter: str | Path | None = None,
) -> Checkpoint[_Config]:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", path=folder)
    is_adapted = has_adapter(folder)
    if is_adapted and not ((folder / "config.json").exists() and weight_files(folder)):
        raise alone(folder, str(folder))
    config = read(folder)
    if (folder / MANIFEST).exists():
        _check_converted(folder)
        if adapter is not None:
            raise CheckpointError(
                f"{folder} is converted, and an adapter is merged before that; give ",
                Parameter("adapter"),
                " with the original checkpoint",
                path=folder,
            )
        if processor is not None:
            raise CheckpointError(
                f"{folder} is converted, with the processor it was converted with; leave processor out, or give it "
                "with the original checkpoint",
                path=folder,
            )
        return Checkpoint(folder, config, "converted", count_parameters(config))
    processor = None if processor is None else Path(processor)
    _check_companions(folder, config, processor)
    tensors = read_tensors(folder)
    if is_adapted and adapter is None:
        warnings.warn(not_applied(folder), stacklevel=2)
    language = config.architecture.language
    tied_head = HEAD not in tensors if language is not None and language.weights_tell_tied_head else None
    _check_tensors(folder, config, tied_head, tensors)
    merged = None
    if adapter is not None and isinstance(config, ModelConfig):
        merged = read_adapter(Path(adapter), config, tied_head)
    if merged is not None and merged.unties_head:
        tied_head = False
    parameters = count_parameters(config, tied_head)
    return Checkpoint(folder, config, "official", parameters, tensors, processor, merged)


def _check_converted(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST)
    sizes = manifest.get("sizes") if isinstance(manifest, dict) else None
    if not isinstance(sizes, dict) or not sizes:
        raise CheckpointError(
            f"{folder / MANIFEST} lists no files: it is damaged; convert the checkpoint again",
            path=folder / MANIFEST,
        )
    for name, size in sizes.items():
        if not is_safe_name(name):
            raise CheckpointError(
                f"{folder / MANIFEST} names {shown(name)}, which is not a file of this folder: refused",
                path=folder / MANIFEST,
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks {name}: the conversion is incomplete; convert the checkpoint again",
                path=folder,
            )
        if (folder / name).stat().st_size != size:
            raise CheckpointError(
                f"{folder / name} is not {shown(size)} bytes long: it is damaged; convert the checkpoint again",
                path=folder / name,
            )


def _check_companions(folder: Path, config: AnyConfig, processor: Path | None) -> None:
    """The tokenizer and the picture's settings; those that are there can be read, and hashed, in a moment."""
    for path in (
        place / name for place in {folder, processor or folder} for name in (*COMPANIONS, QFORMER_TOKENIZER)
    ):
        if path.exists() and not path.is_file():
            raise CheckpointError(
                f"{path} is not a regular file; put the checkpoint's own in its place", path=path
            )
        if path.exists() and path.stat().st_size > MOST_TOKENIZER_BYTES:
            raise CheckpointError(
                f"{path} is larger than any such file of a checkpoint; fetch it again", path=path
            )
    has_language_model = config.text is not None
    elsewhere: list[str | Parameter] = [
        ", or take that of another checkpoint with ",
        Parameter("processor", config.architecture.example),
    ]
    if processor is not None:
        folder, elsewhere = processor, []
    # Of a BERT tokenizer the vocabulary is enough (`wordpiece.py`).
    if not (folder / "tokenizer.json").is_file() and (
        has_language_model or not (folder / "vocab.txt").is_file()
    ):
        if any((folder / name).is_file() for name in ("vocab.json", "spiece.model", "tokenizer.model")):
            code = (
                "import sys; from transformers import AutoTokenizer as T; "
                "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
            )
            raise CheckpointError(
                f"{folder} has no tokenizer.json, only an older tokenizer's files; make it with transformers "
                f"installed: {python_command(code, folder.as_posix())}",
                path=folder,
            )
        raise CheckpointError(
            f"{folder} lacks {'tokenizer.json' if has_language_model else 'vocab.txt'}; copy it from where the "
            "checkpoint came from",
            *elsewhere,
            path=folder,
        )
    if config.reads_instruction and not (folder / QFORMER_TOKENIZER).is_file():
        raise CheckpointError(
            f"{folder} lacks {QFORMER_TOKENIZER}, with which the Q-Former reads instructions; copy it from where the "
            "checkpoint came from",
            *elsewhere,
            path=folder,
        )
    if not _has_picture_settings(folder):
        raise CheckpointError(
            f"{folder} lacks preprocessor_config.json; copy it from where the checkpoint came from",
            *elsewhere,
            path=folder,
        )


def _has_picture_settings(folder: Path) -> bool:
    if (folder / "preprocessor_config.json").is_file():
        return True
    # Transformers 5 writes them into processor_config.json instead.
    merged = folder / "processor_config.json"
    settings: Any = read_json(merged) if merged.exists() else None
    return isinstance(settings, dict) and isinstance(settings.get("image_processor"), dict)


def _check_tensors(
    folder: Path, config: AnyConfig, tied_head: bool | None, tensors: dict[str, TensorInfo]
) -> None:
    """`CheckpointError` naming what is missing, quantised, misshapen, or belongs to something else."""
    expected = expected_tensors(config)
    embeddings = aliases(config, tied_head)
    missing = [name for name in expected if name not in tensors and name not in embeddings]
    if embeddings and not any(name in tensors for name in embeddings):
        missing.append(embeddings[0])
    if missing:
        more = f" and {len(missing) - 1} more of {len(expected)}" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{folder}: the weights lack {missing[0]}{more}, which its config.json asks for", path=folder
        )
    for name, shape in expected.items():
        info = tensors.get(name)
        if info is None:
            continue
        # Before the shape, which packing changes: this is the error that says why.
        if info.dtype not in FLOATS:
            raise CheckpointError(
                f"{folder}: {name} is stored as {plain(str(info.dtype))}, already quantised; use the original "
                "checkpoint (precision= quantises it here)",
                path=folder,
            )
        if info.shape != shape:
            raise CheckpointError(
                f"{folder / info.file}: {name} has the shape {list(info.shape)}, "
                f"and config.json asks for {list(shape)}",
                path=folder / info.file,
            )
    foreign = sorted(name for name in tensors.keys() - expected.keys() if not is_unused(name, config))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CheckpointError(
            f"{folder / tensors[foreign[0]].file} holds {plain(foreign[0])}{more}, which no model of this kind has: "
            "the files are those of another model",
            path=folder / tensors[foreign[0]].file,
        )
