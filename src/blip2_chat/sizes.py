"""Numbers of bytes in words."""

from __future__ import annotations


def gigabytes(size: float) -> str:
    """Bytes in decimal units, as memory and downloads are given: "4.8 GB" (10**9), "310 MB" below one gigabyte."""
    return f"{size / 1e9:.1f} GB" if size >= 999_500_000 else f"{size / 1e6:.0f} MB"


def mebibytes(size: int) -> str:
    """Bytes in the binary units of limits that users set: "20 MiB" (2**20), "100 bytes" below one mebibyte."""
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size:,} bytes"


def amounts(done: int, total: int) -> str:
    """How much of something is done: bytes with their unit, small numbers (tensors, questions) as they are."""
    if total < 1_000_000:
        return f"{done:,} of {total:,}"
    return f"{gigabytes(done)} of {gigabytes(total)}"
