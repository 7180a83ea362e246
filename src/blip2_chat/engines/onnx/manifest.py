"""`blip2-chat.json`: what a converted folder is, and whether its files are those that `convert` writes.

A folder may come from anywhere, and its manifest says how bytes become arrays and which files are opened. So
anything in it that `convert` could not have written is refused; `verify.py` does the same for the graphs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ...checkpoint.architecture import ARCHITECTURES, Architecture
from ...checkpoint.retrieval_config import AnyConfig
from ...checkpoint.safetensors_headers import is_safe_name
from ...errors import CheckpointError
from ...system.small_files import (
    COMPANIONS,
    MANIFEST,
    OWN_QFORMER_TOKENIZER,
    MissingFileError,
    read_json,
    shown,
)

# Raised when a folder of the previous format can no longer be loaded. Changed graphs do not need a new
# number: `verify.py` recognises graphs that this version would not write.
FORMAT = 2

EMBEDDINGS_FILE = "embeddings.bin"
Precision = Literal["fp32", "int8", "int4"]
PRECISIONS = get_args(Precision)
# numpy's names. Others could be unsafe: with "O", numpy takes the file's bytes for pointers.
_EMBEDDINGS = ("float32", "float16")
_OPTIONAL = ("schemes", "fidelity")
_MAPPED = ("float32", "uint8", "int8")


@dataclass(frozen=True)
class MappedTensor:
    """A weight that stays in its graph's data file while the graph is loaded."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Fidelity:
    """How closely a conversion follows its checkpoint in float32, on `tokens` next tokens about `pictures` pictures
    (see `fidelity.py`). For a retrieval model a "token" is whether a picture and a text match, and the vectors are
    its picture embeddings."""

    agreement: float  # share of the positions at which both have the same most probable next token
    divergence: (
        float  # mean Kullback-Leibler divergence of the next token's distribution from float32's, in nats
    )
    vector_error: float  # mean relative error of the query vectors (Frobenius norms)
    tokens: int
    pictures: int


@dataclass(frozen=True)
class Manifest:
    format: int
    source: dict[str, Any]  # name, revision, hashes: as the caller of `convert` passed them
    precision: str
    block_size: int
    family: str
    graphs: dict[str, tuple[MappedTensor, ...]]  # NAME.onnx, NAME.onnx.data; what of it is mapped
    embeddings_dtype: str | None  # of the language model's token embeddings; None: it has none
    sizes: dict[str, int]  # every other file of the folder, in bytes
    schemes: dict[str, Any] | None = None  # None: those of the precision
    fidelity: Fidelity | None = None  # None: not measured

    def to_dict(self) -> dict[str, Any]:
        written = asdict(self)
        for name in _OPTIONAL:
            if written[name] is None:
                del written[name]
        return written

    @classmethod
    def from_folder(cls, folder: Path) -> Manifest:
        """Reads and checks it, alone and against the files: `CheckpointError` when it is damaged, of another
        format, or says what `convert` does not write, and when a file is absent, cut short or elsewhere."""
        path = Path(folder) / MANIFEST
        try:
            raw = read_json(path)
        except MissingFileError:
            raise CheckpointError(
                f"{folder} has no {MANIFEST}: it is not a converted model", path=folder
            ) from None
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise CheckpointError(
                f"{folder} was converted for another version of blip2-chat (format {shown(raw['format'])}, this one "
                f"reads {FORMAT}): convert the checkpoint again",
                path=folder,
            )
        try:
            manifest = _read(raw)
        except _Unexpected as error:
            raise CheckpointError(
                f"{path} is damaged: {error}; convert the checkpoint again", path=path
            ) from None
        for name, size in manifest.sizes.items():
            _check_file(Path(folder), name, size)
        return manifest


@dataclass(frozen=True)
class Verified:
    """A converted folder all of whose files but the weights' values were checked, by `verify.verify`."""

    folder: Path
    manifest: Manifest
    config: AnyConfig


class _Unexpected(ValueError):
    """Something that `convert` does not write."""


def _require(is_so: bool, what: str, value: object) -> None:
    if not is_so:
        raise _Unexpected(f"{what} {shown(value)}")


