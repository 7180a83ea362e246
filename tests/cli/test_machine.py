"""`blip2-chat models` and `blip2-chat doctor`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.checkpoint.catalogue import KNOWN
from blip2_chat.checkpoint.requirements import needed, require_fit
from blip2_chat.cli import app, machine
from blip2_chat.conversion.cache import Cached, sole_writer
from blip2_chat.conversion.prune import is_orphan
from blip2_chat.loading import choose
from blip2_chat.sizes import gigabytes


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
    monkeypatch.setattr("blip2_chat.checkpoint.requirements.available_memory", lambda: available)
    monkeypatch.setattr("blip2_chat.system.memory.available_memory", lambda: available)
    offers = {one["model"]: one for one in map(json.loads, invoke("models", "--json").stdout.splitlines())}
    assert {known.name for known in KNOWN} <= set(offers)
    told = offers[small.name]
    assert told["memory_bytes"]["onnx"]["int8"] == available == told["available_bytes"]
    assert told["fits"] == {"onnx": "int4", "torch": "int4"}, "int8 would leave nothing to other programs"
    assert (told["parameters"], told["download_bytes"]) == (small.parameters, 4 * small.parameters)
    assert told["converted"] == []
    assert offers["Salesforce/blip2-flan-t5-xxl"]["fits"] == {"onnx": None, "torch": None}


@pytest.mark.parametrize("available", [1_000_000_000, 4_000_000_000, 11_000_000_000, 400_000_000_000])
def test_models_names_the_precision_that_load_would_choose(
    monkeypatch: pytest.MonkeyPatch, available: int
) -> None:
    monkeypatch.setattr("blip2_chat.checkpoint.requirements.available_memory", lambda: available)
    monkeypatch.setattr("blip2_chat.system.memory.available_memory", lambda: available)
    monkeypatch.setattr("blip2_chat.loading.available_memory", lambda: available)
    monkeypatch.setattr("blip2_chat.loading._accelerator", lambda: None)
    offers = {one["model"]: one for one in map(json.loads, invoke("models", "--json").stdout.splitlines())}
    for known in KNOWN:
        checkpoint: Any = SimpleNamespace(kind="official", config=known.config)
        for engine, told in offers[known.name]["fits"].items():
            plan = choose(checkpoint, engine=engine)
            try:
                require_fit(known.config, plan.precision, engine, name=known.name, available=available)
                assert told == plan.precision
            except blip2_chat.NotEnoughMemoryError:
                assert told is None


class TestPrune:
    @pytest.fixture
    def orphan(self, checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
        """A conversion in the cache whose checkpoint is gone."""
        source = tmp_path / "mine"
        shutil.copytree(checkpoint("opt"), source)
        blip2_chat.load(source, engine="onnx").close()
        kept = tmp_path / "kept"
        shutil.copytree(checkpoint("opt", 8), kept)
        blip2_chat.load(kept, engine="onnx").close()
        source.rename(tmp_path / "gone")
        (folder,) = (tmp_path / "cache" / "converted").glob("mine-*")
        return folder

    def test_conversions_without_checkpoint_are_marked(self, orphan: Path, tmp_path: Path) -> None:
        lines = [line for line in invoke("models").stdout.splitlines() if line.startswith("Converted")]
        assert [line.endswith("(its checkpoint is gone)") for line in lines] == [False, True]
        assert str(tmp_path / "mine") in lines[1]
        assert "models --prune" in invoke("models").stderr

    def test_it_asks_and_then_removes_only_those(self, orphan: Path) -> None:
        size = sum(path.stat().st_size for path in orphan.iterdir())
        refused = CliRunner().invoke(app, ["models", "--prune"], input="n\n")
        assert refused.exit_code == 1 and orphan.is_dir()
        assert "nothing was removed" in refused.stderr and f"Remove 1 ({gigabytes(size)})" in refused.stderr
        assert CliRunner().invoke(app, ["models", "--prune"], input="").exit_code == 1 and orphan.is_dir()
        assert CliRunner().invoke(app, ["models", "--yes"]).exit_code == 2
        done = invoke("models", "--prune", "--yes")
        assert not orphan.exists() and len(list(orphan.parent.iterdir())) == 1
        assert done.stdout.startswith("Removed ") and f"{gigabytes(size)} freed" in done.stderr
        assert "Nothing to remove" in invoke("models", "--prune").stderr

    def test_clearing_keeps_foreign_and_used_files(self, orphan: Path) -> None:
        (orphan / "notes.txt").write_text("mine")
        result = CliRunner().invoke(app, ["models", "--prune", "--yes"])
        assert result.exit_code == 1 and "it holds notes.txt" in result.stderr and orphan.is_dir()
        (orphan / "notes.txt").unlink()
        with sole_writer(orphan):
            result = CliRunner().invoke(app, ["models", "--prune", "--yes"])
        assert result.exit_code == 1 and "another process is writing it" in result.stderr
        if sys.platform == "linux":
            running = blip2_chat.load(orphan)
            result = CliRunner().invoke(app, ["models", "--prune", "--yes"])
            assert result.exit_code == 1 and "a program is using it" in result.stderr and orphan.is_dir()
            running.close()

    def test_a_checkpoint_of_the_hub_is_looked_for_in_its_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        commit = "0123456789" * 4
        made = Cached(tmp_path, "org/name@main", "int4", 1, True, commit)
        assert is_orphan(made)
        (tmp_path / "hub" / "models--org--name" / "snapshots" / commit).mkdir(parents=True)
        assert not is_orphan(made)
        for unknown in (replace(made, source="demo"), replace(made, source="unknown", revision=None)):
            assert not is_orphan(unknown)
        for odd in (None, "main", "../..", 3):
            assert not is_orphan(replace(made, source="org/other", revision=odd))  # type: ignore[arg-type]


def test_models_as_a_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.checkpoint.requirements.available_memory", lambda: 6_000_000_000)
    monkeypatch.setattr("blip2_chat.system.memory.available_memory", lambda: 6_000_000_000)
    shown = invoke("models").stdout
    table, _, _ = shown.partition("\n\n")
    assert all(len(line.rstrip()) <= 80 for line in table.splitlines())
    for known in KNOWN:
        assert f"{known.name} " in table
    assert [line.split()[-1] for line in table.splitlines() if "opt-2.7b " in line] == ["int8"]
    assert [line.split()[-1] for line in table.splitlines() if "/blip2-flan-t5-xxl " in line] == ["no"]
    assert "6.0 GB is available" in shown.replace("\n", " ")
    assert "\x1b" not in shown


def test_models_lists_what_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Cached(Path("a"), KNOWN[0].name, "int4", 3_100_000_000, True),
        Cached(Path("b"), KNOWN[0].name, "fp32", 1, False),  # damaged: as if it were not there
    ]
    monkeypatch.setattr("blip2_chat.conversion.cache.cached", lambda: made)
    told = [json.loads(line) for line in invoke("models", "--json").stdout.splitlines()]
    assert {one["model"]: one["converted"] for one in told}[KNOWN[0].name] == ["int4"]
    shown = invoke("models").stdout
    assert shown.endswith(f"Converted here: {KNOWN[0].name} at int4, 3.1 GB\n")
    assert shown.count("Converted here") == 1


def test_doctor_prints_versions_and_machine() -> None:
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


def test_doctor_prints_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_MODEL", str(Path.home() / "models"))
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example/mirror")
    told = json.loads(invoke("doctor", "--json").stdout)["environment"]
    assert told["BLIP2_CHAT_MODEL"] == str(Path("~") / "models")
    assert told["HF_ENDPOINT"] == "https://hub.example/mirror"


def test_doctor_reads_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "NVIDIA A10, 23028 MiB, 22000 MiB, 550.54\nFailed to query\n"
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "output_of", lambda *_: listed)
    assert machine._gpu() == ["NVIDIA A10 23028 MiB (22000 MiB free), driver 550.54"]
