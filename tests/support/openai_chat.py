"""The official client of OpenAI, at a server of a test."""

from __future__ import annotations

from typing import Any

import openai

from tests.support.web_server import Running, asking, data_url, picture

URL = data_url(picture(1))


def connected(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def ask(client: openai.OpenAI, server: Running, messages: Any = None, **settings: Any) -> Any:
    settings = {"max_tokens": 10, **settings}
    return client.chat.completions.create(
        model=server.model, messages=messages or asking("what is this?", URL), **settings
    )
