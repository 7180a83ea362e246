"""A run on several machines: Ray Data reads and decodes pictures, and a pool of actors holds one model each.

    parts of the collection -> tasks that list, read, decode -> actors that encode and write -> this process

Only this process keeps the journal and writes the output, so resuming, order and durability are the same as for
a run on one machine. If an actor or machine dies, Ray repeats its batches elsewhere, and the journal stores no
picture twice.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Blip2ChatError, MissingExtraError
from ..images import PictureLimits, Preprocess
from ..images.naming import one_line
from ..images.sidecar_names import SidecarNames
from ..system import ray_cluster
from .captioner import Captioner, Tasks
from .errors import RunError
from .inputs.pictures import Opener
from .items import Head, Item, Part, is_same, packed, stamped, unpacked
from .options import RunOptions
from .outputs.sidecar import Sidecar, is_left_alone
from .result import Result, Written
from .run import Run, parts

# Pictures per reading task: few, so that a lost task costs little, but enough to be worth a task.
_CHUNK = 64
# Decoded pictures per block that is sent to an actor.
_BLOCK = 16
_BATCH = 16


@dataclass(frozen=True)
class RayPlan:
    """address: "local" for Ray on this machine, "auto" for the cluster this machine is part of, or HOST:PORT.
    actors: number of models (None: as many as the cluster holds). cpus, gpus: for each of them.
    loading: `load`'s arguments, for each actor."""

    address: str
    actors: int | None
    cpus: float
    gpus: float
    loading: dict[str, Any]
    options: RunOptions


def ray_batches(run: Run, plan: RayPlan) -> Iterator[list[tuple[str, Result]]]:
    """Yields batches of new results as actors finish them, and adds all pictures to the run's order. Raises
    `RunError`."""
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _start(ray, plan.address)
    try:
        table: Any
        for table in _pipeline(ray, run, plan).iter_batches(batch_size=None, batch_format="pyarrow"):
            batch = _new(run, table.to_pylist())
            if batch:
                yield batch
            if run.stopping:
                return
    except Blip2ChatError:
        raise
    except Exception as error:  # Ray wraps exceptions of workers in one of its many classes
        raise _told(error) from error
    finally:
        if is_ours:
            ray.shutdown()


def _ray() -> Any:
    what = "a run on a Ray cluster"
    ray = ray_cluster.imported(what)
    try:
        import pyarrow  # noqa: F401 - Ray Data imports it late, with a worse message
        from ray import data  # noqa: F401
    except ImportError:
        raise MissingExtraError(what, "ray") from None
    return ray


def _start(ray: Any, address: str) -> None:
    try:
        ray_cluster.connect(ray, address)
    except ray_cluster.ClusterError as error:
        raise RunError(*error.message) from error


def _pipeline(ray: Any, run: Run, plan: RayPlan) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_rich_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options = plan.options
    pieces = [
        {"number": number, "part": pickle.dumps(part)}
        for number, part in enumerate(_limited(parts(options, _CHUNK, run.passed_over), options.limit))
    ]
    # One copy per machine, whatever the number of tasks.
    done = ray.put(run.journal.stamps())
    actors = plan.actors or _actors(ray, plan)
    preprocess = _preprocess(plan)
    read = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
        _read,
        batch_size=1,
        batch_format="numpy",
        num_cpus=0.5,
        fn_kwargs={
            "done": [done],
            "preprocess": preprocess,
            "limits": plan.loading.get("limits") or PictureLimits(),
            "sidecar": options.sidecar if options.out is None and options.metadata is None else None,
        },
    )
    return read.map_batches(
        _Actor,
        batch_size=options.batch_size or _BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
        fn_constructor_kwargs={
            "loading": ray_cluster.loading_of_one(plan.loading, plan.cpus),
            "tasks": options.tasks,
        },
    )


def _limited(parts: Iterator[Part], limit: int | None) -> Iterator[Part]:
    """The parts that hold the first `limit` pictures."""
    for part in parts:
        if limit is None:
            yield part
            continue
        if limit <= 0:
            return
        size = part.count()
        yield part if size <= limit else Head(part, limit)
        limit -= size


def _actors(ray: Any, plan: RayPlan) -> int:
    """As many models as the cluster holds, with a core left for reading pictures."""
    return max(1, ray_cluster.models_that_fit(ray, plan.cpus, plan.gpus, spared=1))


