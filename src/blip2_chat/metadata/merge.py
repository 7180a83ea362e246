"""How a caption joins what a packet says already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .caption import CaptionText
from .packet import DC, IPTC, OWN, Packet

# Property, and the record of what was written into it: while they are equal, the text is ours.
_DESCRIPTION = (DC, "description", "Description")
_ALT = (IPTC, "AltTextAccessibility", "AltText")


@dataclass(frozen=True)
class Merged:
    """is_changed: the packet has changed. is_kept: a text that this program did not write stayed in place of
    ours."""

    is_changed: bool
    is_kept: bool


def merge(
    packet: Packet,
    caption: CaptionText,
    around: Sequence[Packet] = (),
    older: str = "",
    overwrite: bool = False,
) -> Merged:
    """Writes the caption into the packet, except where somebody else's text is.

    around: other packets of the same picture, whose text counts as well. older: its caption in a format before
    XMP. overwrite: replaces texts that this program did not write; other languages and keywords stay in any
    case.
    """
    is_changed = is_kept = False
    for (namespace, name, record), wanted in ((_DESCRIPTION, caption.description), (_ALT, caption.alt)):
        if not wanted:
            continue
        others = _foreign((packet, *around), namespace, name, record)
        if record == "Description" and older and older != packet.text(OWN, record):
            others = others or older
        if others and not overwrite:
            is_kept = True
        elif packet.text(namespace, name) != wanted:
            packet.set_default(namespace, name, wanted)
            packet.set_text(OWN, record, wanted)
            is_changed = True
    if caption.tags:
        is_changed |= _merge_tags(packet, caption.tags)
    if is_changed:
        packet.set_text(OWN, "Model", caption.model)
        packet.set_text(OWN, "Date", caption.date)
    return Merged(is_changed, is_kept)


def has_all(packets: Sequence[Packet], older: str) -> bool:
    """Whether somebody else has written both a description and an alternative text."""
    return bool((older or _foreign(packets, *_DESCRIPTION)) and _foreign(packets, *_ALT))


def _foreign(packets: Sequence[Packet], namespace: str, name: str, record: str) -> str:
    """A text that is not the one we wrote; empty if there is none."""
    for packet in packets:
        text = packet.text(namespace, name)
        if text and text != packet.text(OWN, record):
            return text
    return ""


def _merge_tags(packet: Packet, wanted: Sequence[str]) -> bool:
    """Adds the keywords that are missing, and removes those that an earlier caption brought; others stay."""
    recorded = packet.items(OWN, "Tags")
    names = {tag.casefold() for tag in wanted}
    outdated = {tag for tag in recorded if tag.casefold() not in names}
    present = {tag.casefold() for tag in packet.items(DC, "subject")}
    added = [tag for tag in wanted if tag.casefold() not in present]
    packet.remove_items(DC, "subject", outdated)
    packet.remove_items(OWN, "Tags", outdated)
    packet.add_items(DC, "subject", added)
    packet.add_items(OWN, "Tags", [tag for tag in added if tag not in recorded])
    return bool(added or outdated)
