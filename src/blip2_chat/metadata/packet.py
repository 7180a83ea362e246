"""An XMP packet: the XML that pictures and sidecar files hold (ISO 16684-1), edited in place.

Whatever is not changed keeps its place, prefixes, comments and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from .._version import __version__
from ..errors import MetadataError

DC = "http://purl.org/dc/elements/1.1/"
IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
OWN = "https://github.com/blip2-chat/blip2-chat/ns/xmp/1.0/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_X = "adobe:ns:meta/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {"rdf": _RDF, "dc": DC, "Iptc4xmpCore": IPTC, "blip2chat": OWN}
_BEGIN = "begin='\N{ZERO WIDTH NO-BREAK SPACE}' id='W5M0MpCehiHzreSzNTczkc9d'"
# The largest that is parsed. Real ones have a few kilobytes; those with depth maps, some megabytes.
MOST_BYTES = 16_000_000
# Spaces at the end, so that another program can change the packet without moving what follows it (the
# specification asks for 2 to 4 kB).
PADDING = 2048
_MOST_DEEP = 100
_DECLARED = re.compile(rb"\s*<\?xml\s")
_BYTE_ORDER_MARKS = b"\xef\xbb\xbf\xff\xfe"


class Packet:
    """A packet that was read, or a new one."""

    def __init__(self, data: bytes | None = None) -> None:
        """Raises `MetadataError` for what is no XMP, for entities and document types, and for more than
        `MOST_BYTES`."""
        self._is_new = data is None
        self._is_declared = data is None or _is_declared(data)
        self._root = _new() if data is None else _parsed(data)
        rdf = self._root if self._root.tag == f"{{{_RDF}}}RDF" else self._root.find(f".//{{{_RDF}}}RDF")
        if rdf is None:
            raise MetadataError("its XMP has no rdf:RDF")
        self._rdf = rdf

    def text(self, namespace: str, name: str) -> str:
        """A property's text: that of the default language, otherwise the first; empty if there is none."""
        tag = f"{{{namespace}}}{name}"
        for description in self._descriptions():
            if attribute := description.get(tag):
                return str(attribute).strip()
            for element in description.findall(tag):
                items = element.findall(f"*/{{{_RDF}}}li")
                found = next((one for one in items if _is_default(one)), items[0] if items else element)
                if words := "".join(found.itertext()).strip():
                    return words
        return ""

    def items(self, namespace: str, name: str) -> list[str]:
        """The items of a property that is a list."""
        tag = f"{{{namespace}}}{name}"
        found = []
        for description in self._descriptions():
            if attribute := description.get(tag):
                found.append(str(attribute).strip())
            for element in description.findall(tag):
                items = element.findall(f"*/{{{_RDF}}}li")
                texts = ["".join(one.itertext()).strip() for one in items or [element]]
                found += [text for text in texts if text]
        return found

    def set_default(self, namespace: str, name: str, text: str) -> None:
        """Sets a text with languages (rdf:Alt) in its default language; the other languages stay."""
        element = self._element(namespace, name)
        alternatives = element.find(f"{{{_RDF}}}Alt")
        if alternatives is None:
            _empty(element)
            alternatives = etree.SubElement(element, f"{{{_RDF}}}Alt")
        item = next((one for one in alternatives if one.tag == f"{{{_RDF}}}li" and _is_default(one)), None)
        if item is None:
            item = etree.Element(f"{{{_RDF}}}li", {_LANG: "x-default"})
            alternatives.insert(0, item)  # where readers look that take the first
        tail, language = item.tail, item.get(_LANG)
        item.clear()
        item.set(_LANG, language)
        item.text, item.tail = text, tail

    def set_text(self, namespace: str, name: str, text: str) -> None:
        """Sets a plain text; an empty one removes the property."""
        if not text:
            self._remove(namespace, name)
            return
        element = self._element(namespace, name)
        _empty(element)
        element.text = text

    def add_items(self, namespace: str, name: str, items: list[str]) -> None:
        """Adds items to an unordered list (rdf:Bag), or to whatever kind of list is there."""
        if not items:
            return
        there = self.items(namespace, name)
        element = self._element(namespace, name)
        several = next((one for one in element if one.tag in _LISTS), None)
        if several is None:
            # A single text, which some programs write in the place of a list.
            _empty(element)
            several = etree.SubElement(element, f"{{{_RDF}}}Bag")
            items = [*there, *items]
        for item in items:
            etree.SubElement(several, f"{{{_RDF}}}li").text = item

    def remove_items(self, namespace: str, name: str, items: set[str]) -> None:
        for description in self._descriptions():
            for item in description.findall(f"{{{namespace}}}{name}/*/{{{_RDF}}}li"):
                if "".join(item.itertext()).strip() in items:
                    _detach(item)

    def serialised(self, padding: int = 0) -> bytes:
        """The packet for a picture: UTF-8, in its wrapper, with `padding` spaces before the end."""
        begin, end = _BEGIN, 'end="w"'
        for instruction in self._instructions():
            data = instruction.text or ""
            if data.startswith("begin"):
                begin = data
            elif data.startswith("end"):
                end = data
        spaces = b"".join(_lines(padding))
        self._indent()
        core = etree.tostring(self._root, encoding="utf-8", with_tail=False)
        wrapped = f"<?xpacket {begin}?>\n".encode(), core, b"\n", spaces, f"<?xpacket {end}?>".encode()
        return b"".join(wrapped)

    def as_file(self) -> bytes:
        """The packet for a sidecar file: UTF-8, with the wrapper and declaration that it had."""
        self._indent()
        before = [one for one in self._root.itersiblings(preceding=True)][::-1]
        after = list(self._root.itersiblings())
        parts = [b'<?xml version="1.0" encoding="UTF-8"?>'] if self._is_declared else []
        parts += [etree.tostring(one, encoding="utf-8", with_tail=False) for one in before]
        parts.append(etree.tostring(self._root, encoding="utf-8", with_tail=False))
        parts += [etree.tostring(one, encoding="utf-8", with_tail=False) for one in after]
        return b"\n".join(parts) + b"\n"

    def _indent(self) -> None:
        # A packet of others keeps its space.
        if self._is_new:
            etree.indent(self._root, " ")

    def _descriptions(self) -> Iterator[Any]:
        # Comments have a function in the place of a name.
        return (one for one in self._rdf if isinstance(one.tag, str))

    def _instructions(self) -> Iterator[Any]:
        for is_before in (True, False):
            for one in self._root.itersiblings(preceding=is_before):
                if one.tag is etree.ProcessingInstruction and one.target == "xpacket":
                    yield one

    def _element(self, namespace: str, name: str) -> Any:
        """The property's element; made if there is none, or if it is an attribute."""
        tag = f"{{{namespace}}}{name}"
        for description in self._descriptions():
            description.attrib.pop(tag, None)
            for found in description.findall(tag):
                return found
        several = self._rdf.findall(f"{{{_RDF}}}Description")
        target = next((one for one in several if namespace in one.nsmap.values()), None)
        if target is None:
            # All of them are about the same picture.
            about = several[0].get(f"{{{_RDF}}}about", "") if several else ""
            target = _new_description(self._rdf, about)
            target.tail = "\n"
        return etree.SubElement(target, tag)

    def _remove(self, namespace: str, name: str) -> None:
        tag = f"{{{namespace}}}{name}"
        for description in self._descriptions():
            description.attrib.pop(tag, None)
            for found in description.findall(tag):
                _detach(found)


