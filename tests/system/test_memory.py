"""What this machine can still give: against the kernel's own files, and made control groups."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from blip2_chat.system.memory import available_memory, group_limits, total_memory


def from_kernel(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' files")
def test_this_machine() -> None:
    assert total_memory() == from_kernel("MemTotal")
    # Other processes come and go, with gigabytes: compared is what was asked for while next to nothing changed.
    for _ in range(1000):
        before, mine, after = from_kernel("MemAvailable"), available_memory(), from_kernel("MemAvailable")
        if abs(after - before) < 50_000_000:
            break
    else:
        pytest.skip("this machine's memory is never the same twice")
    # A container may leave less than the machine has.
    assert 0 < mine <= before + 100_000_000


def test_the_peak_is_of_this_process_and_stays() -> None:
    code = (
        "from blip2_chat.system.memory import peak_memory\nbefore = peak_memory()\n"
        "block = bytearray(b'x') * 200_000_000\ndel block\nprint(peak_memory() - before)"
    )
    held = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 190_000_000 < held < 300_000_000


def groups(root: Path, files: dict[str, str]) -> list[int]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return list(group_limits(root))


def test_cgroup_v2_nested_groups(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a.slice"
    files = {
        "proc/self/cgroup": "0::/a.slice/b.scope\n",
        f"{group}/b.scope/memory.max": "max\n",
        f"{group}/b.scope/memory.current": "100\n",
        f"{group}/memory.max": "4000000000\n",
        f"{group}/memory.current": "3000000000\n",
        f"{group}/memory.stat": "anon 5\ninactive_file 500000000\nslab_inactive_file 7\n",
    }
    assert groups(tmp_path, files) == [1_500_000_000]


def test_cgroup_v2_in_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../../docker/123\n",
        "sys/fs/cgroup/memory.max": "2000000000\n",
        "sys/fs/cgroup/memory.current": "2500000000\n",
    }
    assert groups(tmp_path, files) == [0]


def test_cgroup_v1_and_its_way_to_say_unlimited(tmp_path: Path) -> None:
    mount = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "5:cpuset:/x\n4:cpu,memory:/docker/123\n0::/\n",
        f"{mount}/docker/123/memory.limit_in_bytes": "3000000000\n",
        f"{mount}/docker/123/memory.usage_in_bytes": "1000000000\n",
        f"{mount}/docker/123/memory.stat": "inactive_file 1\ntotal_inactive_file 200000000\n",
        f"{mount}/memory.limit_in_bytes": "9223372036854771712\n",
        f"{mount}/memory.usage_in_bytes": "1000000000\n",
    }
    assert groups(tmp_path, files) == [2_200_000_000]


def test_a_system_that_tells_nothing_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise RuntimeError("no such file")

    assert groups(tmp_path, {}) == []
    monkeypatch.setattr(psutil, "virtual_memory", unknown)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert available_memory() == sys.maxsize
    assert total_memory() is None
