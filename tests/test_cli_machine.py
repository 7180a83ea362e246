"""`blip2-chat models` and `blip2-chat doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app, machine
from blip2_chat.known import KNOWN
from blip2_chat.memory import needed


def invoke(*arguments: str) -> Any:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))


def test_models_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    small = KNOWN[0]
    available = needed(small.config, "int8", "onnx")  # to the byte
    monkeypatch.setattr("blip2_chat.memory.available_memory", lambda: available)
    offers = {one["model"]: one for one in map(json.loads, invoke("models", "--json").stdout.splitlines())}
    assert {known.name for known in KNOWN} <= set(offers)
    told = offers[small.name]
    assert told["memory_bytes"]["onnx"]["int8"] == available == told["available_bytes"]
    assert told["fits"] == {"onnx": "int8", "torch": "int4"}
    assert (told["parameters"], told["download_bytes"]) == (small.parameters, 4 * small.parameters)
    assert told["converted"] == []
    assert offers["Salesforce/blip2-flan-t5-xxl"]["fits"] == {"onnx": None, "torch": None}


def test_models_as_a_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.memory.available_memory", lambda: 6_000_000_000)
    shown = invoke("models").stdout
    table, _, _ = shown.partition("\n\n")
    assert all(len(line.rstrip()) <= 80 for line in table.splitlines())
    for known in KNOWN:
        assert f"{known.name} " in table
    assert [line.split()[-1] for line in table.splitlines() if "opt-2.7b " in line] == ["int8"]
    assert [line.split()[-1] for line in table.splitlines() if "flan-t5-xxl " in line] == ["no"]
    assert "6.0 GB is available" in shown.replace("\n", " ")
    assert "\x1b" not in shown


def test_models_tells_what_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    from blip2_chat.conversion_cache import Cached

    made = [
        Cached(Path("a"), KNOWN[0].name, "int4", 3_100_000_000, True),
        Cached(Path("b"), KNOWN[0].name, "fp32", 1, False),  # damaged: as if it were not there
    ]
    monkeypatch.setattr("blip2_chat.conversion_cache.cached", lambda: made)
    told = [json.loads(line) for line in invoke("models", "--json").stdout.splitlines()]
    assert {one["model"]: one["converted"] for one in told}[KNOWN[0].name] == ["int4"]
    shown = invoke("models").stdout
    assert shown.endswith(f"Converted here: {KNOWN[0].name} at int4, 3.1 GB\n")
    assert shown.count("Converted here") == 1


def test_doctor_tells_versions_and_machine() -> None:
    found = json.loads(invoke("doctor", "--json").stdout)
    assert found["blip2-chat"] == blip2_chat.__version__
    assert found["python"].startswith(sys.version.split()[0])
    import numpy

    assert found["packages"]["numpy"] == numpy.__version__
    assert found["engines"]["onnx"].startswith("works (")
    assert "CPUExecutionProvider" in found["engines"]["onnx"]
    assert " usable of " in found["cores"]
    assert " available of " in found["memory"]
    assert not any("unknown (" in str(value) for value in found.values()), found

    lines = invoke("doctor").stdout.splitlines()
    assert len(lines) == len(found) <= 24  # one screen
    assert lines[0].split() == ["blip2-chat", blip2_chat.__version__]


def test_doctor_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom blip2_chat.cli import app\n"
        "try: app(['doctor'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False"


def test_doctor_goes_on_where_a_fact_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise OSError(f"no {Path.home()}/there")

    monkeypatch.setattr(machine, "_gpu", broken)
    found = json.loads(invoke("doctor", "--json").stdout)
    assert found["gpu"] == "unknown (OSError: no ~/there)"
    assert "embedded model" in found


def test_doctor_tells_no_name_and_no_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_MODEL", str(Path.home() / "models"))
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example/mirror")
    told = json.loads(invoke("doctor", "--json").stdout)["environment"]
    assert told["BLIP2_CHAT_MODEL"] == str(Path("~") / "models")
    assert told["HF_ENDPOINT"] == "https://hub.example/mirror"


def test_doctor_reads_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "NVIDIA A10, 23028 MiB, 22000 MiB, 550.54\nFailed to query\n"
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "_output", lambda *_: listed)
    assert machine._gpu() == ["NVIDIA A10 23028 MiB (22000 MiB free), driver 550.54"]
