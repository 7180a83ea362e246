"""A name on the hub -> a local folder, through huggingface_hub and its cache.

Small files come first: a repository that is no BLIP-2 model, or holds only pickles, is refused before
gigabytes are fetched. Pickles are never fetched at all.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..system.small_files import QFORMER_TOKENIZER
from .adapters import CONFIG, FILES, WEIGHTS, alone, has_adapter, without_weights
from .catalogue import suggest
from .retrieval_config import read_config
from .safetensors_headers import SINGLE, is_pickle, unindexed, weight_files

# on_progress(bytes so far, bytes in all); the second grows while sizes become known.
Downloaded = Callable[[int, int], None]

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)((?:/[A-Za-z0-9_][\w.-]*)*)")
_SMALL_FILES = ["*.json", "merges.txt", "vocab.txt", "*.model", QFORMER_TOKENIZER]
# Every folder but the Q-Former's tokenizer, as nearly as patterns can say it.
_FOLDERS = ["[!q]*/*", "q[!f]*/*"]


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form `org/name`, or `org/name/folder`."""
    return _NAME.fullmatch(name) is not None


def download(
    name: str,
    revision: str | None = None,
    token: str | None = None,
    on_progress: Downloaded | None = None,
    weights: bool = True,
) -> Path:
    """The snapshot folder of `org/name`, or the folder in it of `org/name/folder`, from the cache or the hub.

    Other folders are not downloaded: repositories have exports for other programs in them. Without `weights`,
    only the small files are downloaded, and not checked for being a BLIP-2 model's. Without a network, and with
    HF_HUB_OFFLINE, it is the cached one. With `on_progress`, no progress bar is drawn. Raises `CheckpointError`,
    one line: not found, not permitted, not reachable, disk full, not BLIP-2, only pickles.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, inside = _parts(name)
    ignored = [inside + folder for folder in _FOLDERS]
    where: dict[str, Any] = {"repo_id": repository, "token": token, "ignore_patterns": ignored}
    with _one_line_errors(repository, revision):
        small = [inside + pattern for pattern in _SMALL_FILES]
        snapshot = Path(
            snapshot_download(**where, revision=revision, allow_patterns=small, tqdm_class=_bar_class(None))
        )
    folder = snapshot / inside
    if not folder.is_dir():
        raise CheckpointError(f"{repository} has no folder {inside[:-1]} with the files of a model")
    if not weights:
        return folder
    if has_adapter(folder) and not (folder / "config.json").exists():
        raise alone(folder, name)
    try:
        read_config(folder)
        wanted = weight_files(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    missing = [file for file in wanted if not (folder / file).is_file()]
    if wanted and not missing:
        return folder
    commit = snapshot.name  # what `revision` meant a moment ago, so that all files are of one version
    with _one_line_errors(repository, revision):
        info = HfApi(token=token).model_info(repository, revision=commit, files_metadata=True)
    sizes = {
        file.rfilename[len(inside) :]: file.size or 0
        for file in info.siblings or []
        if file.rfilename.startswith(inside) and "/" not in file.rfilename[len(inside) :]
    }
    if not wanted:
        missing = [SINGLE] if SINGLE in sizes else unindexed(sizes) or [SINGLE]
    _check_offered(name, revision, missing, sizes)
    _check_disk(name, snapshot, sum(sizes[file] for file in missing))
    with _one_line_errors(repository, revision):
        bars = _bar_class(on_progress) if on_progress else None
        files = [inside + file for file in missing]
        snapshot_download(**where, revision=commit, allow_patterns=files, tqdm_class=bars)
    for file in missing:
        if not (folder / file).is_file():
            raise CheckpointError(
                f"{name}: {file} did not arrive; try again, the download resumes where it stopped"
            )
    return folder


def download_adapter(
    name: str, revision: str | None = None, token: str | None = None, on_progress: Downloaded | None = None
) -> Path:
    """The folder of a LoRA adapter `org/name` or `org/name/folder`, from the cache or the hub: its two files alone.

    Raises `CheckpointError` as `download` does, and when it has no safetensors.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, inside = _parts(name)
    where: dict[str, Any] = {"repo_id": repository, "token": token}
    with _one_line_errors(repository, revision):
        snapshot = Path(
            snapshot_download(
                **where, revision=revision, allow_patterns=[inside + CONFIG], tqdm_class=_bar_class(None)
            )
        )
    folder = snapshot / inside
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{name} is not a PEFT adapter: it has no {CONFIG}")
    if (folder / WEIGHTS).is_file():
        return folder
    commit = snapshot.name
    with _one_line_errors(repository, revision):
        siblings = HfApi(token=token).model_info(repository, revision=commit).siblings or []
    files = [one.rfilename[len(inside) :] for one in siblings if one.rfilename.startswith(inside)]
    if WEIGHTS not in files:
        raise without_weights(name, files)
    with _one_line_errors(repository, revision):
        bars = _bar_class(on_progress) if on_progress else None
        wanted = [inside + file for file in FILES]
        snapshot_download(**where, revision=commit, allow_patterns=wanted, tqdm_class=bars)
    return folder


