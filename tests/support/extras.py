"""Tests that need more than the core skip themselves, in one line that names the extra to install.

`require(extra)` at the top of a module whose every test needs it, before the imports it protects; `needs(extra)` as
the mark of a test or a parameter.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

# What an extra of pyproject.toml brings: one of its packages missing is the extra missing.
PACKAGES = {
    "test-torch": ("torch", "transformers", "accelerate", "bitsandbytes", "peft", "scipy"),
    "test-web": (
        "fastapi",
        "uvicorn",
        "multipart",
        "prometheus_client",
        "openai",
        "flask",
        "jsonschema",
        "playwright",
        "schemathesis",
    ),
    "test-clients": ("instructor", "langchain_openai", "ollama", "openai", "pydantic_ai"),
    "test-mcp": ("mcp",),
    "test-notebook": (
        "torch",
        "transformers",
        "anywidget",
        "ipywidgets",
        "notebook",
        "nbclient",
        "playwright",
    ),
    "test-search": ("lancedb", "pyarrow"),
    "test-ray": ("pyarrow", "ray", "s3fs", "moto"),
}


def missing(extra: str) -> str | None:
    """Why tests that need `extra` cannot run; None when they can."""
    absent = [name for name in PACKAGES[extra] if find_spec(name) is None]
    return f"needs the extra [{extra}]: no {', '.join(absent)} here" if absent else None


def needs(extra: str) -> pytest.MarkDecorator:
    reason = missing(extra)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


def skip_without(extra: str) -> None:
    """Skips the test that runs."""
    reason = missing(extra)
    if reason:
        pytest.skip(reason)


def imported(module: str, extra: str) -> Any:
    """The module; skips the test that runs where `extra` is not installed."""
    return pytest.importorskip(module, reason=f"needs the extra [{extra}]: no {module} here")


def require(extra: str) -> None:
    """Skips the module that calls it."""
    reason = missing(extra)
    if reason:
        pytest.skip(reason, allow_module_level=True)