_LISTS = frozenset(f"{{{_RDF}}}{kind}" for kind in ("Bag", "Seq", "Alt"))


def _new() -> Any:
    root = etree.Element(f"{{{_X}}}xmpmeta", nsmap={"x": _X})
    root.set(f"{{{_X}}}xmptk", f"blip2-chat {__version__}")
    rdf = etree.SubElement(root, f"{{{_RDF}}}RDF", nsmap={"rdf": _RDF})
    _new_description(rdf, "")
    return root


def _new_description(rdf: Any, about: str) -> Any:
    declared = {prefix: uri for prefix, uri in _PREFIXES.items() if uri != _RDF}
    return etree.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": about}, nsmap=declared)


def _parsed(data: bytes) -> Any:
    if len(data) > MOST_BYTES:
        raise MetadataError(f"its XMP has {len(data) / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are read")
    # Some programs end a packet with zeros.
    data = data.strip(b"\0") if not data.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")) else data
    # No entity is replaced, no file or address opened, and libxml2's limits on depth and length hold.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )
    try:
        root = etree.fromstring(data.lstrip(), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise MetadataError(f"its XMP is not sound XML ({_reason(error)})") from None
    if root.getroottree().docinfo.doctype:
        raise MetadataError("its XMP declares a document type, which no XMP has; it is not read")
    return root


def _is_declared(data: bytes) -> bool:
    """Whether it begins with an XML declaration, in whichever encoding."""
    return _DECLARED.match(data[:200].translate(None, b"\0").lstrip(_BYTE_ORDER_MARKS)) is not None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:100] or "it is empty"


def _is_default(item: Any) -> bool:
    return (item.get(_LANG) or "").lower() == "x-default"


def _empty(element: Any) -> None:
    """Without content and attributes, in its place."""
    tail = element.tail
    element.clear()
    element.tail = tail


def _detach(element: Any) -> None:
    """Removes an element, and the space that was before it."""
    parent, tail = element.getparent(), element.tail
    before = element.getprevious()
    parent.remove(element)
    if before is not None:
        before.tail = tail
    else:
        parent.text = tail


def _lines(padding: int) -> Iterator[bytes]:
    """So many bytes of spaces, in lines."""
    while padding > 0:
        width = min(padding, 100)
        yield b" " * (width - 1) + b"\n"
        padding -= width