def _parts(name: str) -> tuple[str, str]:
    """`org/name/folder` -> ("org/name", "folder/"); without a folder the second is empty."""
    found = _NAME.fullmatch(name)
    assert found is not None
    return found[1], found[2][1:] + "/" if found[2] else ""


def _check_offered(name: str, revision: str | None, missing: list[str], sizes: dict[str, int]) -> None:
    absent = [file for file in missing if file not in sizes]
    if not absent:
        return
    if any(is_pickle(file) for file in sizes) and not any(file.endswith(".safetensors") for file in sizes):
        raise CheckpointError(
            f"{name} at revision {revision or 'main'} has its weights only as pickles (.bin), which can run "
            f"code when loaded; name a revision with safetensors, such as {name}@refs/pr/NUMBER "
            "(pull requests titled 'Adding safetensors' are on the model's page, under Community)"
        )
    raise CheckpointError(f"{name} at revision {revision or 'main'} is incomplete: it has no {absent[0]}")


def _check_disk(name: str, folder: Path, size: int) -> None:
    """Refuses before the download what would fill the disk; what a broken one left counts as there."""
    partial = (folder.parents[1] / "blobs").glob("*.incomplete")
    size -= sum(file.stat().st_size for file in partial)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _disk_full(name, f"{size / 1e9:.1f} GB are missing and {free / 1e9:.1f} GB are free")


def _disk_full(name: str, detail: str) -> CheckpointError:
    from huggingface_hub import constants

    return CheckpointError(
        f"the disk is too full for {name}: {detail} at {constants.HF_HUB_CACHE}; "
        "free some space (`hf cache ls` shows what is cached), or set HF_HOME to a folder on a larger disk"
    )


@contextlib.contextmanager
def _one_line_errors(name: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Broad on purpose: failures of the network surface as the exceptions of whichever HTTP library
        # the installed huggingface_hub is built on, and all of them mean "not downloaded".
        raise _explain(error, name, revision) from error


def _explain(error: Exception, name: str, revision: str | None) -> CheckpointError:
    from huggingface_hub import constants, errors

    login = "`hf auth login` once, set HF_TOKEN, or pass token="
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then run {login}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"the hub has no model {name} that you may see; {suggest(name)} If it is private, run {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{name} has no revision {revision!r}; leave it out for the latest")
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(f"{name!r} is not a hub name: {_first_line(error)}")
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return _unreachable(error, name)
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "os error 28" in str(error):  # the second is how hf_xet, which is not Python, says it
        return _disk_full(name, "no space is left")
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return CheckpointError(f"the hub does not let your token read {name}; for another one, run {login}")
    detail = f"{type(error).__name__}: {_first_line(error)}"
    return CheckpointError(
        f"{name} could not be downloaded from {constants.ENDPOINT} ({detail}); "
        "try again, the download resumes where it stopped"
    )


def _unreachable(error: Exception, name: str) -> CheckpointError:
    """Neither the hub nor the cache has it: says which of the two was tried, and how."""
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled) or isinstance(cause, errors.OfflineModeIsEnabled):
        tried = "HF_HUB_OFFLINE is set"
        way_out = "unset HF_HUB_OFFLINE once to download it"
    else:
        reason = f" ({type(cause).__name__}: {_first_line(cause)})" if cause else ""
        tried = f"{constants.ENDPOINT} cannot be reached{reason}"
        way_out = "connect once to download it"
    # By name: older clients do not have it, and there the missing files themselves tell, a moment later.
    is_partial = type(error).__name__ == "IncompleteSnapshotError" or isinstance(
        error, errors.OfflineModeIsEnabled
    )
    state = "only partly in the cache" if is_partial else "not in the cache"
    return CheckpointError(
        f"{name} is {state} ({constants.HF_HUB_CACHE}) and {tried}; {way_out}, "
        "or name a local folder that holds the checkpoint"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no details")


def _bar_class(on_progress: Downloaded | None) -> Any:
    """A tqdm class that draws nothing and tells `on_progress` instead."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # comes with huggingface_hub

    bars: list[Any] = []

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own keyword
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})
            if kwargs.get("unit") == "B":
                bars.append(self)

        def display(self, *_: Any, **__: Any) -> None:
            return None

        def update(self, n: float | None = 1) -> Any:
            drawn = super().update(n)
            if on_progress and bars:
                # Newer clients count bytes received and bytes written in two bars; the larger is reported.
                on_progress(max(int(bar.n) for bar in bars), max(int(bar.total or 0) for bar in bars))
            return drawn

    return Silent
