"""Picture files in many variants of JPEG, PNG, WebP and TIFF, made by several programs."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.support.metadata_tools import make

Maker = Callable[[Path], Path]
PACKET = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmp:Rating="3"><dc:title><rdf:Alt><rdf:li xml:lang="x-default">title</rdf:li></rdf:Alt></dc:title></rdf:Description>
</rdf:RDF></x:xmpmeta>"""


def image(mode: str = "RGB", size: tuple[int, int] = (33, 21), shade: int = 0) -> Image.Image:
    """Pixels that are all different, of an odd size."""
    width, height = size
    made = Image.new("RGBA", size)
    made.putdata(
        [
            (x * 7 % 256, y * 11 % 256, (x * y + shade) % 256, 40 + 6 * x)
            for y in range(height)
            for x in range(width)
        ]
    )
    return made.convert(mode)


def imagemagick() -> str:
    for name in ("convert-im6.q16", "magick"):
        if shutil.which(name):
            return name
    pytest.skip("makes its files with ImageMagick")


def jpeg(folder: Path, **options: object) -> Path:
    path = folder / "a.jpg"
    image().save(path, **options)
    return path


def makers_note(order: str = "<") -> bytes:
    """Exif with a maker's note that finds its own values by offsets from the beginning of the whole block, as
    Canon's does."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    note = struct.pack(f"{order}HHHII", 1, 6, 2, 24, 200) + b"\0\0\0\0"
    exif = struct.pack(f"{order}HHHII", 1, 0x927C, 7, len(note), 44) + b"\0\0\0\0"
    ifd0 = struct.pack(f"{order}H", 1) + struct.pack(f"{order}HHII", 0x8769, 4, 1, 26) + b"\0\0\0\0"
    body = head + struct.pack(f"{order}I", 8) + ifd0 + exif + note
    return b"Exif\0\0" + body.ljust(200, b"\0") + b"Canon EOS, value 200 on\0"


def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_tool(path: Path, *options: str) -> Path:
    make("exiftool", "-q", "-overwrite_original", *options, path)
    return path


def extended(folder: Path) -> Path:
    """More than fits into one segment: exiftool divides it as Adobe prescribes."""
    text = folder / "long.txt"
    text.write_text("w" * 150_000)
    return with_tool(jpeg(folder), f"-XMP-dc:Source<={text}", "-XMP-xmp:Rating=3")


def several_pictures(folder: Path) -> Path:
    path = folder / "a.jpg"
    image().save(path, "MPO", save_all=True, append_images=[image(shade=90)])
    return path


def fill_bytes(folder: Path) -> Path:
    path = jpeg(folder, comment=b"hello")
    data = path.read_bytes()
    at = data.index(b"\xff\xfe")
    path.write_bytes(data[:at] + b"\xff\xff" + data[at:] + b"trailer of a phone" * 9)
    return path


def png(folder: Path, mode: str = "RGB", **options: object) -> Path:
    path = folder / "a.png"
    image(mode).save(path, **options)
    return path


def png_text(folder: Path, is_zipped: bool) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", PACKET, zip=is_zipped)
    info.add_text("Software", "a test")
    return png(folder, pnginfo=info, dpi=(300, 300))


def raw_profile(folder: Path) -> Path:
    """As ImageMagick wrote packets before it knew iTXt."""
    digits = PACKET.encode().hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type xmp", f"\nxmp\n{len(PACKET):8}\n{lines}\n", zip=True)
    return png(folder, pnginfo=info)


def animated(path: Path, **options: object) -> Path:
    frames = [image(shade=30 * number) for number in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    return path


def cwebp(folder: Path, mode: str, *options: str) -> Path:
    path = folder / "a.webp"
    make("cwebp", "-quiet", *options, png(folder, mode), "-o", path)
    return path


def webp_with_xmp(folder: Path) -> Path:
    packet = folder / "packet.xmp"
    packet.write_text(PACKET)
    make("webpmux", "-set", "xmp", packet, cwebp(folder, "RGB"), "-o", folder / "b.webp")
    return folder / "b.webp"


def webp(folder: Path, **options: object) -> Path:
    path = folder / "a.webp"
    image("RGBA").save(path, **options)
    return path


def unpadded_webp(folder: Path) -> Path:
    """Its last chunk has an odd length, and the padding is missing, as some programs leave it."""
    path = cwebp(folder, "RGB", "-lossless", "-exact")
    data = path.read_bytes()
    size = int.from_bytes(data[16:20], "little")
    chunk = data[12:16] + (size - 1).to_bytes(4, "little") + data[20 : 20 + size - 1]
    if size % 2 == 0 and data[20 + size - 1] == 0:  # a zero at the end is padding of the coded picture
        path.write_bytes(b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk)
    return path


def tiff(folder: Path, mode: str = "RGB", **options: object) -> Path:
    path = folder / "a.tif"
    image(mode).save(path, **options)
    return path


def tiffcp(folder: Path, *options: str, source: Path | None = None) -> Path:
    make("tiffcp", *options, source or tiff(folder), folder / "b.tif")
    return folder / "b.tif"


def pages(folder: Path) -> Path:
    path = folder / "a.tif"
    image().save(path, save_all=True, append_images=[image(shade=50), image("L")])
    return path


def tiff_with_exif(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x927C] = b"note" + bytes(range(200))
    exif.get_ifd(0x8825)[1] = "N"
    return tiff(folder, exif=exif, compression="tiff_lzw")


def magick(folder: Path, name: str, *options: str) -> Path:
    make(imagemagick(), png(folder, "RGBA"), *options, folder / name)
    return folder / name


VARIANTS: dict[str, Maker] = {
    "jpeg": jpeg,
    "jpeg progressive, icc": lambda f: jpeg(f, progressive=True, icc_profile=icc(), quality=95),
    "jpeg maker's note": lambda f: jpeg(f, exif=makers_note()),
    "jpeg maker's note, big-endian": lambda f: jpeg(f, exif=makers_note(">")),
    "jpeg cmyk of imagemagick": lambda f: magick(f, "b.jpg", "-colorspace", "CMYK", "-set", "comment", "hi"),
    "jpeg with restarts": lambda f: jpeg(f, restart_marker_rows=1),
    "jpeg keywords in iim": lambda f: with_tool(jpeg(f), "-IPTC:Keywords=old", "-EXIF:Artist=Ann"),
    "jpeg xmp of exiftool": lambda f: with_tool(jpeg(f), "-XMP-xmp:Rating=3", "-XMP-dc:Title=title"),
    "jpeg compact xmp": lambda f: jpeg(f, xmp=PACKET.encode()),
    "jpeg extended xmp": extended,
    "jpeg of two pictures": several_pictures,
    "jpeg of two pictures with xmp": lambda f: with_tool(several_pictures(f), "-XMP-xmp:Rating=3"),
    "jpeg fill bytes and trailer": fill_bytes,
    "png": png,
    "png interlaced": lambda f: magick(f, "b.png", "-interlace", "PNG"),
    "png palette": lambda f: png(f, "P"),
    "png 16 bits": lambda f: magick(f, "b.png", "-depth", "16"),
    "png alpha, icc, exif": lambda f: png(f, "RGBA", icc_profile=icc(), exif=makers_note()[6:]),
    "png itxt": lambda f: png_text(f, False),
    "png compressed itxt": lambda f: png_text(f, True),
    "png xmp of exiftool": lambda f: with_tool(png(f), "-XMP-xmp:Rating=3"),
    "png raw profile": raw_profile,
    "png animated": lambda f: animated(f / "a.png"),
    "webp lossy": lambda f: cwebp(f, "RGB"),
    "webp lossless": lambda f: cwebp(f, "RGB", "-lossless"),
    "webp lossless alpha": lambda f: cwebp(f, "RGBA", "-lossless", "-exact"),
    "webp lossy alpha": lambda f: cwebp(f, "RGBA"),
    "webp exif, icc": lambda f: webp(f, exif=makers_note(), icc_profile=icc()),
    "webp xmp of webpmux": webp_with_xmp,
    "webp xmp of exiftool": lambda f: with_tool(webp(f), "-XMP-xmp:Rating=3"),
    "webp animated": lambda f: animated(f / "a.webp"),
    "webp animated, lossless": lambda f: animated(f / "a.webp", lossless=True),
    "webp unpadded": unpadded_webp,
    "tiff": tiff,
    "tiff big-endian": lambda f: tiffcp(f, "-B"),
    "bigtiff": lambda f: tiffcp(f, "-8"),
    "tiff tiled": lambda f: tiffcp(f, "-t", "-w", "16", "-l", "16", "-c", "lzw"),
    "tiff pages": pages,
    "tiff exif and gps": tiff_with_exif,
    "tiff of imagemagick": lambda f: magick(f, "b.tif", "-compress", "zip"),
    "tiff xmp of exiftool": lambda f: with_tool(tiff(f), "-XMP-xmp:Rating=3", "-EXIF:Artist=Ann"),
    "bigtiff xmp": lambda f: tiffcp(f, "-8", source=with_tool(tiff(f), "-XMP-xmp:Rating=3")),
}
