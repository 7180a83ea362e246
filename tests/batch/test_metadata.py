"""Runs that write captions into the metadata of pictures: once, again, with other wishes, killed in the middle."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs.metadata import Metadata
from blip2_chat.batch.result import Result
from blip2_chat.batch.run import Run, Summary
from blip2_chat.metadata.caption import in_xml
from blip2_chat.metadata.files import Places
from blip2_chat.metadata.keywords import keywords
from blip2_chat.metadata.packet import DC, IPTC, OWN, Packet
from blip2_chat.model import Model
from tests.support.batch import TASKS, digest, fork_run, make_pictures
from tests.support.forking import blip2_chat

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metadata.md").read_text(encoding="utf-8")
SAMPLES = Path(__file__).parents[2] / "samples"


def go(model: Model, photos: Path, places: Places, **more: Any) -> Summary:
    metadata = Metadata(places, more.pop("tagger", None))
    with Run(RunOptions((photos,), TASKS, metadata=metadata, batch_size=4, **more), {"model": "tiny"}) as run:
        return run.go(model)


def inside(path: Path) -> Packet:
    with Image.open(path) as image:
        return Packet(image.info["xmp"])


def beside(path: Path) -> Packet:
    return Packet(Path(f"{path}.xmp").read_bytes())


def counts(summary: Summary) -> dict[str, int]:
    return {name: count for name, count in summary.metadata.items() if count}


def test_every_picture_gets_its_own_caption_once(model: Model, tmp_path: Path, written: list[str]) -> None:
    pictures = make_pictures(tmp_path, 10)
    shutil.copy(pictures[3], tmp_path / "copy.png")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in pictures}
    assert counts(go(model, tmp_path, Places(sidecar=True))) == {"written": 11}
    for path in pictures:
        caption = model.generate(path, "", max_new_tokens=6).text
        assert beside(path).text(DC, "description") == in_xml(caption)
        assert (path.stat().st_mtime_ns, path.read_bytes()) == before[path]
    assert beside(tmp_path / "copy.png").text(DC, "description") == beside(pictures[3]).text(
        DC, "description"
    )
    assert beside(pictures[0]).text(OWN, "Model") == "tiny"

    done = len(written)
    again = go(model, tmp_path, Places(sidecar=True))
    assert counts(again) == {"unchanged": 11} and not again.done and not again.passed_over
    # Embedding is another wish about the same results: nothing is captioned for it.
    assert counts(go(model, tmp_path, Places(embed=True))) == {"written": 11}
    assert [digest(path) for path in pictures] == [model.open(path).digest for path in pictures]
    # Our own change of the files is none that calls for other captions.
    third = go(model, tmp_path, Places(embed=True))
    assert (third.done, third.changed, counts(third)) == (0, 0, {"unchanged": 11})
    assert len(written) == done == 10


def test_files_of_others_are_kept_and_not_even_captioned(
    model: Model, tmp_path: Path, written: list[str]
) -> None:
    pictures = make_pictures(tmp_path, 4)
    for path in pictures[:2]:
        packet = Packet()
        packet.set_default(DC, "description", "by hand")
        packet.set_default(IPTC, "AltTextAccessibility", "by hand")
        Path(f"{path}.xmp").write_bytes(packet.as_file())
    summary = go(model, tmp_path, Places(sidecar=True))
    assert counts(summary) == {"written": 2, "kept": 2} and summary.rows == 2 and len(written) == 2
    assert beside(pictures[0]).text(DC, "description") == "by hand"
    summary = go(model, tmp_path, Places(sidecar=True, overwrite=True))
    assert counts(summary) == {"written": 2, "unchanged": 2}
    assert beside(pictures[0]).text(DC, "description") != "by hand"
    # Edited afterwards, a text is somebody else's.
    packet = beside(pictures[3])
    packet.set_default(DC, "description", "edited")
    Path(f"{pictures[3]}.xmp").write_bytes(packet.as_file())
    assert counts(go(model, tmp_path, Places(sidecar=True))) == {"unchanged": 3, "kept": 1}
    assert beside(pictures[3]).text(DC, "description") == "edited"


def test_keywords_come_from_captions_or_from_whatever_ranks_them(model: Model, tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)

    def ranked(result: Result) -> list[str]:
        return ["beach", result.path[-3:]]

    go(model, tmp_path, Places(sidecar=True), tagger=ranked)
    assert beside(path).items(DC, "subject") == ["beach", "png"]
    go(model, tmp_path, Places(sidecar=True), tagger=lambda result: keywords(["a dog"]))
    assert beside(path).items(DC, "subject") == ["dog"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_pictures_that_cannot_be_written_are_counted_named_and_tried_again(
    model: Model, tmp_path: Path
) -> None:
    pictures = make_pictures(tmp_path, 5)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.open(pictures[0]).convert("P").save(tmp_path / "z.gif")
    pictures[1].chmod(0o444)
    summary = go(model, tmp_path, Places(embed=True))
    assert counts(summary) == {"written": 4, "failed": 2} and summary.failed == 1
    assert [Path(path).name for path, _ in summary.unwritten] == [pictures[1].name, "z.gif"]
    pictures[1].chmod(0o644)
    summary = go(model, tmp_path, Places(embed=True, sidecar=True))
    assert counts(summary) == {"written": 2, "unchanged": 4} and summary.done == 0
    assert beside(tmp_path / "z.gif").text(DC, "description") and not Path(f"{pictures[1]}.xmp").exists()


def test_a_picture_that_is_another_now_gets_no_caption_of_the_old_one(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = make_pictures(tmp_path, 3)
    commit = Run.keep

    def and_somebody_saves(self: Run, batches: Any, on_batch: Any = None) -> Summary:
        def watched() -> Any:
            for batch in batches:
                if not inner.exists():
                    inner.touch()
                    Image.new("RGB", (50, 40), "red").save(pictures[1])
                yield batch

        return commit(self, watched(), on_batch)

    inner = tmp_path / "once.txt"
    monkeypatch.setattr(Run, "keep", and_somebody_saves)
    summary = go(model, tmp_path, Places(embed=True))
    assert counts(summary) == {"written": 2, "failed": 1}
    assert "another picture than the one that was captioned" in str(summary.unwritten[0][1])
    assert "xmp" not in Image.open(pictures[1]).info
    # The next run finds it changed, captions it and writes.
    summary = go(model, tmp_path, Places(embed=True))
    assert summary.changed == 1 and counts(summary) == {"written": 1, "unchanged": 2}


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed(tiny: Path, tmp_path: Path, kills: int) -> None:
    photos = tmp_path / "photos"
    pictures = make_pictures(photos, 60)
    digests = [digest(path) for path in pictures]
    told = tmp_path / "told.txt"
    told.touch()
    options = RunOptions((photos,), TASKS, metadata=Metadata(Places(embed=True)), batch_size=3)
    draw = random.Random(2)
    for _ in range(kills):
        before = told.read_text(encoding="utf-8").count("\n")
        process = fork_run(tiny, options, told)
        wanted = before + draw.randrange(1, 6)
        while process.is_alive() and told.read_text(encoding="utf-8").count("\n") < wanted:
            process.join(0.002)
        process.join(draw.random() * 0.05)
        process.kill()
        process.join()
        # Whatever the moment: each file is whole, and is the picture that it was.
        assert [digest(path) for path in pictures] == digests
    process = fork_run(tiny, options, told)
    process.join(120)
    assert process.exitcode == 0
    assert all(inside(path).text(OWN, "Model") == "tiny" for path in pictures)
    assert not list(photos.rglob(".*.part"))
    # Nothing was captioned twice but what was in a batch when the process ended. One that ended between writing into
    # a file and telling of it has told nothing.
    lines = told.read_text(encoding="utf-8").splitlines()
    assert set(lines) <= set(map(str, pictures)) and len(lines) <= 60 + kills * 3


class TestCommand:
    def test_the_commands_of_the_documentation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The blocks of docs/metadata.md, one after the other, in a folder with photos/."""
        commands = [
            line
            for block in re.findall(r"^```bash\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
            for line in block.splitlines()
            if line.startswith("blip2-chat")
        ]
        assert len(commands) >= 3
        shutil.copytree(SAMPLES, tmp_path / "photos")
        shutil.copy(SAMPLES / "farm.png", tmp_path / "photo.jpg")
        monkeypatch.chdir(tmp_path)
        for command in commands:
            code, _, err = blip2_chat(*command.split()[1:])
            assert code == 0, err
        assert inside(tmp_path / "photos" / "farm.png").text(DC, "description")

    def test_the_python_of_the_documentation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.open(SAMPLES / "farm.png").convert("RGB").save(tmp_path / "photo.jpg")
        monkeypatch.chdir(tmp_path)
        for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL):
            exec(block, {})
        assert inside(tmp_path / "photo.jpg").text(DC, "description")

    def test_the_summary_says_what_was_done(self, tmp_path: Path) -> None:
        shutil.copytree(SAMPLES, tmp_path / "photos")
        count = len(list(SAMPLES.glob("*.png")))
        photos = tmp_path / "photos"
        blocked = photos / "farm.png"
        blocked.chmod(0o444)
        code, _, err = blip2_chat("run", photos, "--embed", "--tags", "--limit", "9")
        assert code == 3 and f"metadata: {count - 1} written, 1 failed" in err
        assert f"{blocked}: it is write-protected" in err and "Traceback" not in err
        blocked.chmod(0o644)
        code, _, err = blip2_chat("run", photos, "--embed", "--tags", "--limit", "9")
        assert code == 0 and f"metadata: 1 written, {count - 1} there already" in err
        assert inside(photos / "dog-and-apple.png").items(DC, "subject")[0] == "dog"

    def test_a_dry_run_writes_nothing(self, tmp_path: Path) -> None:
        shutil.copytree(SAMPLES, tmp_path / "photos")
        before = {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()}
        code, _, err = blip2_chat("run", tmp_path / "photos", "--embed", "--dry-run")
        assert code == 0, err
        assert {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()} == before

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "give --out (a .parquet, .jsonl, .csv or .tar file), --sidecar or --write xmp"),
            (["--tags"], "--tags, --tag-list, --keep-times and --xmp-style belong to --write xmp or --embed"),
            (["--write", "iptc"], "the only format is xmp"),
            (["--write", "xmp", "--xmp-style", "lightroom"], "is none of digikam, adobe"),
            (
                ["--overwrite", "--out", "a.csv"],
                "--overwrite belongs to --sidecar txt, --write xmp or --embed",
            ),
        ],
    )
    def test_options_that_do_not_fit_are_named(
        self, arguments: list[str], words: str, tmp_path: Path
    ) -> None:
        make_pictures(tmp_path, 1)
        code, _, err = blip2_chat("run", tmp_path, *arguments)
        assert code in (1, 2) and words in " ".join(err.split())


def test_sidecar_files_are_no_sources_of_a_pattern(model: Model, tmp_path: Path) -> None:
    """Neither photo.png.xmp nor photo.png.txt, which would be read as a list of pictures."""
    pictures = make_pictures(tmp_path, 2)
    shutil.copy(pictures[0], pictures[0].with_suffix(".jpeg"))
    for path in tmp_path.glob("*.*"):
        Path(f"{path}.xmp").write_bytes(Packet().as_file())
    for name in (pictures[0].name, f"{pictures[0].stem}.jpeg"):
        (tmp_path / f"{name}.txt").write_text("a caption\n")
    pattern = str(tmp_path / "*")
    options = RunOptions((pattern,), TASKS, out=str(tmp_path / "out.jsonl"))
    with Run(options, {"model": "tiny"}) as run:
        summary = run.go(model)
    assert (summary.rows, summary.failed, summary.passed_over) == (3, 0, {})
