"""Reading the text console off a picture of the screen.

Text mode and the kernel's framebuffer console both show a grid of characters from the classic VGA font of 8
by 16 pixels, in two cuts: that of the VGA BIOS, and that of the Linux kernel, which QEMU carries too for
its own consoles. Where the host has console fonts (Debian's `console-setup-linux`) those are tried as well,
because a distribution may load one of them into the console.
"""

from __future__ import annotations

import functools
import gzip
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.accelerator import QEMU
from p2v.proof.picture import Picture

GLYPH_ROWS = 16
GLYPH_COLUMNS = 8
BLANK = bytes(GLYPH_ROWS)
UNKNOWN = "?"

TEXT_MODES = {(720, 400): 9, (640, 400): 8}
"""Sizes that VGA text mode with 80 columns and 25 lines is shown in, with the width of a cell (IBM VGA)."""

VGA_BIOS = (
    Path("/usr/share/seabios/vgabios-stdvga.bin"),
    Path("/usr/share/qemu/vgabios-stdvga.bin"),
    Path("/usr/share/vgabios/vgabios-stdvga.bin"),
)
CAPITAL_A = bytes.fromhex("000010386cc6c6fec6c6c6c600000000")
TABLE_SIZE = 256 * GLYPH_ROWS
FILE_LIMIT = 256 * 1024

CONSOLE_FONTS = tuple(
    Path(folder) / name
    for folder in ("/usr/share/consolefonts", "/usr/share/kbd/consolefonts", "/lib/kbd/consolefonts")
    for name in ("Lat15-Fixed16.psf.gz", "Lat15-VGA16.psf.gz", "Lat15-Terminus16.psf.gz", "eurlatgr.psfu.gz")
)

Glyphs = Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one font made of a picture. `unknown` counts the shapes that are no letters in it."""

    text: str
    known: int
    unknown: int

    @property
    def believable(self) -> bool:
        """A picture, a boot logo or another font has mostly shapes that are no letters."""
        return self.known > 3 * self.unknown


NOTHING = Reading("", 0, 0)


def read_screen(picture: Picture | None) -> str:
    """The text on the screen, lines without trailing blanks; empty where it does not look like text."""
    if picture is None:
        return ""
    cells = list(cut_cells(picture))
    readings = (read_cells(cells, glyphs) for glyphs in host_fonts())
    best = max(readings, key=lambda reading: reading.known - reading.unknown, default=NOTHING)
    return best.text if best.believable else ""


def read_cells(lines: list[list[bytes]], glyphs: Glyphs) -> Reading:
    """Look up every cell in a font."""
    text = [[glyphs.get(shape) or (" " if is_cursor(shape) else "") for shape in line] for line in lines]
    unknown = sum(line.count("") for line in text)
    known = sum(char not in ("", " ") for line in text for char in line)
    return Reading("\n".join("".join(c or UNKNOWN for c in line).rstrip() for line in text), known, unknown)


def is_cursor(shape: bytes) -> bool:
    """Whether only full lines at the bottom are lit: the underline that shows where the next key will go."""
    return set(shape) == {0, 0xFF} and not any(shape[: GLYPH_ROWS - 4])


def cut_cells(picture: Picture) -> Iterator[list[bytes]]:
    """The picture as lines of cells, each cell as 16 bytes: a bit for each pixel unlike its background."""
    width = TEXT_MODES.get((picture.width, picture.height), GLYPH_COLUMNS)
    columns = picture.width // width
    stride = picture.width * 3
    for top in range(0, picture.height - GLYPH_ROWS + 1, GLYPH_ROWS):
        rows = [
            picture.pixels[start : start + stride]
            for start in range(top * stride, (top + 16) * stride, stride)
        ]
        yield [_cell(rows, column * width * 3) for column in range(columns)]


def _cell(rows: list[bytes], start: int) -> bytes:
    # The top left pixel is background in every letter, so colours and reversed lines need no care.
    background = rows[0][start : start + 3]
    return bytes(_bits(row[start : start + 3 * GLYPH_COLUMNS], background) for row in rows)


@functools.lru_cache(maxsize=4096)
def _bits(row: bytes, background: bytes) -> int:
    value = 0
    for start in range(0, len(row), 3):
        value = value << 1 | (row[start : start + 3] != background)
    return value


@functools.cache
def host_fonts() -> tuple[Glyphs, ...]:
    """The fonts that this host has: the kernel's out of QEMU, that of QEMU's VGA BIOS, the console's."""
    programs = [Path(qemu) for qemu in (command.find_tool(QEMU),) if qemu]
    tables = [_embedded_table(path) for path in programs]
    tables += [_embedded_table(path) for path in VGA_BIOS if path.is_file()][:1]
    tables += [_psf_table(path) for path in CONSOLE_FONTS if path.is_file()]
    return tuple(to_glyphs(table) for table in tables if len(table) == TABLE_SIZE)


def _embedded_table(path: Path) -> bytes:
    """The font inside a program or a VGA BIOS, found by its letter A; nothing where there is none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        start = image.find(CAPITAL_A) - ord("A") * GLYPH_ROWS
        return image[start : start + TABLE_SIZE] if start >= 0 else b""


def _psf_table(path: Path) -> bytes:
    """The glyphs of a PC Screen Font of 8x16, version 1 or 2 (the format of kbd's psf.h)."""
    try:
        with gzip.open(path) as file:
            data = file.read(FILE_LIMIT)
    except (OSError, EOFError):
        return b""
    if data[:2] == b"\x36\x04" and data[3] == GLYPH_ROWS:
        return data[4 : 4 + TABLE_SIZE]
    if data[:4] == b"\x72\xb5\x4a\x86" and len(data) > 32:
        _, header, _, _, size, height, width = struct.unpack("<7I", data[4:32])
        if (size, height, width) == (GLYPH_ROWS, GLYPH_ROWS, GLYPH_COLUMNS):
            return data[header : header + TABLE_SIZE]
    return b""


def to_glyphs(table: bytes) -> Glyphs:
    """Shapes of the printable ASCII characters. Fonts for consoles keep those at their own codes."""
    shapes = {table[code * GLYPH_ROWS : (code + 1) * GLYPH_ROWS]: chr(code) for code in range(0x7E, 0x20, -1)}
    return {**shapes, BLANK: " "}
