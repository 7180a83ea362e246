"""Damages a model folder in many ways, one after the other, and loads and asks it each time.

    python -m tests.support.model_folder_fuzz FOLDER SCRATCH FIRST COUNT

A process of its own, because a crash is one of the things looked for. Per case a JSON line: before it `{"case": …}`,
after it the same with what happened. The seed is the number of the case.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import blip2_chat
from blip2_chat import Blip2ChatError

NASTY: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        2**31,
        2**63,
        2**64,
        10**30,
        -(2**63),
        0.0,
        0.5,
        -1.5,
        1e300,
        1e-300,
    ),
    *("", "0", "gelu", "../x", "/etc/passwd", "\x1b[2J\n", "\ud800", "x" * 100_000, "O", "float64", "\u202e"),
    *([], {}, [[]], [0], [-1], ["a"], {"a": 1}, [1] * 1000, list(range(10)), [None], {"": None}),
    *(float("nan"), float("inf")),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        found += places(value, (*path, key))
    return found


def mutate_json(raw: Any, draw: random.Random) -> Any:
    """Some values replaced, removed, renamed or doubled; the higher ones as often as the many below them."""
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        found = places(raw)
        if len(found) == 1 or draw.random() < 0.02:
            return copy.deepcopy(draw.choice(NASTY))
        depth = draw.randint(1, max(map(len, found)))
        path = draw.choice([one for one in found if 0 < len(one) <= depth])
        parent = raw
        for key in path[:-1]:
            parent = parent[key]
        what = draw.randrange(5)
        if what == 0:
            del parent[path[-1]]
        elif what == 1 and isinstance(parent, dict):
            parent[str(copy.deepcopy(draw.choice(NASTY)))[:50]] = parent.pop(path[-1])
        elif what == 2 and type(parent[path[-1]]) is int:
            parent[path[-1]] += draw.choice([-1, 1, 8, -8, 1000])
        else:
            parent[path[-1]] = copy.deepcopy(draw.choice(NASTY))
    return raw


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        at = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 200) + 1)
        what = draw.randrange(5)
        if what == 0:
            data[at:] = b""
        elif what == 1:
            data[at : at + draw.choice([1, 8, 100])] = b""
        elif what == 2:
            data[at:at] = draw.randbytes(draw.choice([1, 8, 100]))
        else:
            data[at : at + 1] = draw.randbytes(1)
    return bytes(data)


def mutate_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header is other JSON."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(mutate_json(json.loads(content[8 : 8 + length]), draw)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def damage(folder: Path, draw: random.Random) -> str:
    """Changes one file; of a converted folder, its manifest is made to agree most of the time."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    # Of these nothing is read.
    idle = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json")
    path = draw.choices(files, [0.1 if path.name in idle else 1 for path in files])[0]
    content = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.8:
        changed = json.dumps(mutate_json(json.loads(content), draw)).encode("utf-8", "surrogatepass")
    elif path.suffix == ".safetensors" and draw.random() < 0.8:
        changed = mutate_header(content, draw)
    else:
        changed = mutate_bytes(content, draw)
    path.write_bytes(changed)
    manifest = folder / "blip2-chat.json"
    if manifest.exists() and path != manifest and draw.random() < 0.8:
        raw = json.loads(manifest.read_text("utf-8"))
        raw["sizes"][path.name] = len(changed)
        manifest.write_text(json.dumps(raw), "utf-8")
    return path.name


def attempt(folder: Path) -> str:
    picture = np.full((20, 20, 3), 99, np.uint8)
    try:
        model = blip2_chat.load(folder, engine="onnx", precision="auto", threads=1)
        try:
            model.generate(picture, "a cat", max_new_tokens=2)
        finally:
            model.close()
    except Blip2ChatError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 500 + 2 * len(str(folder)):
            return f"message of {len(message)} characters: {message[:1000]!a}"
        return "refused"
    except Exception:
        return traceback.format_exc()
    return "loaded"


def main() -> None:
    source, scratch, first, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ["BLIP2_CHAT_CACHE"] = str(scratch / "cache")
    warnings.simplefilter("ignore")
    for case in range(first, first + count):
        draw = random.Random(case)
        folder = scratch / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        name = damage(folder, draw)
        print(json.dumps({"case": case, "file": name}), flush=True)
        started = time.monotonic()
        outcome = attempt(folder)
        seconds = round(time.monotonic() - started, 1)
        print(json.dumps({"case": case, "file": name, "outcome": outcome, "seconds": seconds}), flush=True)
        shutil.rmtree(scratch / "cache", ignore_errors=True)


if __name__ == "__main__":
    main()
