"""The field's own files: VQAv2 and OK-VQA, GQA, and captions in Karpathy's, COCO's and NoCaps' formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import Blip2ChatError
from .presets import Task

Key = int | str
# How the answers are scored: as the VQA challenge does, against GQA's one answer, or as captions.
Kind = Literal["vqa", "gqa", "captions"]


@dataclass(frozen=True)
class Case:
    """One picture, the question about it (None: a caption is asked for), and what people wrote."""

    key: Key  # the set's own question id or picture id
    picture: Path
    question: str | None
    expected: tuple[str, ...]
    group: str = ""  # answer type (VQA), structural type (GQA), domain (NoCaps)


@dataclass(frozen=True)
class Benchmark:
    """A set, or its first cases; `total` is how many the whole set has."""

    name: str
    kind: Kind
    cases: tuple[Case, ...]
    total: int

    @property
    def task(self) -> Task:
        return "captions" if self.kind == "captions" else "vqa"


def open_vqa(questions: Path, annotations: Path, pictures: Path, limit: int | None = None) -> Benchmark:
    """VQAv2's or OK-VQA's questions and annotations; pictures by their COCO names (`COCO_val2014_…12 digits….jpg`,
    or without what is before the digits, or the plain id). `Blip2ChatError` when a file is something else."""
    asked = _read(questions)
    answered = _read(annotations)

    def cases() -> tuple[str, list[Case]]:
        people = {one["question_id"]: one for one in answered["annotations"]}
        subset = str(asked.get("data_subtype", ""))
        missing = [one["question_id"] for one in asked["questions"] if one["question_id"] not in people]
        if missing:
            raise Blip2ChatError(
                f"{annotations} has no annotation of question {missing[0]} in {questions}: are they of one set?"
            )
        find = _Finder(pictures, subset)
        found = []
        for one in asked["questions"][:limit]:
            annotation = people[one["question_id"]]
            said = tuple(str(answer["answer"]) for answer in annotation["answers"])
            picture = find(one["image_id"])
            group = str(annotation.get("answer_type", ""))
            found.append(Case(one["question_id"], picture, one["question"], said, group))
        first = answered["annotations"][0]["answers"][0] if answered["annotations"] else {}
        if "raw_answer" in first:
            return "OK-VQA", found
        year = "v1" if str(asked.get("info", {}).get("version", "2")).startswith("1") else "v2"
        return f"VQA{year} {'val' if 'val' in subset else subset or 'questions'}", found

    return _benchmark("vqa", questions, cases, lambda: len(asked["questions"]))


def open_gqa(questions: Path, pictures: Path, limit: int | None = None) -> Benchmark:
    """GQA's questions, a JSON object by question id; pictures are `IMAGEID.jpg`."""
    asked = _read(questions)

    def cases() -> tuple[str, list[Case]]:
        find = _Finder(pictures)
        found = []
        for key, one in list(asked.items())[:limit]:
            group = str(one.get("types", {}).get("structural") or "")
            found.append(Case(key, find(one["imageId"]), one["question"], (str(one["answer"]),), group))
        return "GQA", found

    return _benchmark("gqa", questions, cases, lambda: len(asked))


def open_captions(file: Path, pictures: Path, limit: int | None = None, split: str = "test") -> Benchmark:
    """Karpathy's `dataset_coco.json` (the pictures of `split`), LAVIS's `coco_karpathy_test.json`, or annotations in
    the format of COCO and NoCaps."""
    read = _read(file)
    total = 0

    def cases() -> tuple[str, list[Case]]:
        nonlocal total
        if isinstance(read, list):
            name, rows = "COCO Karpathy test" if "karpathy_test" in file.name else file.stem, _lavis(read)
        elif "annotations" in read:
            name, rows = _coco(read, file)
        else:
            name, rows = _karpathy(read, file, split)
        total = len(rows)
        find = _Finder(pictures)
        return name, [
            Case(key, find(key, *names), None, tuple(texts), group)
            for key, names, texts, group in rows[:limit]
        ]

    return _benchmark("captions", file, cases, lambda: total)


_Row = tuple[Key, tuple[str, ...], list[str], str]  # key, file names to try, captions, group


