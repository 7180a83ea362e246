"""`caption_all`, the run as a Python function."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.batch.errors import RunError
from blip2_chat.errors import GenerationError
from blip2_chat.images import open_picture
from blip2_chat.model import Model
from tests.support.batch import TASKS, go, make_pictures, options, rows_of


class TestCaptionAll:
    def test_is_the_run_without_files(self, model: Model, tmp_path: Path) -> None:
        photos = tmp_path / "photos"
        make_pictures(photos, 5)
        (photos / "bad.png").touch()
        go(model, options(photos, tmp_path / "c.jsonl"))
        results = list(blip2_chat.caption_all(photos, model=model, ask=["how many?"], **TASKS.settings))
        rows = [one.as_row() for one in results]
        for row in rows:
            del row["seconds"]
        assert rows == rows_of(tmp_path / "c.jsonl")

    def test_takes_pictures_lazily(self, model: Model, tmp_path: Path) -> None:
        given = 0
        others = set(threading.enumerate())  # a server of another test may still be there

        def pictures() -> Iterator[Any]:
            nonlocal given
            for path in make_pictures(tmp_path, 500):
                given += 1
                yield Image.open(path) if given % 2 else path.read_bytes()

        results = blip2_chat.caption_all(pictures(), model=model, batch_size=2, **TASKS.settings)
        first = next(results)
        assert first.caption is not None and first.path == "#0"
        assert given < 100, "read ahead of what was asked for"
        assert isinstance(results, Iterator)
        results.close()  # type: ignore[attr-defined]
        for thread in set(threading.enumerate()) - others:
            if thread.name.startswith("blip2-chat"):
                thread.join(60)  # it may be opening a picture
                assert not thread.is_alive()

    def test_caption_all_takes_what_open_picture_takes_as_one_picture(
        self, model: Model, tmp_path: Path
    ) -> None:
        (path,) = make_pictures(tmp_path, 1)
        data = path.read_bytes()
        pixels = np.asarray(Image.open(path))
        caption = model.generate(path, "", **TASKS.settings).text
        uri = "data:image/png;base64," + base64.b64encode(data).decode()
        record: dict[str, Any] = {"bytes": data, "path": None}
        ones: list[Any] = [path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path), pixels]
        ones += [open_picture(path), uri, record, {"bytes": None, "path": str(path)}]
        for one in ones:
            (result,) = blip2_chat.caption_all(one, model=model, **TASKS.settings)
            assert (result.caption, result.error) == (caption, None), type(one)
        results = list(blip2_chat.caption_all([*ones, np.stack([pixels])[0]], model=model, **TASKS.settings))
        assert {result.caption for result in results} == {caption} and len(results) == len(ones) + 1
        assert len(list(blip2_chat.caption_all(np.stack([pixels] * 3), model=model, **TASKS.settings))) == 3

    def test_a_file_that_is_not_a_picture_is_a_row_with_an_error(self, model: Model, tmp_path: Path) -> None:
        (path,) = make_pictures(tmp_path, 1)
        wrong: list[Any] = [
            "gone.png",
            "gone",
            tmp_path / "gone/",
            "gone.tar",
            "gone/*.png",
            b"",
            b"no picture",
            None,
        ]
        wrong += [
            {"bytes": None, "path": None},
            {"bytes": 3},
            np.zeros(3),
            7,
            "no\0path",
            "s3x://bucket/a.png",
        ]
        for one in wrong:
            *_, last = blip2_chat.caption_all([one, path], model=model, **TASKS.settings)
            assert last.error is None
        results = list(blip2_chat.caption_all([*wrong, path], model=model, **TASKS.settings))
        assert len(results) == len(wrong) + 1 and all(one.error for one in results[:-1])
        for one in ("gone.png", "gone", tmp_path / "gone", b"no picture"):
            (result,) = blip2_chat.caption_all(one, model=model)
            assert result.error is not None and result.caption is None

    def test_a_wrong_option_is_reported_at_once(self, model: Model, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="there are no pictures in"):
            blip2_chat.caption_all(tmp_path, model=model)
        for wrong in (None, 3):
            with pytest.raises(RunError, match="is neither a picture nor a collection of them"):
                blip2_chat.caption_all(wrong, model=model)  # type: ignore[arg-type]
        with pytest.raises(GenerationError, match="ask for captions"):
            blip2_chat.caption_all(tmp_path, model=model, captions=0)
        with pytest.raises(GenerationError, match=r"is \d+ tokens, and \d+ fit"):
            list(blip2_chat.caption_all([b""], model=model, ask=["why " * 900]))
