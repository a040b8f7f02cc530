"""A picture of the screen: read from QEMU's PPM, written as PNG."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

MAX_SIDE = 8192
HEADER = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` holds three bytes (red, green, blue) per pixel, row by row from the top left."""

    width: int
    height: int
    pixels: bytes


def read_ppm(data: bytes) -> Picture:
    """A binary PPM (P6, 8 bits), as QEMU's `screendump` writes it. Raises ValueError on anything else."""
    header = HEADER.match(data)
    if header is None:
        raise ValueError("not a binary PPM with 8 bits a colour")
    width, height = int(header[1]), int(header[2])
    pixels = data[header.end() :]
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or len(pixels) != width * height * 3:
        raise ValueError(f"a PPM of {width}x{height} pixels with {len(pixels)} bytes")
    return Picture(width, height, pixels)


def to_png(picture: Picture) -> bytes:
    """The picture as a PNG file (RFC 2083): 8 bits, true colour, no filter."""
    stride = picture.width * 3
    rows = (picture.pixels[start : start + stride] for start in range(0, len(picture.pixels), stride))
    data = zlib.compress(b"".join(b"\0" + row for row in rows), level=6)
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
