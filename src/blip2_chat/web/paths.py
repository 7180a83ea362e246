"""Requests for paths that are not here: what to tell them, and under which names they are counted."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

# Endpoints of OpenAI and Ollama that this server has no use for, and frequent mistakes. The log may name these, and
# no other path that a client sends.
_ELSEWHERE = (
    "/api/copy", "/api/create", "/api/delete", "/api/embed", "/api/embeddings", "/api/pull", "/api/push",
    "/v1/audio/transcriptions", "/v1/completions", "/v1/embeddings", "/v1/files", "/v1/images/generations",
    "/v1/messages", "/v1/moderations", "/chat/completions", "/models", "/responses", "/v1", "/v1/chat", "/api",
)  # fmt: skip
WELL_KNOWN: Mapping[str, str] = {path: path for path in _ELSEWHERE}


def advice(path: str, method: str, methods: Mapping[str, set[str]]) -> str:
    """What to request instead. `methods`: those of each path that there is. The path itself is not repeated."""
    if path in methods:
        return f"use {' or '.join(sorted(methods[path]))} for this path"
    close = _meant(path, [one for one in methods if "{" not in one])
    if close is not None:
        return f"there is nothing at this path; did you mean {close}?"
    lists = [one for one in sorted(methods) if one.startswith("/api/" if path.startswith("/api") else "/v1/")]
    return f"there is nothing at this path; this server has {', '.join(lists)} (all: /openapi.json)"


def _meant(path: str, known: list[str]) -> str | None:
    """The path that was probably meant: without a slash at its end, with /v1 before it, or with a slip."""
    bare = path.rstrip("/")
    tail = bare.removeprefix("/v1").removeprefix("/v1").removeprefix("/api")
    for candidate in (bare, f"/v1{tail}", f"/api{tail}"):
        if tail and candidate in known:
            return candidate
    return next(iter(get_close_matches(bare[:100], known, 1, 0.85)), None)
