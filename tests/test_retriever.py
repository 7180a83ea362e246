"""What `load_retriever` and `Retriever` promise; for the numbers see tests/engines/test_retrieval.py."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.errors import CheckpointError, GenerationError, PictureError
from blip2_chat.retriever import Encoded, Retriever, best_of_queries
from tests.support.checkpoints import change_json, make_checkpoint, make_retriever

TEXTS = ["a woman and her dog", "two cats on a pink blanket", "the beach"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_retriever(tmp_path_factory.mktemp("retriever") / "model", std=0.3)


@pytest.fixture
def retriever(folder: Path) -> Retriever:
    return blip2_chat.load_retriever(folder, threads=1)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(20)]


def test_many_are_as_each_alone(retriever: Retriever, pictures: list[Image.Image]) -> None:
    """Whatever the batches inside: more pictures than go into one."""
    embeddings = retriever.embed_pictures(pictures)
    assert embeddings.shape == (20, 5, 16) and embeddings.dtype == np.float32
    for one, rows in zip(pictures, embeddings, strict=True):
        np.testing.assert_allclose(retriever.embed_picture(one), rows, rtol=0, atol=1e-6)
    texts = retriever.embed_texts(TEXTS)
    for text, row in zip(TEXTS, texts, strict=True):
        np.testing.assert_allclose(retriever.embed_text(text), row, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=-1), 1, rtol=0, atol=1e-6)
    matched = retriever.match_pictures(pictures, TEXTS[0])
    alone = [retriever.match(one, TEXTS[0]) for one in pictures]
    np.testing.assert_allclose(matched, alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        retriever.match_texts(pictures[0], TEXTS * 7),
        [retriever.match(pictures[0], text) for text in TEXTS] * 7,
        rtol=0,
        atol=1e-6,
    )


def test_similarity_is_the_best_query(retriever: Retriever, pictures: list[Image.Image]) -> None:
    scores = retriever.similarity(pictures[:3], TEXTS)
    assert scores.shape == (3, 3) and np.abs(scores).max() <= 1
    for i, picture in enumerate(pictures[:3]):
        for j, text in enumerate(TEXTS):
            by_query = [float(row @ retriever.embed_text(text)) for row in retriever.embed_picture(picture)]
            assert scores[i, j] == pytest.approx(max(by_query), abs=1e-6)


def test_nothing_gives_nothing(retriever: Retriever, pictures: list[Image.Image]) -> None:
    assert retriever.embed_pictures([]).shape == (0, 5, 16)
    assert retriever.embed_texts([]).shape == (0, 16)
    assert retriever.similarity([], TEXTS).shape == (0, 3)
    assert retriever.similarity(pictures[:2], []).shape == (2, 0)
    assert retriever.match_pictures([], "a dog").shape == (0,)
    assert retriever.rank(pictures[0], []) == []


def test_an_encoded_picture_stands_for_the_picture(
    retriever: Retriever, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features can be kept elsewhere, and nothing is encoded again."""
    wanted = (retriever.similarity(pictures, TEXTS), retriever.match_pictures(pictures, TEXTS[0]))
    kept = [Encoded(one.features.copy(), one.digest) for one in retriever.encode_all(pictures)]
    monkeypatch.setattr(retriever.engine, "encode_image", None)
    np.testing.assert_array_equal(retriever.similarity(kept, TEXTS), wanted[0])
    np.testing.assert_array_equal(retriever.match_pictures(kept, TEXTS[0]), wanted[1])
    # The pictures themselves are remembered by their content, too.
    again = [Image.fromarray(np.asarray(one)) for one in pictures]
    np.testing.assert_array_equal(retriever.match_pictures(again, TEXTS[0]), wanted[1])


def test_rank_orders_texts_by_whether_they_match(retriever: Retriever, pictures: list[Image.Image]) -> None:
    ranked = retriever.rank(pictures[0], TEXTS)
    assert {one.text for one in ranked} == set(TEXTS)
    assert [one.probability for one in ranked] == sorted((one.probability for one in ranked), reverse=True)
    for one in ranked:
        assert one.probability == pytest.approx(retriever.match(pictures[0], one.text), abs=1e-6)
        assert one.similarity == pytest.approx(retriever.similarity(pictures[:1], [one.text])[0, 0], abs=1e-6)


def test_best_of_queries_of_stored_embeddings() -> None:
    rng = np.random.default_rng(0)
    pictures, texts = rng.standard_normal((4, 3, 8)), rng.standard_normal((5, 8))
    wanted = np.einsum("pqe,te->ptq", pictures, texts).max(axis=-1)
    np.testing.assert_allclose(
        best_of_queries(pictures.astype(np.float32), texts.astype(np.float32)), wanted, atol=1e-5
    )


def test_one_picture_or_text_in_place_of_a_list(retriever: Retriever, pictures: list[Image.Image]) -> None:
    for wrong in ("photo.jpg", pictures[0], np.zeros((9, 9, 3), np.uint8), retriever.encode(pictures[0])):
        with pytest.raises(PictureError, match="a list of pictures was expected"):
            retriever.embed_pictures(wrong)  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="give a list of texts"):
        retriever.embed_texts("a dog")
    with pytest.raises(GenerationError, match="a text to match is empty"):
        retriever.match(pictures[0], "  ")


def test_a_pickle_is_its_name_and_settings(retriever: Retriever, pictures: list[Image.Image]) -> None:
    pickled = pickle.dumps(retriever)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.embed_picture(pictures[0]), retriever.embed_picture(pictures[0]))


