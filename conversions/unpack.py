"""Decompression of hostile data as a bounded stream: a small input never becomes a large memory.

Magic numbers: gzip RFC 1952, xz-file-format 1.1, bzip2, .lzma (LZMA SDK), zstd RFC 8878, LZ4 legacy frame
(lz4_Frame_format.md), which is what Linux reads for an initramfs.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import lz4.block  # type: ignore[import-untyped]
import zstandard

from p2v.errors import GuestError

PIECE = 256 * 1024
"""Bytes that come out of a decompressor at a time."""
LZMA_MEMORY = 512 * 1024 * 1024
ZSTD_STEP = 1024
"""Bytes put into zstd at a time. Each 4 can become 128 KiB, so this bounds one answer to 32 MiB."""
ZSTD_WINDOW = 128 * 1024 * 1024
LZ4_BLOCK = 8 * 1024 * 1024
"""The fixed size of a block of the LZ4 legacy format, before compression."""


class Compression(StrEnum):
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    LZMA = "lzma"
    ZSTD = "zstd"
    LZ4 = "lz4"


MAGICS = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
    (b"\x5d\x00\x00", Compression.LZMA),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
    (b"\x02\x21\x4c\x18", Compression.LZ4),
)


class _Bounded(Protocol):
    """What bz2 and lzma share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def detect(data: memoryview) -> Compression | None:
    """The compression of what starts here, None where it is none that we know."""
    return next((kind for magic, kind in MAGICS if data[: len(magic)] == magic), None)


def unpack(data: memoryview, kind: Compression) -> Iterator[bytes]:
    """The content of one compressed stream in pieces; what follows it is not looked at.

    Raises GuestError where the data is damaged.
    """
    try:
        yield from _pieces(data, kind)
    except (
        zlib.error,
        lzma.LZMAError,
        zstandard.ZstdError,
        lz4.block.LZ4BlockError,
        OSError,
        EOFError,
    ) as bad:
        raise GuestError(f"Damaged {kind} data: {bad}") from bad
    except (ValueError, MemoryError) as bad:
        raise GuestError(f"Damaged {kind} data") from bad


def _pieces(data: memoryview, kind: Compression) -> Iterator[bytes]:
    match kind:
        case Compression.GZIP:
            return _gzip(data)
        case Compression.BZIP2:
            return _bounded(bz2.BZ2Decompressor(), data)
        case Compression.XZ:
            return _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY), data)
        case Compression.LZMA:
            return _bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE, LZMA_MEMORY), data)
        case Compression.ZSTD:
            return _zstd(data)
        case Compression.LZ4:
            return _lz4(data)


def _gzip(data: memoryview) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    for start in range(0, len(data), PIECE):
        rest = bytes(data[start : start + PIECE])
        while rest and not stream.eof:
            yield stream.decompress(rest, PIECE)
            rest = stream.unconsumed_tail
        if stream.eof:
            return
    yield stream.flush()
    if not stream.eof:
        raise GuestError("Damaged gzip data: it ends too early")


def _bounded(stream: _Bounded, data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE):
        rest = bytes(data[start : start + PIECE])
        yield stream.decompress(rest, PIECE)
        while not stream.eof and not stream.needs_input:
            yield stream.decompress(b"", PIECE)
        if stream.eof:
            return
    raise GuestError("Damaged data: it ends too early")


def _zstd(data: memoryview) -> Iterator[bytes]:
    stream = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
    for start in range(0, len(data), ZSTD_STEP):
        yield stream.decompress(bytes(data[start : start + ZSTD_STEP]))
        if stream.eof:
            return
    raise GuestError("Damaged zstd data: it ends too early")


def _lz4(data: memoryview) -> Iterator[bytes]:
    position = 4
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if size == int.from_bytes(MAGICS[-1][0], "little"):  # the next frame starts where a size would be
            continue
        if size == 0 or position + size > len(data):
            return
        yield lz4.block.decompress(data[position : position + size], uncompressed_size=LZ4_BLOCK)
        position += size
