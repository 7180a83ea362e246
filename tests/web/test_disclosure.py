"""What is kept of requests, and what answers, the log and the metrics tell."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip2_chat.web.settings import MIB
from tests.support.web_server import (
    MakeModel,
    Running,
    ask,
    data_url,
    get,
    picture,
    post,
    running,
)


def test_answers_carry_headers_against_misuse(server: Running) -> None:
    for path in ("/", "/app.js", "/v1/models", "/nothing", "/health"):
        headers = get(server.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert (
            "unsafe" not in policy and "http:" not in policy and "https:" not in policy and "*" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert get(f"{server.url}/v1/models").headers["cache-control"] == "no-store"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += logging.Formatter().format(record) + "\n"


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_no_text_unless_asked(make_model: MakeModel, log_text: bool) -> None:
    lines = _Lines()
    words = "zebra"  # not in the line that raises: a traceback shows that
    loggers = [logging.getLogger(name) for name in ("blip2_chat", "uvicorn", "fastapi", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(lines)
        logger.setLevel(logging.DEBUG)
    model = make_model()
    try:
        with running(model, log_text=log_text) as server:
            answer = ask(server, data_url(picture(1)), "where is the zebra?").json()
            ask(server, "data:image/png;base64,emVicmE=", "zebra")
            ask(server, "zebra.png", "zebra")
            get(f"{server.url}/zebra?zebra=zebra", headers={"X-Zebra": "zebra"})
            post(f"{server.url}/v1/chat/completions", json={"model": "zebra", "zebra": "zebra"})
            post(f"{server.url}/v1/caption", files={"pictures": ("zebra.png", b"zebra")})

            def broken(*_: Any) -> Any:
                raise RuntimeError(words)

            model.engine.prefill = broken  # type: ignore[method-assign]
            assert ask(server, data_url(picture(1)), "zebra").status_code == 500
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(lines)
            logger.setLevel(level)
    text = answer["choices"][0]["message"]["content"]
    assert "POST /v1/chat/completions 200" in lines.text
    assert "RuntimeError" in lines.text
    if log_text:
        assert "where is the zebra?" in lines.text and repr(text) in lines.text
    else:
        assert "zebra" not in lines.text.lower()
        assert text not in lines.text
        assert data_url(picture(1))[30:60] not in lines.text


def test_metrics_tell_no_text(server: Running) -> None:
    ask(server, data_url(picture(1)), "where is the zebra?")
    get(f"{server.url}/zebra")
    told = get(f"{server.url}/metrics").text
    assert "zebra" not in told
    assert 'blip2_chat_requests_total{route="/v1/chat/completions",status="200"}' in told
    assert 'blip2_chat_tokens_total{kind="completion",model="opt"}' in told
    # However many paths are tried, they are one row.
    for number in range(20):
        get(f"{server.url}/{number}")
    assert get(f"{server.url}/metrics").text.count('route="other"') < 25


def test_a_picture_leaves_no_file(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of request with a large picture, with nowhere to write a temporary file to."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    file = io.BytesIO()
    Image.effect_noise((1500, 1500), 90).save(file, "PNG")
    assert len(file.getvalue()) > 2 * MIB
    assert ask(server, data_url(file.getvalue())).status_code == 200
    form = post(f"{server.url}/v1/caption", files={"pictures": ("a.png", file.getvalue())})
    assert form.json()["data"][0]["caption"] is not None


def test_an_error_reveals_nothing_internal(make_model: MakeModel) -> None:
    model = make_model()

    def broken(*_: Any) -> Any:
        raise RuntimeError("/home/someone/secret")

    model.engine.encode_image = broken  # type: ignore[method-assign]
    with running(model) as server:
        response = ask(server, data_url(picture(1)))
    assert response.status_code == 500
    assert json.loads(response.text)["error"]["code"] == "internal_error"
    assert "secret" not in response.text and "Traceback" not in response.text
