"""The page behind a reverse proxy that put it under a prefix, as `location /pictures/` does in nginx."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

import blip2_chat
from blip2_chat.web.server import bind
from tests.support.waiting import wait_until
from tests.support.web_browser import Visit, answers, ask, idle
from tests.support.web_server import running


@contextmanager
def proxy(target: str, prefix: str) -> Iterator[str]:
    """A proxy that takes the prefix off and passes everything else on, the `Host` among it."""
    client = httpx.AsyncClient(base_url=target, timeout=60)

    async def forward(request: Request) -> StreamingResponse:
        path = f"/{request.path_params['path']}"
        sent = client.build_request(
            request.method, path, headers=request.headers.raw, content=await request.body()
        )
        answer = await client.send(sent, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers)

    app = Starlette(routes=[Route(f"{prefix}/{{path:path}}", forward, methods=["GET", "POST"])])
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=20))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


def test_a_sample_picture_and_a_question_under_a_prefix(browser: Browser) -> None:
    with running(blip2_chat.load("demo", threads=1)) as server, proxy(server.url, "/pictures") as outside:
        visit = Visit(browser, f"{outside}/pictures/")
        page = visit.page
        sample = page.get_by_alt_text("Sample: dog-and-apple.png")
        expect(sample).to_be_visible()
        assert wait_until(lambda: sample.evaluate("image => image.complete && image.naturalWidth > 0"))
        sample.click()
        expect(answers(page)).to_have_count(1)  # the sample is fetched first
        idle(page)
        ask(page, "what is on the left?")
        expect(answers(page)).to_have_count(2)
        idle(page)
        expect(answers(page).last).to_contain_text("a dog")
        manifest = page.evaluate(
            "fetch(document.querySelector('[rel=manifest]').href).then(one => one.json())"
        )
        assert manifest["start_url"] == "."
        assert wait_until(lambda: page.locator("h1 img").evaluate("image => image.naturalWidth > 0"))
        assert not visit.problems
        visit.context.close()