def _read(raw: Any) -> Manifest:
    _require(isinstance(raw, dict), "it holds", raw)
    known = {field.name for field in fields(Manifest)}
    _require(raw.keys() <= known, "it has the keys", sorted(raw.keys() - known))
    missing = known - raw.keys() - set(_OPTIONAL)
    _require(not missing, "it lacks", sorted(missing))
    for name, kind in (("source", dict), ("graphs", dict), ("sizes", dict), ("block_size", int)):
        _require(type(raw[name]) is kind, f"{name} is", raw[name])
    _require(raw["precision"] in PRECISIONS, "precision is", raw["precision"])
    _require(isinstance(raw.get("schemes"), (dict, type(None))), "schemes is", raw.get("schemes"))
    family = raw["family"]
    _require(isinstance(family, str) and family in ARCHITECTURES, "family is", family)
    architecture = ARCHITECTURES[family]
    dtypes = _EMBEDDINGS if architecture.language is not None else (None,)
    _require(raw["embeddings_dtype"] in dtypes, "embeddings_dtype is", raw["embeddings_dtype"])
    _require(raw["graphs"].keys() == set(architecture.graphs), "graphs are", sorted(raw["graphs"]))
    for name, tensors in raw["graphs"].items():
        _require(isinstance(tensors, list), f"the tensors of {name} are", tensors)
    graphs = {name: tuple(map(_mapped, tensors)) for name, tensors in raw["graphs"].items()}
    _check_sizes(raw["sizes"], architecture)
    return Manifest(**{**raw, "graphs": graphs, "fidelity": _fidelity(raw.get("fidelity"))})


def _fidelity(raw: Any) -> Fidelity | None:
    if raw is None:
        return None
    names = {field.name for field in fields(Fidelity)}
    _require(isinstance(raw, dict) and raw.keys() == names, "fidelity is", raw)
    for name, value in raw.items():
        is_count = name in ("tokens", "pictures")
        is_number = type(value) is int if is_count else type(value) in (int, float)
        most = 2**53 if is_count else 1.0 if name == "agreement" else float("inf")
        # This form of the comparison refuses NaN, too.
        _require(is_number and 0 <= value <= most, f"its {name} is", value)
    return Fidelity(**raw)


def _mapped(raw: Any) -> MappedTensor:
    names = {field.name for field in fields(MappedTensor)}
    _require(isinstance(raw, dict) and raw.keys() == names, "a tensor is", raw)
    _require(isinstance(raw["name"], str), "a tensor's name is", raw["name"])
    _require(raw["dtype"] in _MAPPED, "a tensor's dtype is", raw["dtype"])
    _require(isinstance(raw["shape"], list), "a tensor's shape is", raw["shape"])
    for number in (*raw["shape"], raw["offset"]):
        _require(type(number) is int and 0 <= number < 2**63, "a tensor's shape or offset has", number)
    return MappedTensor(**{**raw, "shape": tuple(raw["shape"])})


def _check_sizes(sizes: dict[str, Any], architecture: Architecture) -> None:
    weights = {f"{name}.onnx{end}" for name in architecture.graphs for end in ("", ".data")}
    has_language_model = architecture.language is not None
    if has_language_model:
        weights.add(EMBEDDINGS_FILE)
    has_vocabulary = not has_language_model and "vocab.txt" in sizes
    tokenizers = {"vocab.txt" if has_vocabulary else "tokenizer.json"}
    if architecture.reads_instruction:
        tokenizers.add(OWN_QFORMER_TOKENIZER)
    missing = {*weights, "config.json", *tokenizers} - sizes.keys()
    _require(not missing, "sizes lacks", sorted(missing))
    for name, size in sizes.items():
        _require(is_safe_name(name) and name in weights.union(COMPANIONS), "it names the file", name)
        _require(type(size) is int and size >= 0, f"the size of {name} is", size)


def _check_file(folder: Path, name: str, size: int) -> None:
    file = folder / name
    if not file.is_file() or file.stat().st_size != size:
        raise CheckpointError(
            f"{file} is missing or not {shown(size)} bytes long: convert the checkpoint again", path=file
        )
    target = file.resolve()
    # The hub's cache holds a repository's files in one folder, and snapshots of links into it.
    own = {folder.resolve(), folder.resolve().parent.parent / "blobs"}
    if file.is_symlink() and target.parent not in own:
        raise CheckpointError(
            f"{file} is a link to a file elsewhere: refused; convert the checkpoint again", path=file
        )
