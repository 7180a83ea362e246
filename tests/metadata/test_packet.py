"""XMP packets: what is added and replaced, and that everything else stays."""

from __future__ import annotations

import time
import tracemalloc
from xml.etree import ElementTree

import pytest

from blip2_chat.errors import MetadataError
from blip2_chat.metadata.caption import CaptionText
from blip2_chat.metadata.merge import merge
from blip2_chat.metadata.packet import DC, IPTC, MOST_BYTES, OWN, Packet

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
CAPTION = CaptionText("a dog & a cat", "a dog <here>", ("dog", "cat"), "demo", "2026-11-30T10:00:00+01:00")
# What Lightroom, darktable and digiKam write, in one: attributes, structures, comments, other languages.
FOREIGN = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<!-- kept -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <!-- kept, too -->
  <rdf:Description rdf:about="" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" crs:Exposure2012="+0.35" xmp:Rating="4">
   <crs:ToneCurve><rdf:Seq><rdf:li>0, 0</rdf:li><rdf:li>255, 255</rdf:li></rdf:Seq></crs:ToneCurve>
  </rdf:Description>
  <rdf:Description rdf:about="" xmlns:d="http://purl.org/dc/elements/1.1/">
   %s
   <d:creator><rdf:Seq><rdf:li>Ann O&apos;Neill</rdf:li></rdf:Seq></d:creator>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""


def foreign(inside: str = "") -> Packet:
    return Packet((FOREIGN % inside).encode())


def merged(packet: Packet, caption: CaptionText = CAPTION, **more: bool) -> tuple[bool, bool]:
    done = merge(packet, caption, **more)
    return done.is_changed, done.is_kept


def properties(data: bytes) -> dict[str, str]:
    """Canonical XML of each property, read with another parser."""
    root = ElementTree.fromstring(data.decode().partition("?>")[2].rpartition("<?")[0].strip())
    found = {}
    for description in root.iter(f"{{{RDF}}}Description"):
        found.update({name: value for name, value in description.attrib.items()})
        for element in description:
            element.tail = ""
            found[element.tag] = ElementTree.canonicalize(ElementTree.tostring(element), strip_text=True)
    return found


def test_a_new_packet_has_the_fields_in_the_forms_that_the_standards_prescribe() -> None:
    packet = Packet()
    assert merged(packet) == (True, False)
    root = ElementTree.fromstring(packet.as_file())
    description = root.find(f".//{{{DC}}}description/{{{RDF}}}Alt/{{{RDF}}}li")
    alt = root.find(f".//{{{IPTC}}}AltTextAccessibility/{{{RDF}}}Alt/{{{RDF}}}li")
    assert description is not None and alt is not None
    assert (description.text, alt.text) == ("a dog & a cat", "a dog <here>")
    assert description.attrib == {"{http://www.w3.org/XML/1998/namespace}lang": "x-default"}
    assert [one.text for one in root.findall(f".//{{{DC}}}subject/{{{RDF}}}Bag/{{{RDF}}}li")] == [
        "dog",
        "cat",
    ]
    assert [root.findtext(f".//{{{OWN}}}{name}") for name in ("Model", "Date")] == [
        "demo",
        "2026-11-30T10:00:00+01:00",
    ]


def test_everything_of_others_stays() -> None:
    packet = foreign()
    before = properties((FOREIGN % "").encode())
    assert merged(packet) == (True, False)
    content = packet.serialised()
    after = properties(content)
    assert before.items() <= after.items() and len(before) == 5
    assert {f"{{{DC}}}description", f"{{{DC}}}subject"} <= after.keys()
    # Their prefix, and not one more for the same namespace.
    assert b"<d:description>" in content and b"<!-- kept, too -->" in content
    assert content.startswith("<?xpacket begin='\ufeff'".encode()) and content.endswith(
        b"<?xpacket end='w'?>"
    )
    assert b"<!-- kept -->" in packet.as_file()


def test_a_text_of_somebody_else_is_kept_and_replaced_only_when_told() -> None:
    theirs = '<d:description><rdf:Alt><rdf:li xml:lang="de">Ein Hund</rdf:li>'
    theirs += '<rdf:li xml:lang="x-default">my dog</rdf:li></rdf:Alt></d:description>'
    packet = foreign(theirs)
    assert merged(packet) == (True, True)  # the alternative text was missing
    assert packet.text(DC, "description") == "my dog"
    assert merged(packet) == (False, True)
    assert merged(packet, overwrite=True) == (True, False)
    assert packet.text(DC, "description") == "a dog & a cat"
    # Other languages have to be translated again by whoever wrote them; they are not lost.
    assert b'<rdf:li xml:lang="de">Ein Hund</rdf:li>' in packet.serialised()


@pytest.mark.parametrize(
    "theirs",
    [
        "<d:description>my dog</d:description>",
        '<d:description><rdf:Alt><rdf:li xml:lang="en-GB">my dog</rdf:li></rdf:Alt></d:description>',
        "<d:description><rdf:Bag><rdf:li>my dog</rdf:li></rdf:Bag></d:description>",
        "<d:description><![CDATA[my dog]]></d:description>",
    ],
)
def test_odd_forms_of_a_text_are_understood(theirs: str) -> None:
    packet = foreign(theirs)
    assert packet.text(DC, "description") == "my dog"
    assert merged(packet)[1] and packet.text(DC, "description") == "my dog"
    merged(packet, overwrite=True)
    again = Packet(packet.serialised())
    assert again.text(DC, "description") == "a dog & a cat"
    assert again.serialised().count(b"d:description>") == 2


