"""The picture in the terminal: by a graphics protocol where there is one, else in half blocks."""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

Protocol = Literal["kitty", "iterm2", "sixel", "blocks"]

# Of the window, in cells: it leaves room for the conversation.
_COLUMNS = 60
_ROWS = 18
# Pixels per cell where the terminal does not tell.
_CELL = (10, 20)
# Every terminal answers this question ("what are you?"); over a slow connection it takes a moment.
_ATTRIBUTES = "\x1b[c"
_PATIENCE = 1.0


def show_picture(image: Image, console: Console) -> None:
    """Shows an RGB image on the console's terminal, at most 60 x 18 cells large."""
    columns, rows = _cells(image, console.width, console.height)
    protocol = find_protocol(console.file)
    if protocol == "blocks":
        if _can_write("▀", console.encoding):
            _print_blocks(image, columns, rows, console)
        return
    write = {"kitty": kitty, "iterm2": iterm2, "sixel": sixel}[protocol]
    console.file.write(write(image, columns, rows) + "\n")
    console.file.flush()


def find_protocol(terminal: IO[str]) -> Protocol:
    """What the terminal can show: known by its name, or by its answer to a question about sixel.

    Inside tmux and screen the names are those of the terminal around them, whose protocols do not get through.
    """
    environment = os.environ
    inside = environment.get("TMUX") or environment.get("STY")
    program = environment.get("TERM_PROGRAM", "")
    if not inside:
        if "KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    return "sixel" if "4" in _attributes(terminal) else "blocks"


def _attributes(terminal: IO[str]) -> list[str]:
    """The terminal's answer to "what are you?" ("62;4;22": 4 stands for sixel); nothing where none comes."""
    if sys.platform == "win32":
        return []
    import termios
    import tty

    try:
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (OSError, ValueError, termios.error):
        return []
    answer = b""
    try:
        tty.setcbreak(keyboard)
        terminal.write(_ATTRIBUTES)
        terminal.flush()
        while b"c" not in answer and select.select([keyboard], [], [], _PATIENCE)[0]:
            got = os.read(keyboard, 64)
            if not got:
                break
            answer += got
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    found = re.search(rb"\x1b\[\?([0-9;]*)c", answer)
    return found[1].decode().split(";")[1:] if found else []


def _cells(image: Image, width: int, height: int) -> tuple[int, int]:
    """(columns, rows) of the picture; a cell is about twice as high as wide."""
    most_columns, most_rows = max(min(width, _COLUMNS), 1), max(min(height - 6, _ROWS), 1)
    scale = min(most_columns / image.width, most_rows * 2 / image.height)
    return max(round(image.width * scale), 1), max(round(image.height * scale / 2), 1)


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _print_blocks(image: Image, columns: int, rows: int, console: Console) -> None:
    """Two pixels a cell: the upper half in the letter's colour, the lower in the ground's. rich takes the nearest
    of the terminal's colours."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    pixels = np.asarray(_reduced(image, columns, rows * 2)).tolist()
    for row in range(rows):
        line = Text()
        for above, below in zip(pixels[2 * row], pixels[2 * row + 1], strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _reduced(image: Image, width: int, height: int) -> Image:
    from PIL import Image as images

    return image.resize((width, height), images.Resampling.BOX)


def kitty(image: Image, columns: int, rows: int) -> str:
    """The image in kitty's graphics protocol: PNG, in base64, in chunks of 4096 characters."""
    data = base64.b64encode(_png(image, columns, rows)).decode("ascii")
    chunks = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    made = []
    for number, chunk in enumerate(chunks):
        control = f"a=T,f=100,q=2,c={columns},r={rows}," if number == 0 else ""
        made.append(f"\x1b_G{control}m={int(number + 1 < len(chunks))};{chunk}\x1b\\")
    return "".join(made)


def iterm2(image: Image, columns: int, rows: int) -> str:
    """The image in iTerm2's protocol for inline images, which WezTerm and mintty know, too."""
    png = _png(image, columns, rows)
    data = base64.b64encode(png).decode("ascii")
    size = f"size={len(png)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File=inline=1;{size}:{data}\x07"


def sixel(image: Image, columns: int, rows: int) -> str:
    """The image as DEC's sixel graphics, in 255 colours: bands of six rows, colour by colour."""
    from PIL import Image as images

    width, height = _pixels(columns, rows)
    reduced = _reduced(image, width, height).quantize(255, dither=images.Dither.FLOYDSTEINBERG)
    indices = np.asarray(reduced)
    palette = reduced.getpalette() or []
    made = [f'\x1bP0;1q"1;1;{width};{height}']
    for colour in np.unique(indices).tolist():
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * colour : 3 * colour + 3])
        made.append(f"#{colour};2;{red};{green};{blue}")
    bits = 1 << np.arange(6)[:, None]
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        lines = []
        for colour in np.unique(band).tolist():
            columns_of_six = ((band == colour) * bits[: len(band)]).sum(axis=0) + 63
            lines.append(f"#{colour}" + _shortened(bytes(columns_of_six.astype(np.uint8)).decode("ascii")))
        made.append("$".join(lines) + "-")
    return "".join(made) + "\x1b\\"


def _shortened(line: str) -> str:
    """Runs of one character as their number: `!12~`."""
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line)


def _png(image: Image, columns: int, rows: int) -> bytes:
    """As many pixels as the cells hold, and no more: a photo has many times as many."""
    width, height = _pixels(columns, rows)
    made = io.BytesIO()
    (_reduced(image, width, height) if width < image.width else image).save(made, "PNG")
    return made.getvalue()


def _pixels(columns: int, rows: int) -> tuple[int, int]:
    """The size in pixels of a number of cells, as the terminal reports it."""
    width, height = _CELL
    if sys.platform != "win32":
        import fcntl
        import struct
        import termios

        try:
            told = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
            lines, across, pixels_across, pixels_down = struct.unpack("HHHH", told)
        except (OSError, ValueError):
            pixels_across = pixels_down = lines = across = 0
        if lines and across and pixels_across and pixels_down:
            width, height = pixels_across // across, pixels_down // lines
    return columns * max(width, 1), rows * max(height, 1)
