"""What a run reads and where it writes, checked before anything is done."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Parameter
from ..images import PictureLimits
from ..images.naming import one_line
from ..system.paths import cache_folder
from .captioner import Tasks
from .errors import RunError
from .inputs.shards import SHARD_SUFFIXES
from .inputs.sources import Source, check
from .inputs.tables import Columns
from .inputs.zips import ZIP_SUFFIXES
from .outputs.metadata import Metadata
from .outputs.outcome import is_metadata
from .outputs.sidecar import Sidecar
from .outputs.writers import ending
from .storage import is_remote, parent, reason, scheme


@dataclass(frozen=True)
class RunOptions:
    """What to read, what to write, and where.

    out: ends in .parquet, .jsonl, .csv or .tar (WebDataset), and may be a remote URL. sidecar: a text file
        beside each picture. metadata: in each picture's metadata. At least one of the three.
    progress: the journal's path; by default beside what is written.
    with_pictures: put the pictures themselves into a .tar, too.
    exclude: patterns of files and folders to skip.
    fresh: discard the progress of an earlier run. retry_failed: try pictures again that could not be opened.
    limits: as the model's, for pictures that are read once more to be put into a .tar.
    """

    sources: tuple[Source, ...]
    tasks: Tasks = field(default_factory=Tasks)
    out: str | None = None
    sidecar: Sidecar | None = None
    metadata: Metadata | None = None
    columns: Columns = field(default_factory=Columns)
    exclude: tuple[str, ...] = ()
    with_pictures: bool = False
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    progress: Path | None = None
    fresh: bool = False
    retry_failed: bool = False
    limits: PictureLimits = field(default_factory=PictureLimits)


def check_options(options: RunOptions) -> None:
    """Raises `RunError` for options that contradict each other, and for places that cannot be read or written."""
    if options.out is None and options.sidecar is None and options.metadata is None:
        raise RunError(
            "there is nowhere to write: give ",
            Parameter("out"),
            " (a .parquet, .jsonl, .csv or .tar file), ",
            Parameter("sidecar"),
            " or ",
            Parameter("write", "xmp"),
        )
    if options.out is not None:
        if options.with_pictures and ending(options.out) != ".tar":
            raise RunError(Parameter("with_pictures"), " needs a .tar file; other files hold no pictures")
        ending(options.out)
    check(options.sources, options.columns, options.exclude)
    _require_not_read(options)
    _require_in_folder(options)
    _require_writable(progress_path(options).parent)
    if options.out is not None and not is_remote(options.out):
        _require_writable(Path(options.out).absolute().parent)


def progress_path(options: RunOptions) -> Path:
    """The path of the journal: as given, next to the output, or in the folder of pictures that get sidecar
    files."""
    if options.progress is not None:
        return options.progress.absolute()
    if options.out is not None and not is_remote(options.out):
        return Path(f"{options.out}.progress").absolute()
    if options.out is not None:
        name = hashlib.sha256(options.out.encode()).hexdigest()[:16]
        folder = cache_folder() / "runs"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be made ({reason(error)}); give ", Parameter("progress")
            ) from error
        return folder / f"{name}.progress"
    first = options.sources[0]
    address = os.path.expanduser(os.fspath(first)) if isinstance(first, str | os.PathLike) else ""
    if os.path.isdir(address):
        return Path(address).absolute() / ".blip2-chat.progress"
    if address and not scheme(address) and os.path.isdir(parent(address)):
        return Path(parent(address)).absolute() / f".{os.path.basename(address)}.progress".replace("*", "all")
    return Path("blip2-chat.progress").absolute()


def _require_not_read(options: RunOptions) -> None:
    if options.out is None:
        return
    for source in options.sources:
        if isinstance(source, str | os.PathLike) and absolute(source) == absolute(options.out):
            raise RunError(
                f"{one_line(options.out)} is one of the inputs and would be overwritten; choose another ",
                Parameter("out"),
            )


def _require_in_folder(options: RunOptions) -> None:
    """Checks the sources for `metadata.jsonl`, which names pictures by their path relative to its folder."""
    if options.out is None or not is_metadata(options.out):
        return
    folder = os.path.abspath(parent(options.out))
    for source in options.sources:
        address = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
        is_inside = os.path.abspath(os.path.expanduser(address)).startswith(os.path.join(folder, ""))
        is_same = os.path.abspath(os.path.expanduser(address)) == folder
        if not address or scheme(address) or not (is_inside or is_same):
            raise RunError(
                f"{one_line(options.out)} is for pictures in its own folder, which `datasets` reads with it; "
                "put it into the folder of the pictures, or give another name as ",
                Parameter("out"),
            )
        if address.lower().endswith((*SHARD_SUFFIXES, *ZIP_SUFFIXES)):
            raise RunError(
                f"{one_line(options.out)} is for pictures that are files, and those in {one_line(address)} are not; "
                "give another name"
            )


def _require_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; make it, or give another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"{folder} is not writable for you; give another place")


def absolute(source: Source) -> str:
    """An absolute source, so that it is the same from any working directory."""
    if not isinstance(source, str | os.PathLike):
        return type(source).__name__
    address = os.fspath(source)
    return address if scheme(address) else os.path.abspath(os.path.expanduser(address))
