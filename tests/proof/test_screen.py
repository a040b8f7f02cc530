"""Text read off pictures: one of a real kernel console, and ones drawn here with the host's own font."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from pathlib import Path

import pytest

from p2v.model import Verdict
from p2v.proof.picture import Picture, read_ppm, to_png
from p2v.proof.screen import BLANK, Glyphs, cut_cells, host_fonts, read_cells, read_screen
from p2v.proof.verdict import Seen, judge
from tests.conftest import need_tools

RECORDED = Path(__file__).parent / "recorded"
LINES = ["SeaBIOS (version 1.16.2)", "", "Booting from Hard Disk...", "  metal12 login:"]

# A font of this test's own, so that the fast tests need no QEMU: no two shapes alike, none blank.
SHAPES = random.Random(16)
FONT: Glyphs = {
    BLANK: " ",
    **{b"\0" + bytes(SHAPES.randrange(128) for _ in range(15)): chr(code) for code in range(33, 127)},
}


def draw(lines: list[str], glyphs: Glyphs, *, cell: int = 8, size: tuple[int, int] = (640, 400)) -> Picture:
    """Lines of text as a screen shows them, light grey on blue."""
    width, height = size
    shapes = {char: shape for shape, char in glyphs.items()}
    pixels = bytearray(b"\x00\x00\xaa" * width * height)
    for row, line in enumerate(lines):
        for column, char in enumerate(line):
            for y, bits in enumerate(shapes[char]):
                for x in range(8):
                    if bits & (0x80 >> x):
                        start = ((row * 16 + y) * width + column * cell + x) * 3
                        pixels[start : start + 3] = b"\xaa\xaa\xaa"
    return Picture(width, height, bytes(pixels))


@pytest.mark.parametrize(
    ("cell", "size"), [(8, (640, 400)), (9, (720, 400)), (8, (1280, 800)), (8, (800, 600))]
)
def test_drawn_text_is_read(cell: int, size: tuple[int, int]) -> None:
    reading = read_cells(list(cut_cells(draw(LINES, FONT, cell=cell, size=size))), FONT)
    assert reading.text.rstrip().splitlines() == LINES
    assert reading.believable


def test_cursor_is_no_letter() -> None:
    picture = draw(["login:"], FONT)
    pixels = bytearray(picture.pixels)
    for y in (14, 15):
        start = (y * 640 + 7 * 8) * 3
        pixels[start : start + 24] = b"\xaa" * 24
    cells = list(cut_cells(Picture(640, 400, bytes(pixels))))
    assert read_cells(cells, FONT).text.rstrip() == "login:"


def test_unknown_letters_are_marked() -> None:
    other = {shape: char for shape, char in FONT.items() if char != "g"}
    reading = read_cells(list(cut_cells(draw(["login:"], FONT))), other)
    assert (reading.text.rstrip(), reading.known, reading.unknown) == ("lo?in:", 5, 1)


def test_picture_without_text_reads_as_nothing() -> None:
    noise = Picture(640, 400, random.Random(1).randbytes(640 * 400 * 3))
    assert read_screen(noise) == ""
    assert read_screen(Picture(640, 400, bytes(640 * 400 * 3))).strip() == ""
    assert read_screen(None) == ""


@pytest.mark.tools
def test_real_kernel_console_is_read_without_an_error() -> None:
    need_tools("qemu-system-x86_64")
    picture = read_ppm(gzip.decompress((RECORDED / "debian12-initramfs.ppm.gz").read_bytes()))
    text = read_screen(picture)
    assert text.rstrip().splitlines() == [
        "Gave up waiting for suspend/resume device",
        "Gave up waiting for root file system device.  Common problems:",
        " - Boot args (cat /proc/cmdline)",
        "   - Check rootdelay= (did the system wait long enough?)",
        " - Missing modules (cat /proc/modules; ls /dev)",
        "ALERT!  /dev/sda1 does not exist.  Dropping to a shell!",
        "(initramfs)",
    ]
    judgement = judge(Seen(screen=text))
    assert judgement is not None
    assert judgement.verdict is Verdict.INITRAMFS_SHELL


@pytest.mark.tools
def test_host_has_both_cuts_of_the_font() -> None:
    need_tools("qemu-system-x86_64")
    fonts = host_fonts()
    assert len(fonts) >= 2
    for font in fonts:
        assert sorted(set(font.values())) == [" ", *(chr(code) for code in range(33, 127))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P5 1 1 255 a",
        b"P6 0 0 255 ",
        b"P6 2 2 255 abc",
        b"P6 99999 99999 255 a",
        b"P6 1 1 65535 aaaaaa",
    ],
)
def test_bad_ppm_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        read_ppm(data)


def test_png_holds_the_pixels() -> None:
    picture = draw(LINES, FONT)
    png = to_png(picture)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (640, 400)
    length = struct.unpack(">I", png[33:37])[0]
    rows = zlib.decompress(png[41 : 41 + length])
    assert b"".join(rows[start + 1 : start + 1921] for start in range(0, len(rows), 1921)) == picture.pixels
