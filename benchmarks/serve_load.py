"""`blip2-chat serve` under load: many clients at once against the same requests one after another.

    python -m benchmarks.serve_load                      # the embedded model and a mid-size one
    python -m benchmarks.serve_load --model FOLDER       # any other checkpoint
    python -m benchmarks.serve_load --soak 300           # 64 clients for 5 minutes, every answer compared

The server is a process of its own on 127.0.0.1. Two kinds of work: questions about pictures that the server has
seen, with answers of a fixed length (what batching is for), and captions of pictures it has not (where reading the
picture, which fills the cores by itself, is most of the work).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx

from tests.support import web_server

from .child import Deadline, figures_of, tell
from .documents import keep, markdown, put
from .full_size import MISSING


def _shape(width: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads, **more}


def _opt(width: int, layers: int, heads: int, vocabulary: int) -> dict[str, int]:
    sizes = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width}
    return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary}


# Random weights take the same time as trained ones.
MID_SIZE: dict[str, Any] = {
    "vision": _shape(768, 12, 12, image_size=224, patch_size=16),
    "qformer": _shape(768, 6, 12),
    "text": _opt(768, 12, 12, 50272),
}


RESULTS = "serve_load.json"


@dataclass
class Figures:
    """One model and one kind of work."""

    model: str
    work: str
    clients: int
    requests: int
    tokens: int  # written, of all requests
    alone_seconds: float  # all requests, one after another
    together_seconds: float  # the same ones, from all clients at once
    ratio: float  # of the two
    tokens_per_second: float  # together
    slowest_seconds: float  # request, together


def table(rows: list[dict[str, Any]]) -> str:
    clients = next((f"{row['clients']} clients" for row in rows if "clients" in row), "together")
    headings = (
        "model (fp32)",
        "work",
        "one after another",
        clients,
        "ratio",
        "tokens per second",
        "slowest request",
    )
    return markdown(
        headings,
        [
            (row["model"], f"could not be measured: {row['failed']}", *[MISSING] * 5)
            if "failed" in row
            else (
                row["model"],
                row["work"],
                f"{row['alone_seconds']:.3g} s",
                f"{row['together_seconds']:.3g} s",
                f"**{row['ratio']:.1f}×**",
                f"{row['tokens_per_second']:.0f}",
                f"{row['slowest_seconds']:.3g} s",
            )
            for row in rows
        ],
    )


def picture(number: int) -> str:
    """A data URL; no two numbers have the same picture."""
    return web_server.data_url(web_server.picture(number, 320))


def question(text: str, url: str) -> list[dict[str, Any]]:
    """Without a text, the picture is captioned."""
    messages = web_server.asking(text, url)
    if not text:
        messages[0]["content"].pop()
    return messages


async def ask(
    client: httpx.AsyncClient, messages: list[dict[str, Any]], tokens: int
) -> tuple[str, int, float]:
    """The answer, its tokens, and the seconds it took."""
    started = time.perf_counter()
    response = await client.post(
        "/v1/chat/completions",
        json={
            "model": client.params["model"],
            "messages": messages,
            "max_tokens": tokens,
            "min_tokens": tokens,
        },
    )
    response.raise_for_status()
    answer = response.json()
    written = answer["usage"]["completion_tokens"]
    return answer["choices"][0]["message"]["content"], written, time.perf_counter() - started


async def timed(
    url: str, model: str, work: list[list[list[dict[str, Any]]]], tokens: int
) -> tuple[float, float, int]:
    """Seconds for all of it and for the slowest request, and tokens. `work`: per client, its requests in order."""
    async with httpx.AsyncClient(base_url=url, timeout=120, params={"model": model}) as client:

        async def one_client(requests: list[list[dict[str, Any]]]) -> list[tuple[str, int, float]]:
            return [await ask(client, messages, tokens) for messages in requests]

        started = time.perf_counter()
        answers = list(chain(*await asyncio.gather(*[one_client(requests) for requests in work])))
        seconds = time.perf_counter() - started
        return seconds, max(answer[2] for answer in answers), sum(answer[1] for answer in answers)


def measure(name: str, folder: str, clients: int, each: int, tokens: int, replicas: int = 0) -> None:
    """Both kinds of work on one model, each reported as it is done. `replicas`: on Ray, or 0 for one process."""
    cluster = ("--ray", "--replicas", str(replicas)) if replicas else ()
    with web_server.process(folder, "--slots", str(clients), *cluster) as (url, _):
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        urls = [picture(number) for number in range(clients)]
        warm = [[question("what is this?", one)] for one in urls]
        asyncio.run(timed(url, model, warm, 2))
        fresh = iter(range(1000, 100_000))

        def talk() -> list[list[list[dict[str, Any]]]]:
            words = (
                "on the left",
                "on the right",
                "at the top",
                "behind it",
                "in the middle",
                "red",
                "far away",
            )
            return [[question(f"what is {words[i % 7]}?", one) for i in range(each)] for one in urls]

        def captions() -> list[list[list[dict[str, Any]]]]:
            return [[question("", picture(next(fresh))) for _ in range(each)] for _ in range(clients)]

        for work, make in (
            ("questions about pictures it has seen", talk),
            ("captions of new pictures", captions),
        ):
            one_line = [list(chain(*make()))]
            alone, _, _ = asyncio.run(timed(url, model, one_line, tokens))
            together, slowest, written = asyncio.run(timed(url, model, make(), tokens))
            count = clients * each
            figures = Figures(
                name, work, clients, count, written, round(alone, 2), round(together, 2),
                round(alone / together, 2), round(written / together, 1), round(slowest, 2),
            )  # fmt: skip
            tell({work: asdict(figures)})


async def _soak(url: str, model: str, clients: int, seconds: float, tokens: int) -> dict[str, Any]:
    """Every client asks for its own pictures' answers, over and over; each is compared with the one it got alone."""
    texts = ("what is this?", "what is on the left?", "how many are there?", "")
    cases = [question(text, picture(number)) for number in range(clients // 2) for text in texts]
    wrong = answered = 0
    async with httpx.AsyncClient(
        base_url=url, timeout=120, params={"model": model}, limits=httpx.Limits(max_connections=clients)
    ) as client:
        alone = [(await ask(client, messages, tokens))[0] for messages in cases]
        ends = time.perf_counter() + seconds

        async def one_client(number: int) -> None:
            nonlocal wrong, answered
            rng = random.Random(number)
            while time.perf_counter() < ends:
                case = rng.randrange(len(cases))
                text, *_ = await ask(client, cases[case], tokens)
                answered += 1
                wrong += text != alone[case]

        await asyncio.gather(*[one_client(number) for number in range(clients)])
    return {
        "clients": clients, "seconds": seconds, "answers": answered, "distinct": len(set(alone)), "wrong": wrong,
    }  # fmt: skip


def soak(folder: str, clients: int, seconds: float, tokens: int = 8) -> dict[str, Any]:
    """Many clients at once, every answer its own: how many, and how many were wrong."""
    with web_server.process(folder) as (url, _):
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        return asyncio.run(_soak(url, model, clients, seconds, tokens))


def mid_size(folder: Path) -> str:
    """An fp32 model of twelve layers of 768, as it is served."""
    from blip2_chat.checkpoint.inspect import inspect
    from blip2_chat.engines.onnx.convert import convert
    from tests.support.checkpoints import make_checkpoint

    official = make_checkpoint(folder / "official", "opt", 0, num_query_tokens=32, **MID_SIZE)
    convert(inspect(official), folder / "converted", "fp32")
    return str(folder / "converted")


def main() -> None:
    parser = argparse.ArgumentParser(description="blip2-chat serve under load")
    parser.add_argument("--model", help="a folder or name; by default the embedded model and a mid-size one")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--each", type=int, default=3, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--replicas", type=int, default=0, help="on Ray, instead of one process")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="64 clients for so long instead")
    parser.add_argument("--bound", type=float, default=120, metavar="SECONDS", help="for one model")
    parser.add_argument("--seconds", type=float, default=3600, help="for all of it")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    deadline = Deadline(options.seconds)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = (options.clients, options.each, options.tokens, options.replicas)
    if options.one:
        measure(*options.one, *work)
        return
    result: Any = []
    if options.soak:
        result = soak(options.model or "demo", 64, options.soak)
        print(json.dumps(result, indent=1))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            models = {options.model: options.model} if options.model else {}
            models = models or {
                "embedded, 9 million weights": "demo",
                "mid-size, 12 × 768": mid_size(Path(temporary)),
            }
            sizes = [
                part for name, size in zip(("clients", "each", "tokens", "replicas"), work, strict=True)
                for part in (f"--{name}", size)
            ]  # fmt: skip
            for name, folder in models.items():
                seconds = min(options.bound, deadline.left())
                figures = figures_of("serve_load", "--one", name, folder, *sizes, seconds=seconds)
                failed = figures.pop("failed", None)
                result += figures.values()
                if failed:
                    result.append({"model": name, "failed": failed})
        print(f"{options.clients} clients, {os.cpu_count()} CPUs, {platform.machine()}")
        print(table(result))
    if not (options.model or options.soak or options.replicas):
        keep(RESULTS, result)
        put("docs/serve.md", RESULTS, table(result))


if __name__ == "__main__":
    main()
