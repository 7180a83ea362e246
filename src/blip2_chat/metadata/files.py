"""Captions into picture files and their sidecar files, so that nothing can be lost.

A new file is written next to the old one, read back, and takes its place as a whole. Before that, its pixels are
compared, and the old one is looked at again: if another program has changed it, it stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import MetadataError, Parameter, PictureError
from ..images import PictureLimits, open_picture
from ..images.naming import one_line
from ..images.sidecar_names import SidecarNames
from ..system.whole_files import replacing
from .caption import CaptionText
from .containers import container
from .existing import Inside, inside, older_caption, readable
from .merge import has_all, merge
from .packet import MOST_BYTES, Packet

XmpStyle = Literal["digikam", "adobe"]
STYLES: tuple[XmpStyle, ...] = ("digikam", "adobe")
Outcome = Literal["written", "kept", "unchanged"]
_XMP_NOTE = "http://ns.adobe.com/xmp/note/"
_LIMITS = PictureLimits()


@dataclass(frozen=True)
class Places:
    """Where captions are written, and over what.

    embed: into the picture file itself. sidecar: into an .xmp file next to it; with `embed`, only where the
    picture's format has no place for it. style: the name of that file, `photo.jpg.xmp` ("digikam") or `photo.xmp`
    ("adobe"). overwrite: replace descriptions and alternative texts of others. keep_times: the picture file keeps
    its time of modification.
    """

    embed: bool = False
    sidecar: bool = False
    style: XmpStyle = "digikam"
    overwrite: bool = False
    keep_times: bool = False
    names: SidecarNames = field(default_factory=lambda: SidecarNames("xmp"), repr=False, compare=False)

    def target(self, path: str | os.PathLike[str], data: bytes) -> Path | None:
        """The sidecar file to write; None for the picture itself. Raises `MetadataError` when it can be neither."""
        if self.embed and (container(data) is not None or not self.sidecar):
            if container(data) is None:
                raise MetadataError(
                    "captions can be written into JPEG, PNG, WebP and TIFF files, and it is none; give ",
                    Parameter("write", "xmp"),
                    " as well, for sidecar files in such a case",
                )
            return None
        return self.sidecar_path(path, self.style)

    def sidecar_path(self, path: str | os.PathLike[str], style: XmpStyle) -> Path:
        """`photo.jpg.xmp`, or in the other style `photo.xmp` unless another picture in the folder has the same
        name except for its extension."""
        picture = os.fspath(path)
        return Path(f"{picture}.xmp") if style == "digikam" else self.names.path(picture)


def write_metadata(
    path: str | os.PathLike[str],
    caption: CaptionText,
    places: Places,
    *,
    digest: str | None = None,
    limits: PictureLimits = _LIMITS,
) -> Outcome:
    """Writes a caption. "written": something changed; "kept": a text that this program did not write stayed, and
    nothing changed; "unchanged": everything was there already.

    digest: of the pixels that the caption is about (`Picture.digest`): it is not embedded with others.
    Raises `MetadataError` with the file's name; then nothing has changed.
    """
    with _named(path):
        real = Path(os.path.realpath(path))
        data, seen = _read(real, limits.max_bytes)
        target = places.target(path, data)
        if target is None:
            return _embed(path, real, data, seen, caption, places, digest, limits)
        return _write_sidecar(path, target, data, caption, places)


def is_complete(path: str | os.PathLike[str], places: Places, limits: PictureLimits = _LIMITS) -> bool:
    """Whether a picture has a description and an alternative text that this program did not write, and that are
    to stay."""
    if places.overwrite:
        return False
    try:
        data, _ = _read(Path(os.path.realpath(path)), limits.max_bytes)
        found = inside(data)
        return has_all((*found.packets, *_sidecars(path, places)), found.older)
    except (OSError, MetadataError):
        return False


def _embed(
    path: str | os.PathLike[str],
    real: Path,
    data: bytes,
    seen: os.stat_result,
    caption: CaptionText,
    places: Places,
    digest: str | None,
    limits: PictureLimits,
) -> Outcome:
    kind = container(data)
    assert kind is not None
    found = inside(data)
    packet = found.packets[0] if found.packets else Packet()
    around = (*found.packets[1:], *_sidecars(path, places))
    merged = merge(packet, caption, around, found.older, places.overwrite)
    if not merged.is_changed:
        return "kept" if merged.is_kept else "unchanged"
    if not seen.st_mode & 0o222:
        raise MetadataError("it is write-protected; change its permissions, or write sidecar files")
    if seen.st_nlink > 1:
        # A new file under this name would part it from its other names.
        raise MetadataError(
            "it has other names (hard links), and would be parted from them; write sidecar files"
        )
    made = kind.with_packet(data, packet)
    before = digest or _digest(data, limits)
    if _digest(made, limits) != before:
        _require_same(before, data, limits)
        raise MetadataError("its pixels would be others afterwards; it stays as it is")

    def last_check() -> None:
        if not _is_same(os.stat(real), seen):
            raise MetadataError("another program has changed it meanwhile; it stays as that program left it")

    with replacing(real, survives_power_loss=True, last_check=last_check) as file:
        file.write(made)
        file.flush()
        _copy_attributes(real, file.name, seen)
        if not places.keep_times:
            os.utime(file.name)
    return "written"


def _write_sidecar(
    path: str | os.PathLike[str], target: Path, data: bytes, caption: CaptionText, places: Places
) -> Outcome:
    # A damaged packet inside the picture says nothing that could be lost.
    try:
        found = inside(data)
    except MetadataError:
        found = Inside((), older_caption(data))
    seen = None
    try:
        content, seen = _read(target, MOST_BYTES)
        packet = Packet(content)
    except FileNotFoundError:
        # Programs that read a sidecar file do not look into the picture any more, so it takes over what is there.
        packet = found.packets[0] if found.packets else Packet()
        packet.set_text(_XMP_NOTE, "HasExtendedXMP", "")
    except MetadataError as error:
        raise MetadataError(f"{one_line(target.name)} is next to it, and {error}") from None
    others = (*found.packets, *_sidecars(path, places, but=target))
    merged = merge(packet, caption, others, found.older, places.overwrite)
    if not merged.is_changed:
        return "kept" if merged.is_kept else "unchanged"
    if seen is not None and not seen.st_mode & 0o222:
        raise MetadataError(f"{one_line(target.name)} is write-protected; change its permissions")

    def last_check() -> None:
        try:
            present: os.stat_result | None = os.stat(real)
        except FileNotFoundError:
            present = None
        if (present is None) != (seen is None) or (present and seen and not _is_same(present, seen)):
            raise MetadataError(f"another program has changed {one_line(target.name)} meanwhile; it stays")

    real = Path(os.path.realpath(target))
    with replacing(real, survives_power_loss=False, last_check=last_check) as file:
        file.write(packet.as_file())
        if seen is not None:
            file.flush()
            _copy_attributes(real, file.name, seen)
            os.utime(file.name)
    return "written"


def _sidecars(path: str | os.PathLike[str], places: Places, but: Path | None = None) -> Iterator[Packet]:
    """The packets of sidecar files of both styles, as far as they can be read."""
    for name in dict.fromkeys(places.sidecar_path(path, style) for style in STYLES):
        if name == but:
            continue
        with contextlib.suppress(OSError, MetadataError):
            content, _ = _read(name, MOST_BYTES)
            if (packet := readable(content)) is not None:
                yield packet


def _read(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """The content of a file, and what identifies this state of it."""
    # Opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise MetadataError("it is not a regular file")
        if before.st_size > most:
            raise MetadataError(f"it is larger than {most / 1e6:.0f} MB")
        data = file.read(most + 1)
        if not _is_same(os.fstat(descriptor), before) or len(data) != before.st_size:
            raise MetadataError("another program is writing it; it stays as it is")
    return data, before


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    def state(status: os.stat_result) -> tuple[int, ...]:
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    return state(one) == state(other)


def _copy_attributes(source: Path, target: str, seen: os.stat_result) -> None:
    """Permissions, times, extended attributes, and the owner if we may."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(target, seen.st_uid, seen.st_gid)
    shutil.copystat(source, target)