def _karpathy(read: dict[str, Any], file: Path, split: str) -> tuple[str, list[_Row]]:
    rows: list[_Row] = []
    for one in read["images"]:
        if one["split"] == split:
            inside = f"{one['filepath']}/{one['filename']}" if one.get("filepath") else one["filename"]
            key = one.get("cocoid", one.get("imgid"))
            rows.append((key, (inside, one["filename"]), [said["raw"] for said in one["sentences"]], ""))
    if not rows:
        known = ", ".join(sorted({str(one["split"]) for one in read["images"]}))
        raise Blip2ChatError(f"{file} has no pictures of the split {split!r}; it has {known}")
    dataset = read.get("dataset", "coco")
    which = {"coco": "COCO", "flickr30k": "Flickr30k"}.get(dataset, dataset)
    return f"{which} Karpathy {split}", rows


def _coco(read: dict[str, Any], file: Path) -> tuple[str, list[_Row]]:
    texts: dict[Key, list[str]] = {}
    for said in read["annotations"]:
        texts.setdefault(said["image_id"], []).append(said["caption"])
    is_nocaps = any("domain" in one for one in read["images"])
    rows: list[_Row] = []
    for one in read["images"]:
        names = (one["file_name"],) if "file_name" in one else ()
        if one["id"] in texts:
            rows.append((one["id"], names, texts[one["id"]], str(one.get("domain", ""))))
    return "NoCaps" if is_nocaps else file.stem, rows


def _lavis(read: list[Any]) -> list[_Row]:
    rows: list[_Row] = []
    for one in read:
        said = one["caption"] if isinstance(one["caption"], list) else [one["caption"]]
        rows.append((one.get("image_id", one["image"]), (one["image"],), said, ""))
    return rows


class _Finder:
    """Finds a picture in a folder by the names that the sets give it; `Blip2ChatError` when it is not there."""

    def __init__(self, folder: Path, subset: str = "") -> None:
        if not folder.is_dir():
            raise Blip2ChatError(f"{folder} is not a folder of pictures")
        self._folder = folder
        self._subset = subset

    def __call__(self, key: Key, *names: str) -> Path:
        tried = list(dict.fromkeys([*names, *(Path(name).name for name in names), *self._by_id(key)]))
        for name in tried:
            path = self._folder / name
            # Names come from a file that anyone may have written: none leads out of the folder.
            if ".." not in Path(name).parts and not Path(name).is_absolute() and path.is_file():
                return path
        raise Blip2ChatError(
            f"{self._folder} has no picture {tried[0]} (nor {', '.join(tried[1:3]) or 'another of its names'})"
        )

    def _by_id(self, key: Key) -> Iterable[str]:
        if isinstance(key, int):
            # The test questions of VQAv2 say "test-dev2015"; its pictures are those of test2015.
            subset = self._subset.replace("test-dev", "test")
            known = [subset] if subset else ["val2014", "train2014", "test2015"]
            for name in known:
                yield f"COCO_{name}_{key:012d}.jpg"
                yield f"{name}/COCO_{name}_{key:012d}.jpg"
            yield f"{key:012d}.jpg"
        for end in ("jpg", "jpeg", "png"):
            yield f"{key}.{end}"


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Blip2ChatError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise Blip2ChatError(f"{file} is not JSON: {error}") from None


def _benchmark(
    kind: Kind, file: Path, cases: Callable[[], tuple[str, Sequence[Case]]], total: Callable[[], int]
) -> Benchmark:
    try:
        name, found = cases()
        _check(found)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        formats = {
            "vqa": "questions and annotations of VQAv2 or OK-VQA",
            "gqa": "questions of GQA",
            "captions": "captions in the format of Karpathy, COCO or NoCaps",
        }
        raise Blip2ChatError(f"{file} does not hold {formats[kind]} ({error!r})") from None
    if not found:
        raise Blip2ChatError(f"{file} has nothing to ask")
    return Benchmark(name, kind, tuple(found), total())


def _check(cases: Sequence[Case]) -> None:
    for case in cases:
        texts = [*case.expected, *([case.question] if case.question is not None else [])]
        if not case.expected or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"no answers in words for {case.key}")
        if case.question is not None and not case.question.strip():
            raise ValueError(f"an empty question, {case.key}")
    if len({case.key for case in cases}) < len(cases):
        raise ValueError("an id that occurs twice")
