"""The run on a real Ray cluster of several nodes, of which one dies, and on S3 (moto's server)."""

from __future__ import annotations

from tests.support.extras import require

require("test-ray")

import io
import os
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.batch.captioner import Tasks
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs import writers
from blip2_chat.batch.result import Result
from blip2_chat.batch.run import Run, Summary
from tests.support.batch import load_folder, make_pictures, rows_of

TASKS = Tasks(1, ("how many?",), {"max_new_tokens": 6})


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server on this machine, found through the environment as a user's would be; its file system."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir("bucket")
        yield fs
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def put_shards(s3: Any, pictures: Sequence[Path], per_shard: int) -> None:
    for number, start in enumerate(range(0, len(pictures), per_shard)):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for path in pictures[start : start + per_shard]:
                archive.add(path, path.name)
        s3.pipe(f"bucket/shards/s-{number:03}.tar", data.getvalue())


def without_seconds(results: Iterator[Result]) -> list[dict[str, Any]]:
    rows = [one.as_row() for one in results]
    for row in rows:
        del row["seconds"]
        row["model"] = "tiny"
    return rows


def test_s3_is_read_and_written_like_a_disk(s3: Any, tiny: Path, tmp_path: Path) -> None:
    put_shards(s3, make_pictures(tmp_path / "photos", 7), per_shard=3)
    s3.put(str(tmp_path / "photos"), "bucket/photos", recursive=True)
    model = load_folder(tiny)
    for source, out in (("photos", "photos.jsonl"), ("shards/*.tar", "shards.jsonl")):
        options = RunOptions((f"s3://bucket/{source}",), TASKS, f"s3://bucket/{out}", progress=tmp_path / out)
        with Run(options, {}) as run:
            assert run.go(model).rows == 7
    photos, shards = (
        without_seconds(writers.read(f"s3://bucket/{name}.jsonl")) for name in ("photos", "shards")
    )
    assert photos[0]["path"] == "s3://bucket/photos/p0000.png" and not photos[0]["error"]
    assert shards[0]["path"] == "s3://bucket/shards/s-000.tar/p0000.png"
    assert [row["caption"] for row in photos] == [row["caption"] for row in shards]


# The cluster: each node is a handful of real processes, which take their time.


@pytest.fixture(scope="module")
def cluster(s3: Any) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    if sys.platform == "win32":
        pytest.skip("Ray's test cluster is for Unix")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.extra = [_add_node(made) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def _add_node(cluster: Any) -> Any:
    # A node gives up when its own helpers are not up in 15 seconds, which a busy machine may need.
    for attempt in range(5):
        try:
            return cluster.add_node(num_cpus=1)
        except Exception:
            if attempt == 4:
                raise
    return None


def ray_run(
    tiny: Path, options: RunOptions, on_batch: Callable[[Sequence[Result]], None] | None = None
) -> Summary:
    from blip2_chat.batch.ray_run import RayPlan, ray_batches

    plan = RayPlan("auto", 2, 1, 0, {"name_or_path": str(tiny)}, options)
    with Run(options, {"model": "tiny"}) as run:
        return run.keep(ray_batches(run, plan), on_batch)


def alone(tiny: Path, options: RunOptions) -> Summary:
    with Run(options, {"model": "tiny"}) as run:
        return run.go(load_folder(tiny))


def actors() -> list[int]:
    """The process ids of the models at work: of this test's own cluster, whatever else runs on this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"_Actor" in (process / "cmdline").read_bytes()[:200] and is_descendant(int(process.name)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def is_descendant(process: int) -> bool:
    while process > 1 and process != os.getpid():
        # After the name, which may hold anything: the state, and the parent.
        process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return process == os.getpid()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_and_an_actor_killed_in_the_middle_cost_nothing_but_time(
    cluster: Any, tiny: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    pictures = make_pictures(photos, 400)
    (photos / "bad.png").write_bytes(b"no picture")
    (photos / "copy.png").write_bytes(pictures[7].read_bytes())
    alone(tiny, RunOptions((photos,), TASKS, str(tmp_path / "alone.jsonl")))

    reported: list[str] = []
    killed: list[str] = []

    def on_batch(results: Sequence[Result]) -> None:
        reported.extend(one.path for one in results)
        if len(reported) > 30 and not killed:
            killed.append("node")
            cluster.remove_node(cluster.extra.pop(), allow_graceful=False)
        elif len(reported) > 150 and len(killed) == 1 and sys.platform == "linux" and actors():
            killed.append("actor")
            os.kill(actors()[0], signal.SIGKILL)

    summary = ray_run(tiny, RunOptions((photos,), TASKS, str(tmp_path / "ray.jsonl"), batch_size=8), on_batch)
    assert killed == (["node", "actor"] if sys.platform == "linux" else ["node"])
    assert (summary.rows, summary.failed, summary.duplicates) == (402, 1, 1)
    assert len(reported) == len(set(reported)) == 402
    both = [rows_of(tmp_path / f"{name}.jsonl") for name in ("alone", "ray")]
    for row in [*both[0], *both[1]]:
        del row["model"]  # the folder's path here, a short name there
    assert both[0] == both[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_on_s3_to_parquet_on_s3_and_going_on(
    cluster: Any, s3: Any, tiny: Path, tmp_path: Path
) -> None:
    put_shards(s3, make_pictures(tmp_path / "photos", 60, seed=9), per_shard=20)
    source, progress = "s3://bucket/shards/s-{000..002}.tar", tmp_path / "progress"
    some = RunOptions((source,), TASKS, "s3://bucket/ray.parquet", progress=progress, limit=25)
    assert ray_run(tiny, some).rows == 25
    started = time.monotonic()
    summary = ray_run(tiny, RunOptions((source,), TASKS, "s3://bucket/ray.parquet", progress=progress))
    assert (summary.rows, summary.done) == (60, 35), time.monotonic() - started
    alone(tiny, RunOptions((source,), TASKS, "s3://bucket/alone.parquet", progress=tmp_path / "other"))
    both = [without_seconds(writers.read(f"s3://bucket/{name}.parquet")) for name in ("ray", "alone")]
    assert both[0] == both[1] and not any(row["error"] for row in both[0])