def _digest(data: bytes, limits: PictureLimits) -> str:
    return open_picture(data, limits=limits).digest


def _require_same(digest: str, data: bytes, limits: PictureLimits) -> None:
    if _digest(data, limits) != digest:
        raise MetadataError("it is another picture than the one that was captioned; caption it again")


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors with the file that they are about."""
    name = one_line(os.fspath(path))
    try:
        yield
    except (MetadataError, PictureError) as error:
        raise MetadataError(f"{name}: ", *error.message, path=os.fspath(path)) from None
    except FileNotFoundError:
        raise MetadataError(f"{name} was not found; check the path", path=os.fspath(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MetadataError(
            f"{name}: its metadata cannot be written ({one_line(reason)})", path=os.fspath(path)
        ) from error


def now() -> str:
    """This second, in local time with its distance from UTC, as XMP has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S") + _zone(time.strftime("%z"))


def _zone(offset: str) -> str:
    return f"{offset[:3]}:{offset[3:]}" if offset else "Z"


def write_caption(
    path: str | os.PathLike[str],
    description: str,
    *,
    alt: str | None = None,
    tags: tuple[str, ...] | list[str] = (),
    model: str = "",
    embed: bool = False,
    style: XmpStyle = "digikam",
    overwrite: bool = False,
    keep_times: bool = False,
) -> Outcome:
    """Writes a description into a picture's metadata: into an .xmp file next to it, or with `embed` into the file.

    `dc:description` gets `description`; the alternative text gets `alt` (None: the same); `dc:subject` gets `tags`
    in addition to what it has; `model` and the date are noted in a namespace of their own. A text of somebody else
    stays unless `overwrite` is true. `style` is that of the .xmp file's name: "digikam" is `photo.jpg.xmp`, "adobe"
    is `photo.xmp`.

    Returns "written", "kept" (a text of somebody else stayed) or "unchanged" (it was there already). Raises
    `MetadataError`, and then the file is as it was.
    """
    if isinstance(tags, str):
        raise MetadataError(Parameter("tags"), " is one text; give a list of keywords")
    if style not in STYLES:
        raise MetadataError(Parameter("style", style), f" is none of {', '.join(STYLES)}")
    caption = CaptionText(description, description if alt is None else alt, tuple(tags), model, now())
    places = Places(embed, not embed, style, overwrite, keep_times)
    return write_metadata(path, caption, places)