def _preprocess(plan: RayPlan) -> Preprocess:
    """How pictures are preprocessed, from the checkpoint's small files, without its weights."""
    from ..checkpoint.inspect import find

    if plan.loading.get("processor"):
        return Preprocess.from_folder(find(plan.loading["processor"], weights=False))
    return Preprocess.from_folder(find(plan.loading["name_or_path"], revision=plan.loading.get("revision")))


def _read(
    batch: dict[str, Any],
    done: list[Any],
    preprocess: Preprocess,
    limits: PictureLimits,
    sidecar: Sidecar | None,
) -> Iterator[Any]:
    """The decoded pictures of a part, in small tables. Pictures that are done, or whose sidecar file is kept,
    are passed on without pixels."""
    import ray

    known = ray.get(done[0])
    opener = Opener(preprocess, limits)
    number, part = int(batch["number"][0]), pickle.loads(batch["part"][0])
    names = SidecarNames(sidecar.ending) if sidecar else None
    rows = []
    for place, item in enumerate(map(stamped, part.items())):
        row = {"key": item.key, "path": item.path, "part": number, "place": place}
        row.update(file=packed(item.file), stamp=item.stamp)
        is_done = item.key in known and is_same(known[item.key], item.stamp)
        if sidecar and names and item.key not in known:
            is_done = is_left_alone(sidecar, names, item)
        if is_done:
            rows.append({**row, "done": True})
        else:
            opened = opener(item)
            rows.append(
                {
                    **row,
                    "done": False,
                    **opened.about(),
                    "pixels": None if opened.picture is None else opened.picture.pixels.tobytes(),
                }
            )
        if len(rows) == _BLOCK:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    fields = [(name, pa.string()) for name in ("key", "path", "stamp", "error", "digest")]
    fields += [(name, pa.int64()) for name in ("part", "place", "width", "height")]
    fields.append(("advice", pa.list_(pa.string())))
    schema = pa.schema([*fields, ("done", pa.bool_()), ("pixels", pa.binary()), ("file", pa.binary())])
    return pa.Table.from_pylist(rows, schema)


class _Actor:
    """An actor with one model, which turns decoded pictures into results for the whole run."""

    def __init__(self, loading: dict[str, Any], tasks: Tasks) -> None:
        from ..loading import load

        self._captioner = Captioner(load(**loading), tasks)

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        started = time.perf_counter()
        rows = table.to_pylist()
        pixels = {row["digest"]: row["pixels"] for row in rows if row["pixels"] is not None}
        written = dict(zip(pixels, self._write(pixels), strict=True))
        seconds = round((time.perf_counter() - started) / max(len(pixels), 1), 4)
        results = [
            None if row["done"] else self._result(row, written.get(row["digest"]), seconds) for row in rows
        ]
        kept = table.drop_columns(["pixels", "error", "digest", "width", "height", "advice", "done"])
        return kept.append_column("result", pa.array(results, pa.string()))

    def _write(self, pixels: dict[str, bytes]) -> list[Written]:
        if not pixels:
            return []
        height, width = self._captioner.model.preprocess.size
        vectors = [
            self._captioner.encode(np.frombuffer(one, np.float32).reshape(1, 3, height, width))
            for one in pixels.values()
        ]
        return self._captioner.write(np.concatenate(vectors), list(pixels))

    def _result(self, row: dict[str, Any], written: Written | None, seconds: float) -> str:
        about = {name: row[name] for name in ("path", "error", "width", "height", "digest")}
        result = self._captioner.result(**about, advice=tuple(row["advice"] or ()))
        if written is not None:
            result = result.saying(written, seconds=seconds)
        return result.to_json()


def _new(run: Run, rows: list[dict[str, Any]]) -> list[tuple[str, Result]]:
    """Adds rows to the run's order -> the new results."""
    results = {row["key"]: row["result"] for row in rows if row["result"] is not None}
    items = [
        Item(
            row["key"],
            row["path"],
            file=unpacked(row["file"]),
            stamp=row["stamp"],
            position=(row["part"], row["place"]),
        )
        for row in rows
    ]
    new = run.journal.list(items)
    run.left_alone["sidecar"] += sum(item.key not in results for item in new)
    return [(item.key, Result.from_json(results[item.key])) for item in new if item.key in results]


def _told(error: BaseException) -> RunError:
    """The underlying cause of an exception that Ray wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, Blip2ChatError) or not isinstance(inner, BaseException):
            break
        cause = inner
    text = str(cause).strip().splitlines() or [type(cause).__name__]
    return RunError(f"{one_line(text[-1])}; what was done is saved: run the same command again")
