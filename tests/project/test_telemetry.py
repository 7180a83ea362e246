"""Nothing is written outside the documented places, whichever way in: looked at in an empty home folder.

ONNX Runtime 1.29 and later creates its telemetry files (a device id, a database) as soon as it is imported, before it
sends anything; so their absence shows that nothing was sent either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extras import needs

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def written(home: Path, *command: str, **variables: str) -> set[str]:
    """The folders below `home` that hold files after the command, two levels deep."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORT_", "XDG_", "HF_", "BLIP2_CHAT_"))
    }
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = {**kept, "HOME": str(home), "USERPROFILE": str(home), "PYTHONPATH": path, **variables}
    done = subprocess.run(command, env=env, cwd=home.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [file.relative_to(home) for file in home.rglob("*") if file.is_file()]
    return {"/".join(file.parts[:2]) for file in files}


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def command(*arguments: str) -> tuple[str, ...]:
    return (
        *python("import sys; from blip2_chat.cli import main; sys.argv[0] = 'blip2-chat'; main()"),
        *arguments,
    )


OURS = {".cache/blip2-chat"}


@pytest.mark.parametrize(
    "way_in",
    [
        pytest.param(python("import blip2_chat, onnxruntime"), id="import"),
        pytest.param(
            python("import blip2_chat; blip2_chat.load().close()"), id="load", marks=pytest.mark.slow
        ),
        pytest.param(
            python("import blip2_chat.batch.ray_run, blip2_chat.engines.onnx.run.runtime"),
            id="ray",
            marks=pytest.mark.slow,
        ),
        pytest.param(python("import benchmarks.quantisation_error"), id="benchmark", marks=pytest.mark.slow),
        pytest.param(
            python(
                "import blip2_chat, subprocess, sys; "
                "subprocess.run([sys.executable, '-c', 'import onnxruntime'], check=True)"
            ),
            id="child",
        ),
        pytest.param(command("doctor"), id="doctor", marks=pytest.mark.slow),
        pytest.param(command("models"), id="models", marks=pytest.mark.slow),
        pytest.param(command("convert", "demo", "converted", "--precision", "int4"), id="convert"),
    ],
)
def test_only_the_documented_cache_is_written(home: Path, way_in: tuple[str, ...]) -> None:
    assert written(home, *way_in) <= OURS


def test_a_caption_writes_the_conversion_only(home: Path) -> None:
    picture = next(SAMPLE.rglob("*.png"))
    assert written(home, *command("caption", str(picture))) == OURS


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, "1"), ({"ORT_DISABLE_TELEMETRY": ""}, "1"), ({"ORT_DISABLE_TELEMETRY": "true"}, "true")],
)
def test_the_users_own_setting_is_kept(home: Path, given: dict[str, str], kept: str) -> None:
    code = f"import os, blip2_chat, onnxruntime; assert os.environ['ORT_DISABLE_TELEMETRY'] == {kept!r}"
    assert written(home, *python(code), **given) == set()


def test_an_earlier_import_has_its_telemetry_turned_off(home: Path) -> None:
    """What it wrote when it was imported, nobody can undo; no event follows."""
    code = (
        "import onnxruntime; calls = []; onnxruntime.disable_telemetry_events = lambda: calls.append(1); "
        "import blip2_chat.engines.onnx.run.runtime; assert calls == [1]"
    )
    written(home, *python(code))


KERNEL = """
import jupyter_client
manager, client = jupyter_client.manager.start_new_kernel(startup_timeout=120)
try:
    code = "import blip2_chat; model = blip2_chat.load('demo', engine='onnx'); model.close(); print('loaded')"
    said = []
    reply = client.execute_interactive(code, timeout=120, output_hook=said.append)
    assert reply["content"]["status"] == "ok", reply
    assert any("loaded" in one["content"].get("text", "") for one in said)
finally:
    client.stop_channels()
    manager.shutdown_kernel()
"""
ACTOR = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote
class Captioner:
    def caption(self):
        import blip2_chat
        from PIL import Image

        model = blip2_chat.load("demo", engine="onnx", threads=1)
        return str(model.caption(Image.new("RGB", (64, 64))))

assert ray.get(Captioner.remote().caption.remote())
ray.shutdown()
"""


@pytest.mark.slow
@needs("test-notebook")
def test_a_notebook_kernel_leaves_no_telemetry(home: Path) -> None:
    """A kernel is a process of Jupyter's: it gets nothing from the tests but its environment."""
    made = written(home, *python(KERNEL))
    assert made <= OURS | {
        ".ipython/profile_default",
        ".local/share",
        ".cache/matplotlib",
        ".config/matplotlib",
    }


@pytest.mark.slow
@needs("test-ray")
def test_a_ray_actor_leaves_no_telemetry(home: Path) -> None:
    """An actor runs in a worker process that Ray starts."""
    # The token is how the processes of one cluster on this machine know each other.
    assert written(home, *python(ACTOR)) <= OURS | {".ray/auth_token"}
