"""Fetch the picture sets with ``npm pack`` and draw every wanted icon once.

The result, ``training/data/icons.npz``, holds all drawings as RGBA arrays, cropped to what is drawn
and fitted into a square, with the kind and the set of each. Run: ``python -m training.fetch_sets``.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from .catalog import KINDS, SETS, PictureSet, plain_name
from .icons import DATA, ICON_SIZE, ICONS_FILE, fit_square

# Drawings that carry the right name but do not show the thing well, found by looking at a sheet of all.
UNFIT = frozenset({("fxemoji", "sailboat"), ("fxemoji", "umbrella"), ("fxemoji", "whitemediumstar")})


def fetch(picture_set: PictureSet) -> dict[str, Any]:
    """The set's icons.json, downloaded once into ``training/data/sets``."""
    target = DATA / "sets" / f"{picture_set.name}-{picture_set.version}.json"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", picture_set.package, "--silent"],
            cwd=target.parent, check=True, capture_output=True, text=True,
        )  # fmt: skip
        archive = target.parent / packed.stdout.strip().splitlines()[-1]
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            target.write_bytes(member.read())
        archive.unlink()
    loaded: dict[str, Any] = json.loads(target.read_text())
    return loaded


def svg_of(icons: dict[str, Any], name: str) -> str:
    """A complete SVG document around one icon's body."""
    entry = icons["icons"].get(name)
    if entry is None:
        entry = icons["icons"][icons["aliases"][name]["parent"]]
    width = entry.get("width", icons.get("width", 16))
    height = entry.get("height", icons.get("height", 16))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{entry.get("left", 0)} {entry.get("top", 0)} {width} {height}">{entry["body"]}</svg>'
    )


def draw(svg: str, size: int) -> Image.Image:
    """Rasterise, crop to what is drawn and fit into a ``size`` square."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size + size // 2, skip_system_fonts=True)
    return fit_square(Image.open(io.BytesIO(png)).convert("RGBA"), size)


def wanted(icons: dict[str, Any], set_name: str) -> list[tuple[int, str]]:
    """(kind, icon name) of every drawing of a known thing in one set."""
    kind_of = {plain_name(icon): index for index, kind in enumerate(KINDS) for icon in kind.icons}
    names = sorted(icons["icons"]) + sorted(icons.get("aliases", {}))
    found: list[tuple[int, str]] = []
    seen: set[tuple[int, str]] = set()
    for name in names:
        index = kind_of.get(plain_name(name))
        body = icons["icons"].get(name, {}).get("body") or icons.get("aliases", {}).get(name, {}).get(
            "parent"
        )
        if index is None or (set_name, name) in UNFIT or (index, str(body)) in seen:
            continue
        seen.add((index, str(body)))
        found.append((index, name))
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    drawings, kinds, sets, names = [], [], [], []
    for set_index, picture_set in enumerate(SETS):
        icons = fetch(picture_set)
        chosen = wanted(icons, picture_set.name)
        for index, name in chosen:
            try:
                picture = draw(svg_of(icons, name), ICON_SIZE)
            except (ValueError, KeyError) as error:
                print(f"  left out {picture_set.name}:{name}: {error}")
                continue
            drawings.append(np.asarray(picture))
            kinds.append(index)
            sets.append(set_index)
            names.append(name)
        missing = [kind.name for i, kind in enumerate(KINDS) if i not in {k for k, _ in chosen}]
        print(f"{picture_set.name}: {len(chosen)} drawings" + (f", none of: {missing}" if missing else ""))
    ICONS_FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        ICONS_FILE,
        drawings=np.stack(drawings),
        kinds=np.array(kinds),
        sets=np.array(sets),
        names=np.array(names),
    )
    print(f"{len(drawings)} drawings in {ICONS_FILE}")


if __name__ == "__main__":
    main()
