"""The promise of requirements.txt, kept literally: a new environment, that file, and both notebooks run."""

from __future__ import annotations

from tests.support.extras import require

require("test-notebook")

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In the new environment, whose own kernel it starts. Fewer held-out questions: their accuracy is not tested here.
RUN = """
import json
from notebooks.refresh import NOTEBOOKS, execute

said = {}
for path in NOTEBOOKS:
    ran = execute(path, lambda cell, source: source.replace("HELD_OUT = 16", "HELD_OUT = 6"))
    for cell in ran.cells:
        text = "".join(one.text for one in cell.get("outputs", []) if one.output_type == "stream")
        said[f"{path.stem} {cell.id}"] = text
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_both_notebooks_run_in_a_new_environment(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    binaries = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "--python",
        str(binaries / "python"),
    ]
    pinned = re.search(r"^TORCH +\?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    # Before anything asks for torch, so that none of CUDA comes along.
    subprocess.run([*pip, "install", pinned[1]], check=True)
    subprocess.run([*pip, "install", "-r", "requirements.txt"], check=True, cwd=ROOT)

    outside = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    own = ("BLIP2_CHAT_CACHE", "HF_HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    environment = {
        **outside,
        **{name: str(tmp_path / name.lower()) for name in own},
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    version = subprocess.run(
        [binaries / "jupyter", "notebook", "--version"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(version.stdout.split(".")[0]) >= 7
    ran = subprocess.run(
        [binaries / "python", "-c", RUN],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    plain, int8 = "Chat_with_BLIP_2", "Chat_with_BLIP_2_[int8_bitsandbytes]"
    assert [line.split(":")[1].strip() for line in said[f"{plain} old"].splitlines()] == ["a dog", "a dog"]
    assert said[f"{plain} stream"] == "blue"
    assert "a moon, a rocket and a star" in said[f"{int8} start"]
    assert said[f"{int8} verdict"].startswith("int8 takes ")
