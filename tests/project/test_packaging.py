"""The wheel and the source distribution: what they hold, and that the work of others in them is attributed."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

from blip2_chat.checkpoint.embedded import embedded_folder, embedded_models
from training.catalog import SETS, PictureSet

pytest.importorskip("hatchling", reason="building needs hatchling")
pytest.importorskip("hatch_fancy_pypi_readme", reason="building needs hatch-fancy-pypi-readme")

ROOT = Path(__file__).parents[2]
# Every file in the package that is neither code nor text, and whether the NOTICE has to name it.
MADE_FROM_DRAWINGS = {
    # Made before the sets of a single colour were added.
    "demo/heldout-seen.zip": {one.name for one in SETS if not one.held_out and not one.single_colour},
    "demo/heldout-unseen.zip": {one.name for one in SETS if one.held_out},
    "demo/samples/*.png": None,
    "demo/model.safetensors": {one.name for one in SETS if not one.held_out},
    "demo_retrieval/model.safetensors": {one.name for one in SETS if not one.held_out},
}
OURS = {"web/page/icon.svg", "demo_retrieval/vocab.txt"}
TEXT = {".py", ".html", ".css", ".js", ".json", ".webmanifest", ".typed"}


@dataclass
class Built:
    """Names and contents, relative to the root of the archive."""

    wheel: dict[str, bytes]
    sdist: dict[str, bytes]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    # The build backend itself, as pip and build call it: it needs no network.
    for make in ("build_sdist", "build_wheel"):
        program = f"import sys; from hatchling.build import {make}; {make}(sys.argv[1])"
        subprocess.run([sys.executable, "-c", program, str(out)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(name) for name in archive.namelist()}
    in_sdist = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                in_sdist[member.name.split("/", 1)[1]] = file.read()
    return Built(in_wheel, in_sdist)


def test_the_notice_and_all_licences_are_in_both(built: Built) -> None:
    (metadata,) = (content for name, content in built.wheel.items() if name.endswith(".dist-info/METADATA"))
    assert set(message_from_bytes(metadata).get_all("License-File", [])) == {
        "LICENSE",
        "NOTICE",
        "licenses/Apache-2.0.txt",
    }
    for name in ("LICENSE", "NOTICE", "licenses/Apache-2.0.txt"):
        content = (ROOT / name).read_bytes()
        assert built.sdist[name] == content
        assert [found for path, found in built.wheel.items() if path.endswith(f"licenses/{name}")] == [
            content
        ]


def test_the_package_index_shows_links_and_commands_that_work_there(built: Built) -> None:
    (metadata,) = (content for name, content in built.wheel.items() if name.endswith(".dist-info/METADATA"))
    parsed = message_from_bytes(metadata)
    readme = parsed.get_payload(decode=True)
    assert isinstance(readme, bytes) and parsed["Description-Content-Type"] == "text/markdown"
    text = readme.decode()
    tag = f"v{parsed['Version']}"
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    for link in links:
        assert link.startswith("https://") or link.startswith("#"), link
        here = re.match(rf"https://[\w.]+/blip2-chat/blip2-chat/(?:blob/)?{re.escape(tag)}/([^#]+)", link)
        assert here is None or (ROOT / here[1].replace("%5B", "[").replace("%5D", "]")).exists(), link
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and all(one.startswith("https://raw.githubusercontent.com/") for one in pictures)
    assert "pip install blip2-chat\n" in text and "clone of this repository" not in text
    assert not re.search(r"pip install '?\.", text)
    assert {line.partition(",")[0] for line in parsed.get_all("Project-URL", [])} >= {
        "Source",
        "Documentation",
    }
    assert (
        parsed["Author"] and parsed["Requires-Python"] and parsed["Keywords"] and parsed["License-Expression"]
    )


def notice() -> str:
    return (ROOT / "NOTICE").read_text(encoding="utf-8")


def sets_of(file: str) -> set[str]:
    """The sets that the NOTICE names for a shipped file."""
    (entry,) = re.findall(rf"^  {re.escape(file)}(?: .*)?(?:\n {{20,}}.*)*", notice(), re.MULTILINE)
    return set(re.findall(r"[a-z][a-z0-9-]+", entry.replace(file, ""))) & {one.name for one in SETS}


def test_the_notice_names_the_sets_that_were_used() -> None:
    # Read and not imported: the recipe needs a renderer that tests do not have.
    recipe = (ROOT / "training" / "samples.py").read_text(encoding="utf-8")
    used = set(re.findall(r'Thing\("([a-z0-9-]+):', recipe))
    for file, sets in MADE_FROM_DRAWINGS.items():
        assert sets_of(f"src/blip2_chat/{file}") == (used if sets is None else sets), file


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_each_set_has_its_author_licence_and_address(one: PictureSet) -> None:
    (entry,) = re.findall(rf"^{re.escape(one.name)}\n((?:  .+\n)+)", notice(), re.MULTILINE)
    licence = {
        "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
        "Apache-2.0": "Apache-2.0.txt",
        "MIT": "MIT",
    }
    assert licence[one.licence] in entry
    assert one.home in entry and one.package.replace("@iconify-json/", "").split("@")[1] in entry
    assert any(name in entry for name in one.author.split("/"))


def test_no_other_asset_is_shipped(built: Built) -> None:
    """A picture, font, archive or binary that is added has to be decided about here and in the NOTICE."""
    package = [
        PurePosixPath(name).relative_to("blip2_chat")
        for name in built.wheel
        if name.startswith("blip2_chat/")
    ]
    assets = [path for path in package if path.suffix not in TEXT and str(path) not in OURS]
    unknown = [path for path in assets if not any(path.match(pattern) for pattern in MADE_FROM_DRAWINGS)]
    assert assets and unknown == []


def test_all_of_an_embedded_model_is_shipped(built: Built) -> None:
    for name in embedded_models():
        folder = embedded_folder(name)
        files = {path.relative_to(ROOT).as_posix() for path in folder.iterdir() if path.is_file()}
        assert files <= built.sdist.keys()
        assert {path.removeprefix("src/") for path in files} <= built.wheel.keys()
        # The package index takes files of up to 100 MB; a package that one only tries stays far below.
        assert sum((ROOT / path).stat().st_size for path in files) < 50e6


def test_the_source_distribution_has_all_that_git_has(built: Built) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    names = {name for name in tracked.split("\0") if name and (ROOT / name).is_file()}
    assert names - built.sdist.keys() == set()
    assert built.sdist.keys() - names <= {"PKG-INFO"} | untracked()


def untracked() -> set[str]:
    """Files that are new and that .gitignore does not name."""
    command = ["git", "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    return set(
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    )
