"""Ray says nothing to its makers, and takes nothing along that it was not given."""

from __future__ import annotations

from tests.support.extras import require

require("test-ray")

import os
import subprocess
import sys

import pytest

from tests.support.variants import first_of

CODE = """
from blip2_chat.system.ray_cluster import imported
imported("a test")
from ray._private.ray_constants import RAY_ENABLE_UV_RUN_RUNTIME_ENV
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled(), RAY_ENABLE_UV_RUN_RUNTIME_ENV)
"""


@pytest.mark.parametrize(
    ("given", "told"), first_of(({}, "False False"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "True False"))
)
def test_its_reports_are_off_unless_the_user_turned_them_on(given: dict[str, str], told: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**kept, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told
