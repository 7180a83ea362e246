"""Numbers of bytes in words."""

from __future__ import annotations

import pytest

from blip2_chat.sizes import amounts, gigabytes, mebibytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4_800_000_000, "4.8 GB"),
        (310_000_000, "310 MB"),
        (999_600_000, "1.0 GB"),
        (12_340_000_000, "12.3 GB"),
        (0, "0 MB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert gigabytes(size) == text


def test_limits_are_binary() -> None:
    assert [mebibytes(size) for size in (100, 2**20, 20 * 2**20)] == ["100 bytes", "1 MiB", "20 MiB"]


def test_how_much_is_done() -> None:
    assert amounts(3, 40) == "3 of 40"
    assert amounts(1_500_000_000, 15_000_000_000) == "1.5 GB of 15.0 GB"