def test_identity_tells_models_and_precisions_apart(folder: Path, tmp_path: Path) -> None:
    first = blip2_chat.load_retriever(folder, precision="fp32").identity
    assert blip2_chat.load_retriever(folder, precision="fp32").identity == first
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert blip2_chat.load_retriever(moved, precision="fp32").identity == first
    assert blip2_chat.load_retriever(folder, precision="int8").identity != first
    other = make_retriever(tmp_path / "other", seed=1)
    assert blip2_chat.load_retriever(other, precision="fp32").identity != first


def test_a_converted_folder_loads(folder: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    from blip2_chat.checkpoint.inspect import inspect_retriever
    from blip2_chat.conversion.convert import convert
    from blip2_chat.engines.onnx import load_onnx_engine
    from blip2_chat.engines.onnx.manifest import Manifest

    made = convert(inspect_retriever(folder), tmp_path / "int8", "int8", name=str(folder))
    converted = blip2_chat.load_retriever(made)
    wanted = blip2_chat.load_retriever(folder, precision="int8")
    np.testing.assert_array_equal(converted.embed_picture(pictures[0]), wanted.embed_picture(pictures[0]))
    # It was compared with float32, on two shipped pictures with the captions of all six.
    fidelity = Manifest.from_folder(made).fidelity
    assert fidelity is not None
    assert (fidelity.pictures, fidelity.tokens) == (2, 16)
    assert 0 < fidelity.vector_error < 0.2
    with pytest.raises(CheckpointError, match="is converted to int8"):
        blip2_chat.load_retriever(made, precision="fp32")
    with pytest.raises(CheckpointError, match="matches pictures with texts"):
        blip2_chat.load(made)
    with pytest.raises(CheckpointError, match="matches pictures with texts"):
        load_onnx_engine(made)


@pytest.mark.parametrize("file", ["matching.onnx", "matching.onnx.data", "vocab.txt"])
def test_a_conversion_cut_short_is_refused(folder: Path, tmp_path: Path, file: str) -> None:
    from blip2_chat.checkpoint.inspect import inspect_retriever
    from blip2_chat.engines.onnx.convert import convert

    convert(inspect_retriever(folder), tmp_path / "m", "fp32")
    (tmp_path / "m" / file).write_bytes((tmp_path / "m" / file).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{file} is (missing or )?not"):
        blip2_chat.load_retriever(tmp_path / "m")


def test_calibration_with_pictures(folder: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    from blip2_chat.checkpoint.inspect import inspect_retriever
    from blip2_chat.conversion.calibration import NONE, Calibration
    from blip2_chat.conversion.convert import convert

    (tmp_path / "pictures").mkdir()
    for number, one in enumerate(pictures[:3]):
        one.save(tmp_path / "pictures" / f"{number}.png")
    calibration = Calibration(pictures=tmp_path / "pictures")
    made = convert(
        inspect_retriever(folder), tmp_path / "m", "int8", name="m", calibration=calibration, check=False
    )
    uncalibrated = convert(
        inspect_retriever(folder), tmp_path / "plain", "int8", name="m", calibration=NONE, check=False
    )
    plain = blip2_chat.load_retriever(uncalibrated).embed_picture(pictures[0])
    calibrated = blip2_chat.load_retriever(made).embed_picture(pictures[0])
    assert (plain != calibrated).any()
    assert (plain * calibrated).sum(axis=-1).min() > 0.9


# Names


def test_a_chat_model_is_told_kindly(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not match pictures with texts; name one that does"):
        blip2_chat.load_retriever(make_checkpoint(tmp_path))


def test_the_default_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blip2_chat.checkpoint import embedded

    monkeypatch.delenv("BLIP2_CHAT_RETRIEVER", raising=False)
    monkeypatch.setitem(embedded._FOLDERS, "demo-retrieval", tmp_path / "absent")
    with pytest.raises(CheckpointError, match="demo-retrieval is not part of this installation; name a") as e:
        blip2_chat.load_retriever()
    assert "Salesforce/blip2-itm-vit-g" in str(e.value) and "BLIP2_CHAT_RETRIEVER" in str(e.value)
    monkeypatch.setitem(embedded._FOLDERS, "demo-retrieval", folder)
    assert blip2_chat.load_retriever().name == "demo-retrieval"
    other = make_retriever(tmp_path / "other")
    monkeypatch.setenv("BLIP2_CHAT_RETRIEVER", str(other))
    assert blip2_chat.load_retriever().name == str(other)


def test_another_checkpoints_processor(folder: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    for name in ("vocab.txt", "preprocessor_config.json", "tokenizer_config.json", "added_tokens.json"):
        (bare / name).unlink()
    with pytest.raises(CheckpointError, match=r"lacks vocab\.txt"):
        blip2_chat.load_retriever(bare)
    found = blip2_chat.load_retriever(bare, processor=folder).similarity(pictures[:2], TEXTS)
    np.testing.assert_array_equal(found, blip2_chat.load_retriever(folder).similarity(pictures[:2], TEXTS))


def test_picture_settings_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    change_json(other / "preprocessor_config.json", lambda raw: {**raw, "size": {"height": 56, "width": 56}})
    with pytest.raises(CheckpointError, match="its model is for 28 x 28"):
        blip2_chat.load_retriever(other)


def test_closed(retriever: Retriever, pictures: list[Image.Image]) -> None:
    retriever.close()
    with pytest.raises(ValueError, match="closed"):
        retriever.embed_picture(pictures[0])
