"""`blip2-chat evaluate` on the field's own files: read as they are published, asked as the papers did, resumable."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.errors import Blip2ChatError
from blip2_chat.evaluation.benchmark_run import BenchmarkRun
from blip2_chat.evaluation.benchmarks import open_captions, open_gqa, open_vqa
from blip2_chat.evaluation.held_out import HeldOut
from blip2_chat.evaluation.presets import PRESETS, plain_question, preset_for, published


@dataclass
class Files:
    """Tiny sets of drawn scenes in the official formats."""

    folder: Path
    questions: int
    pictures: int

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name.replace("_json", ".json"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("sets")
    (folder / "images" / "val2014").mkdir(parents=True)
    held_out = HeldOut.open("seen")
    asked = [one for one in held_out.questions if not one.turns][:10]
    told = list({one.picture: one for one in held_out.captions[:4]}.values())
    ids: dict[str, int] = {}
    with zipfile.ZipFile(held_out.path) as archive:
        for name in [*(one.picture for one in asked), *(one.picture for one in told)]:
            place = ids.setdefault(name, len(ids) + 1)
            (folder / f"images/val2014/COCO_val2014_{place:012d}.jpg").write_bytes(archive.read(name))
            (folder / f"images/n{place}.jpg").write_bytes(archive.read(name))

    def write(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    write(
        "questions.json",
        {
            "info": {"version": "2.0"},
            "data_subtype": "val2014",
            "questions": [
                {"question_id": 100 + at, "image_id": ids[one.picture], "question": one.question}
                for at, one in enumerate(asked)
            ],
        },
    )
    for name, extra in (("annotations.json", {}), ("ok.json", {"raw_answer": "so"})):
        people = [
            [{"answer": one.answer, "answer_id": at, **extra} for at in range(9)]
            + [{"answer": "nothing", "answer_id": 9, **extra}]
            for one in asked
        ]
        rows = [
            {"question_id": 100 + at, "answer_type": "other" if at % 2 else "number", "answers": said}
            for at, said in enumerate(people)
        ]
        write(name, {"annotations": rows})
    write(
        "gqa.json",
        {
            f"0{at}": {"imageId": f"n{ids[one.picture]}", "question": one.question, "answer": one.answer}
            for at, one in enumerate(asked)
        },
    )
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{ids[one.picture]:012d}.jpg",
            "cocoid": ids[one.picture],
            "split": "test" if at else "train",
            "sentences": [{"raw": one.caption, "tokens": one.caption.split()}],
        }
        for at, one in enumerate(told)
    ]
    write("karpathy.json", {"dataset": "coco", "images": images})
    domains = ["in-domain", "near-domain", "out-domain"]
    write(
        "nocaps.json",
        {
            "images": [
                {"id": at, "file_name": f"n{ids[one.picture]}.jpg", "domain": domains[at % 3]}
                for at, one in enumerate(told)
            ],
            "annotations": [
                {"id": 10 * at + twice, "image_id": at, "caption": one.caption}
                for at, one in enumerate(told)
                for twice in range(2)
            ],
        },
    )
    write(
        "lavis.json", [{"image": one["filename"], "caption": [one["sentences"][0]["raw"]]} for one in images]
    )
    return Files(folder, len(asked), len(told))


@pytest.fixture(scope="module")
def model() -> blip2_chat.Model:
    return blip2_chat.load()


@pytest.fixture(autouse=True)
def _loaded_once(model: blip2_chat.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)


def evaluate(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def figures(*arguments: str) -> dict[str, Any]:
    result = evaluate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    read: dict[str, Any] = json.loads(result.stdout)
    return read


def test_vqa_questions_are_asked_as_the_preset_says(model: blip2_chat.Model, files: Files) -> None:
    found = figures("--vqa", files.questions_json, files.annotations_json, files.images)
    assert (found["benchmark"], found["preset"]) == ("VQAv2 val", "blip2-vqa")
    assert (found["answered"], found["total"]) == (files.questions, files.questions)
    # By hand: what 9 of 10 people said scores 1, what one said 0.3.
    cases = open_vqa(Path(files.questions_json), Path(files.annotations_json), Path(files.images)).cases
    assert {case.group for case in cases} == {"number", "other"}
    points = []
    for case in cases:
        said = model.generate(
            case.picture,
            f"Question: {plain_question(case.question or '')} Answer:",
            num_beams=5,
            length_penalty=-1.0,
            max_new_tokens=10,
            min_new_tokens=1,
        )
        bare = str(said).removeprefix("a ").removeprefix("an ")
        is_right = bare == case.expected[0].removeprefix("a ").removeprefix("an ")
        points.append(1.0 if is_right else 0.3 if bare == "nothing" else 0.0)
    assert found["scores"]["accuracy"] == pytest.approx(100 * sum(points) / len(points), abs=0.01)
    assert found["scores"]["accuracy"] > 50
    shown = evaluate("--vqa", files.questions_json, files.ok_json, files.images, "--limit", "3")
    assert "on OK-VQA, preset blip2-vqa: 3 of 10 questions" in shown.stdout


def test_gqa_is_exact_match(files: Files) -> None:
    found = figures("--gqa", files.gqa_json, files.images, "--preset", "chat")
    assert found["scores"]["exact match"] >= 50
    # The drawn scenes' answers have articles, GQA's have none.
    assert found["scores"]["LAVIS accuracy"] <= found["scores"]["exact match"]


def test_captions_in_three_formats_have_one_score(files: Files) -> None:
    karpathy = figures("--captions", files.karpathy_json, files.images, "--preset", "chat")
    assert karpathy["benchmark"] == "COCO Karpathy test"
    assert karpathy["total"] == files.pictures - 1
    assert 0 < karpathy["scores"]["BLEU-4"] <= 100
    nocaps = figures("--captions", files.nocaps_json, files.images, "--preset", "chat")
    assert nocaps["benchmark"] == "NoCaps"
    assert {"CIDEr", "CIDEr in-domain", "CIDEr near-domain", "CIDEr out-domain"} < set(nocaps["scores"])
    lavis = figures("--captions", files.lavis_json, f"{files.images}/val2014", "--preset", "chat")
    assert lavis["total"] == files.pictures
    assert lavis["scores"]["CIDEr"] == nocaps["scores"]["CIDEr"]
    result = evaluate("--captions", files.karpathy_json, files.images, "--limit", "1")
    assert "preset blip2-caption: 1 of" in result.stdout
    assert "SPICE" in result.stdout or result.stderr.count("SPICE is left out") == 1


def test_interrupted_it_tells_the_score_and_resumes(
    model: blip2_chat.Model, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--vqa", files.questions_json, files.annotations_json, files.images, "--json"]
    whole = json.loads(evaluate(*command).stdout)
    saved = tmp_path / "answers.jsonl"
    write = BenchmarkRun._write

    def once(self: BenchmarkRun, cases: Any) -> list[str]:
        if self.answers:
            raise KeyboardInterrupt
        return write(self, cases)

    with monkeypatch.context() as patched:
        patched.setattr(BenchmarkRun, "_write", once)
        broken = evaluate(*command, "--save", str(saved))
    assert broken.exit_code == 130
    assert json.loads(broken.stdout)["answered"] == 8
    saved.write_bytes(saved.read_bytes() + b'{"question_id": 108, "answ')  # killed while it wrote
    resumed = evaluate(*command, "--save", str(saved))
    assert json.loads(resumed.stdout)["scores"] == whole["scores"]
    assert "8 answers are in" in resumed.stderr
    lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [line["question_id"] for line in lines[1:]] == list(range(100, 110))
    other = evaluate(*command, "--save", str(saved), "--preset", "chat")
    assert other.exit_code == 1 and "has answers of another preset (blip2-vqa)" in other.stderr
    (tmp_path / "mine.txt").write_text("my letters\n")
    kept = evaluate(*command, "--save", str(tmp_path / "mine.txt"))
    assert kept.exit_code == 1 and "is not a file of answers" in kept.stderr
    assert (tmp_path / "mine.txt").read_text() == "my letters\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("questions.json", "no json", "is not JSON"),
        ("questions.json", "[" * 100_000, "is not JSON"),
        ("questions.json", "[1]", "does not hold questions and annotations of VQAv2"),
        ("questions.json", '{"questions": []}', "has nothing to ask"),
        ("questions.json", '{"questions": [{"question_id": 5}]}', "has no annotation of question 5"),
        (
            "questions.json",
            '{"questions": [{"question_id": 1, "image_id": 7, "question": "?"}]}',
            "has no picture",
        ),
        (
            "questions.json",
            '{"questions": [{"question_id": 1, "image_id": "../x", "question": "?"}]}',
            "has no picture",
        ),
    ],
)
def test_a_wrong_file_is_one_line(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(content)
    (tmp_path / "annotations.json").write_text(
        '{"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}]}]}'
    )
    result = evaluate(
        "--vqa", str(tmp_path / name), str(tmp_path / "annotations.json"), str(tmp_path / "images")
    )
    assert result.exit_code == 1
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_other_wrong_files(files: Files, tmp_path: Path) -> None:
    images = Path(files.images)
    for opened, said in (
        (lambda: open_gqa(Path(files.karpathy_json), images), "does not hold questions of GQA"),
        (lambda: open_captions(Path(files.gqa_json), images), "does not hold captions"),
        (lambda: open_captions(Path(files.karpathy_json), images, split="val"), "it has test, train"),
        (lambda: open_captions(tmp_path / "absent.json", images), "cannot be read"),
        (lambda: open_captions(Path(files.karpathy_json), tmp_path / "no"), "is not a folder of pictures"),
    ):
        with pytest.raises(Blip2ChatError, match=said):
            opened()
    assert "give one of" in evaluate("--gqa", "a", "b", "--set", "seen").stderr
    assert "--preset and --save need --vqa" in evaluate("--preset", "chat").stderr
    assert "choose from" in evaluate("--gqa", files.gqa_json, files.images, "--preset", "paper").stderr


def test_presets_are_the_papers(files: Files) -> None:
    paper = PRESETS["blip2-vqa"]
    assert paper.prompt("opt", "What's THE (time)?") == "Question: what's the time? Answer:"
    assert paper.prompt("t5", "Why?") == "Question: why? Short answer:"
    assert paper.settings("opt").length_penalty == paper.settings("t5").length_penalty == -1
    assert PRESETS["lavis-vqa"].prompt("opt", "Why?") == "Question: why? Short answer:"
    captions = preset_for("captions", None)
    assert captions.prompt("t5", None) == "a photo of"
    assert (captions.decoding.num_beams, captions.decoding.min_new_tokens) == (5, 8)
    with pytest.raises(Blip2ChatError, match="choose from blip2-vqa, lavis-vqa, chat"):
        preset_for("vqa", "blip2-caption")


def test_published_figures_are_found_by_the_checkpoint() -> None:
    paper = published("Salesforce/blip2-opt-2.7b", "VQAv2 val", "blip2-vqa")
    assert paper["accuracy"].value == 53.5
    assert (
        published("models/blip2-opt-2.7b-coco-int8", "COCO Karpathy test", "blip2-caption")["CIDEr"].value
        == 145.8
    )
    assert published("models/blip2-flan-t5-xl", "GQA", "lavis-vqa")["LAVIS accuracy"].value == 43.98
    assert published("demo", "VQAv2 val", "blip2-vqa") == {}
    assert published("Salesforce/blip2-opt-2.7b", "VQAv2 val", "chat") == {}