def test_a_text_that_is_an_attribute_is_understood() -> None:
    whole = (FOREIGN % "").replace(
        'xmp:Rating="4"', f'xmp:Rating="4" dc:description="my dog" xmlns:dc="{DC}"'
    )
    packet = Packet(whole.encode())
    assert merged(packet)[1]
    merged(packet, overwrite=True)
    assert packet.text(DC, "description") == "a dog & a cat"
    assert b"my dog" not in packet.serialised()


def test_our_own_text_follows_another_model_until_somebody_edits_it() -> None:
    packet = foreign()
    merged(packet)
    assert merged(packet) == (False, False)
    second = CaptionText("two animals", "two animals", ("animal", "cat"), "larger", "2027-01-01T00:00:00Z")
    assert merged(packet, second) == (True, False)
    assert packet.text(DC, "description") == "two animals" and packet.text(OWN, "Model") == "larger"
    # The keyword that the first caption brought went with it.
    assert packet.items(DC, "subject") == ["cat", "animal"]
    packet.set_default(DC, "description", "Rex and Minka")
    assert merged(packet)[1]
    assert packet.text(DC, "description") == "Rex and Minka"


@pytest.mark.parametrize("kind", ["Bag", "Seq"])
def test_keywords_join_those_of_others_and_theirs_are_never_removed(kind: str) -> None:
    theirs = f"<d:subject><rdf:{kind}><rdf:li>Dog</rdf:li><rdf:li>family</rdf:li></rdf:{kind}></d:subject>"
    packet = foreign(theirs)
    merged(packet)
    assert packet.items(DC, "subject") == ["Dog", "family", "cat"]
    merged(packet, CaptionText("x", "x", ("bird",), "demo"))
    assert packet.items(DC, "subject") == ["Dog", "family", "bird"]
    assert f"<rdf:{kind}><rdf:li>Dog".encode() in packet.serialised()


def test_a_single_keyword_in_the_place_of_a_list_becomes_a_list() -> None:
    packet = foreign("<d:subject>family</d:subject>")
    merged(packet)
    assert Packet(packet.serialised()).items(DC, "subject") == ["family", "dog", "cat"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_packets_in_other_encodings_are_read_and_written_as_utf_8(encoding: str) -> None:
    text = (
        (FOREIGN % "<d:description>Müller&#x27;s 犬</d:description>").partition("\n")[2].rpartition("\n")[0]
    )
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    packet = Packet((head + text).encode(encoding))
    assert packet.text(DC, "description") == "Müller's 犬"
    merged(packet)
    assert Packet(packet.as_file()).text(DC, "description") == "Müller's 犬"
    assert packet.as_file().startswith(b'<?xml version="1.0" encoding="UTF-8"?>')


def test_characters_that_xml_cannot_hold_are_left_out() -> None:
    caption = CaptionText("a\0 dog\x1b[31m\ud800\ufffe", tags=(" \x07 ", "cat", "Cat"))
    assert caption.description == "a dog[31m" and caption.tags == ("cat",)
    packet = Packet()
    merged(packet, caption)
    assert Packet(packet.serialised()).text(DC, "description") == "a dog[31m"


_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_RDF = f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{DC}"><rdf:Description%s>%s</rdf:Description></rdf:RDF>'
BOMB = '<!DOCTYPE a [<!ENTITY l0 "ha">' + _LAUGHS + "]>"
HOSTILE = {
    "nothing": "",
    "no XML": "hello",
    "not closed": "<x:xmpmeta",
    "no RDF": "<a/>",
    "a prefix without a namespace": "<x:a><rdf:RDF/></x:a>",
    "billion laughs": BOMB + _RDF % ("", "<dc:description>&l9;</dc:description>"),
    "laughs in an attribute": BOMB + _RDF % (' dc:description="&l9;"', ""),
    "an outside file": '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/hostname">]>'
    + _RDF % ("", "<dc:description>&f;</dc:description>"),
    "a document type alone": "<!DOCTYPE a>" + _RDF % ("", ""),
    "a million elements deep": _RDF % ("", "<a>" * 100_000 + "</a>" * 100_000),
    "control characters": _RDF % ("", "<dc:description>\x01</dc:description>"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_packets_are_refused_in_one_line_quickly_and_without_memory(name: str) -> None:
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(MetadataError) as caught:
        Packet(HOSTILE[name].encode())
    assert tracemalloc.get_traced_memory()[1] < 50_000_000 and time.process_time() - started < 20
    tracemalloc.stop()
    assert str(caught.value).startswith("its XMP") and "\n" not in str(caught.value)


def test_a_packet_of_a_hundred_megabytes_is_not_parsed() -> None:
    with pytest.raises(MetadataError, match="at most 16 are read"):
        Packet(b"<" * (MOST_BYTES + 1))
