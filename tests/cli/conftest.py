"""Fixtures of the tests of the command line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two good pictures with a text file between them."""
    here = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("one.png", "three.png")):
        noise = np.random.default_rng(seed).integers(0, 256, (80, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(here / name)
    (here / "two.png").write_text("this is no picture")
    return [str(here / name) for name in ("one.png", "two.png", "three.png")]
