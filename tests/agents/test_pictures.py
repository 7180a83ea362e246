"""An agent sees pictures below the folders it was given, and nothing else."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from blip2_chat.agents.pictures import Pictures
from blip2_chat.errors import PictureError
from tests.support.batch import make_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """photos/0.png, photos/trip/0.png, and a secret beside photos."""
    make_pictures(tmp_path / "photos" / "trip", 1, seed=1)
    make_pictures(tmp_path / "photos", 1)
    make_pictures(tmp_path / "secret", 1, seed=2)
    return tmp_path / "photos"


def name(folder: Path) -> str:
    (found,) = (one.name for one in folder.iterdir() if one.is_file() and not one.is_symlink())
    return found


def test_paths_below_the_root_are_opened(root: Path) -> None:
    pictures = Pictures([root])
    plain = pictures.open(name(root))
    assert pictures.open(f"trip/../{name(root)}").digest == plain.digest
    assert pictures.open(str(root / name(root))).digest == plain.digest
    assert pictures.open(f"trip/{name(root / 'trip')}").digest != plain.digest
    assert plain.name == name(root)
    (root / "link.png").symlink_to(root / "trip" / name(root / "trip"))
    assert pictures.open("link.png").digest == pictures.open(f"trip/{name(root / 'trip')}").digest


def test_several_roots(root: Path) -> None:
    pictures = Pictures([root / "trip", root.parent / "secret"])
    assert pictures.open(str(root.parent / "secret" / name(root.parent / "secret")))
    assert pictures.open(name(root / "trip"))
    with pytest.raises(PictureError):
        pictures.open(str(root / name(root)))


def test_a_root_that_is_itself_a_link(root: Path) -> None:
    (root.parent / "shortcut").symlink_to(root)
    assert Pictures([root.parent / "shortcut"]).open(name(root))


def test_nothing_else_is(root: Path) -> None:
    secret = root.parent / "secret"
    (root / "out.png").symlink_to(secret / name(secret))
    (root / "folder").symlink_to(secret)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "device.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    pictures = Pictures([root])
    for source in (
        f"../secret/{name(secret)}",
        str(secret / name(secret)),
        "out.png",
        f"folder/{name(secret)}",
        f"folder/../{name(root)}x",
        "loop.png",
        "device.png",
        "pipe.png",
        "trip",
        ".",
        "",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        f"file://{root / name(root)}",
        "https://example.com/cat.png",
        "a\0b.png",
        "x" * 5000,
    ):
        with pytest.raises(PictureError) as told:
            pictures.open(source)
        assert name(secret) not in str(told.value) or name(secret) in source or name(secret) == name(root)


def test_an_outside_path_is_refused_alike_whether_it_exists_or_not(root: Path) -> None:
    """So that a host's files cannot be probed."""
    pictures = Pictures([root])
    secret = root.parent / "secret"
    texts = []
    for path in (secret / name(secret), secret / ("x" * len(name(secret)))):
        with pytest.raises(PictureError) as told:
            pictures.open(str(path))
        texts.append(str(told.value).replace(str(path), ""))
    assert texts[0] == texts[1]
    (root / "out.png").symlink_to(secret / name(secret))
    (root / "off.png").symlink_to(secret / "nothing.png")
    texts = []
    for link in ("out.png", "off.png"):
        with pytest.raises(PictureError) as told:
            pictures.open(link)
        texts.append(str(told.value).replace(f"no {link}", ""))
    assert texts[0] == texts[1]


def test_a_missing_picture_is_told_which_there_are(root: Path) -> None:
    with pytest.raises(PictureError, match=f"there is no cat.png; in .* there are: {name(root)}"):
        Pictures([root]).open("cat.png")


def test_without_a_root_only_pictures_that_are_sent(root: Path) -> None:
    pictures = Pictures([])
    url = "data:image/png;base64," + base64.b64encode((root / name(root)).read_bytes()).decode()
    assert pictures.open(url).digest == Pictures([root]).open(name(root)).digest
    with pytest.raises(PictureError, match="no --root was given; give a data: URL"):
        pictures.open(str(root / name(root)))
    with pytest.raises(PictureError, match="there is no folder"):
        Pictures([root / "nowhere"])
