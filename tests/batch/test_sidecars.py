"""Captions as text files beside the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip2_chat.batch.captioner import Tasks
from blip2_chat.batch.errors import RunError
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs.sidecar import Sidecar
from blip2_chat.batch.run import Summary
from blip2_chat.model import Model
from tests.support.batch import TASKS, go, make_pictures


class TestSidecars:
    def run(self, model: Model, photos: Path, sidecar: Sidecar, **more: Any) -> Summary:
        made = RunOptions((photos,), more.pop("tasks", TASKS), None, sidecar, batch_size=2, **more)
        return go(model, made)[0]

    def test_one_line_per_caption_with_trigger_prefix_and_suffix(self, model: Model, tmp_path: Path) -> None:
        photos = tmp_path / "photos"
        pictures = make_pictures(photos, 4)
        sidecar = Sidecar(prefix="a photo of ", suffix=", 4k", trigger="sks")
        summary = self.run(model, photos, sidecar, tasks=Tasks(2, (), {"max_new_tokens": 5}))
        assert summary.sidecars == {"written": 4}
        for path in pictures:
            answer = model.generate(path, "", max_new_tokens=5, num_beams=2, num_answers=2)
            texts = [" ".join(f"a photo of {one.text}, 4k".split()) for one in (answer, *answer.others)]
            lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
            assert lines == [f"sks, {text}" for text in texts]
        assert (photos / ".blip2-chat.progress").is_file()

    def test_files_of_others_are_left_alone_and_own_ones_follow_new_wishes(
        self, model: Model, tmp_path: Path
    ) -> None:
        photos = tmp_path / "photos"
        (first, second) = make_pictures(photos, 2)
        first.with_suffix(".txt").write_text("by hand", encoding="utf-8")
        summary = self.run(model, photos, Sidecar(trigger="one"))
        assert summary.sidecars == {"written": 1, "kept": 1}
        summary = self.run(model, photos, Sidecar(trigger="two"))
        assert summary.done == 0 and summary.sidecars == {"written": 1, "kept": 1}
        assert second.with_suffix(".txt").read_text(encoding="utf-8").startswith("two, ")
        assert first.with_suffix(".txt").read_text(encoding="utf-8") == "by hand"
        second.with_suffix(".txt").write_text("edited", encoding="utf-8")
        self.run(model, photos, Sidecar(trigger="three"))
        assert second.with_suffix(".txt").read_text(encoding="utf-8") == "edited"
        self.run(model, photos, Sidecar(trigger="four", overwrite=True))
        assert first.with_suffix(".txt").read_text(encoding="utf-8").startswith("four, ")

    def test_pictures_that_differ_in_the_ending_alone_have_sidecars_of_their_own(
        self, model: Model, tmp_path: Path
    ) -> None:
        photos = tmp_path / "photos"
        paths = make_pictures(photos, 3)
        for path, name in zip(paths, ("seq.0001.png", "SEQ.0001.PNG.BMP", "seq.0002.png"), strict=True):
            path.rename(photos / name)
        with Image.open(photos / "seq.0002.png") as image:
            image.save(photos / "seq.0001.bmp")
            image.save(photos / "seq", "PNG")
        pictures = ["SEQ.0001.PNG.BMP", "seq", "seq.0001.bmp", "seq.0001.png", "seq.0002.png"]
        texts = ["SEQ.0001.PNG.BMP.txt", "seq.txt", "seq.0001.bmp.txt", "seq.0001.png.txt", "seq.0002.txt"]
        for limit in (2, None):  # what else is read does not change a name
            self.run(model, photos, Sidecar(trigger="t"), tasks=Tasks(1, (), TASKS.settings), limit=limit)
        for picture, text in zip(pictures, texts, strict=True):
            mine = " ".join(model.generate(photos / picture, "", **TASKS.settings).text.split())
            assert (photos / text).read_text(encoding="utf-8") == f"t, {mine}\n"
        assert len(list(photos.glob("*.txt"))) == 5

    def test_an_existing_text_file_skips_its_picture(
        self, model: Model, tmp_path: Path, written: list[str]
    ) -> None:
        photos = tmp_path / "photos"
        for path in make_pictures(photos, 4)[:3]:
            path.with_suffix(".txt").write_text("by hand", encoding="utf-8")
        summary = self.run(model, photos, Sidecar())
        assert len(written) == 1 and summary.sidecars == {"written": 1, "kept": 3} and summary.rows == 1
        assert self.run(model, photos, Sidecar()).sidecars == {"kept": 3}
        assert len(written) == 1
        # An outcome has all rows.
        both = RunOptions((photos,), TASKS, str(tmp_path / "c.jsonl"), Sidecar())
        assert go(model, both)[0].rows == 4

    @pytest.mark.parametrize("join", ["append", "prepend"])
    def test_adding_to_text_files(self, model: Model, tmp_path: Path, join: Any) -> None:
        photos = tmp_path / "photos"
        paths = make_pictures(photos, 4)
        tasks = Tasks(1, (), TASKS.settings)
        new = [" ".join(model.generate(path, "", **TASKS.settings).text.split()) for path in paths]
        for path, old in zip(paths, ("tag, Ä,\n", "one\ntwo\n", ""), strict=False):
            path.with_suffix(".txt").write_text(old, encoding="utf-16" if "Ä" in old else "utf-8")
        for fresh in (False, False, True):  # once, however often it is run
            self.run(model, photos, Sidecar(join=join), tasks=tasks, fresh=fresh)
        texts = [path.with_suffix(".txt").read_text(encoding="utf-8") for path in paths]
        if join == "append":
            assert texts == [f"tag, Ä, {new[0]}\n", f"one\ntwo\n{new[1]}\n", f"{new[2]}\n", f"{new[3]}\n"]
        else:
            assert texts == [f"{new[0]}, tag, Ä,\n", f"{new[1]}\none\ntwo\n", f"{new[2]}\n", f"{new[3]}\n"]
        with pytest.raises(RunError, match="give one of them"):
            Sidecar(join=join, overwrite=True)
