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
LZ4_HEADER = 4
LZ4_MAGIC = 0x184C2102


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


class Unpacking:
    """One compressed stream. `used` is its length, known once `pieces` came to its end."""

    def __init__(self, data: memoryview, kind: Compression) -> None:
        self._data = data
        self._kind = kind
        self.used = 0

    def pieces(self) -> Iterator[bytes]:
        """The content; what follows the stream is not looked at. Raises GuestError where it is damaged."""
        try:
            yield from self._pieces()
        except (
            zlib.error,
            lzma.LZMAError,
            OSError,
            EOFError,
            zstandard.ZstdError,
            lz4.block.LZ4BlockError,
        ) as bad:
            raise GuestError(f"Damaged {self._kind} data: {bad}") from bad
        except (ValueError, MemoryError) as bad:
            raise GuestError(f"Damaged {self._kind} data") from bad

    def _pieces(self) -> Iterator[bytes]:
        match self._kind:
            case Compression.GZIP:
                return self._gzip()
            case Compression.BZIP2:
                return self._bounded(bz2.BZ2Decompressor())
            case Compression.XZ:
                return self._bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY))
            case Compression.LZMA:
                return self._bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE, LZMA_MEMORY))
            case Compression.ZSTD:
                return self._zstd()
            case Compression.LZ4:
                return self._lz4()

    def _gzip(self) -> Iterator[bytes]:
        stream = zlib.decompressobj(wbits=31)
        for start in range(0, len(self._data), PIECE):
            rest = bytes(self._data[start : start + PIECE])
            end = start + len(rest)
            while rest and not stream.eof:
                yield stream.decompress(rest, PIECE)
                rest = stream.unconsumed_tail
            if stream.eof:
                self.used = end - len(stream.unused_data)
                return
        raise GuestError("Damaged gzip data: it ends too early")

    def _bounded(self, stream: _Bounded) -> Iterator[bytes]:
        for start in range(0, len(self._data), PIECE):
            rest = bytes(self._data[start : start + PIECE])
            yield stream.decompress(rest, PIECE)
            while not stream.eof and not stream.needs_input:
                yield stream.decompress(b"", PIECE)
            if stream.eof:
                self.used = start + len(rest) - len(stream.unused_data)
                return
        raise GuestError("Damaged data: it ends too early")

    def _zstd(self) -> Iterator[bytes]:
        stream = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        for start in range(0, len(self._data), ZSTD_STEP):
            rest = bytes(self._data[start : start + ZSTD_STEP])
            yield stream.decompress(rest)
            if stream.eof:
                self.used = start + len(rest) - len(stream.unused_data)
                return
        raise GuestError("Damaged zstd data: it ends too early")

    def _lz4(self) -> Iterator[bytes]:
        """Blocks of 8 MiB at the most, each behind its size; nothing says where the last one is."""
        self.used = LZ4_HEADER
        while self.used + LZ4_HEADER <= len(self._data):
            (size,) = struct.unpack_from("<I", self._data, self.used)
            start = self.used + LZ4_HEADER
            if size == LZ4_MAGIC:  # the next frame starts where a size would be
                self.used = start
                continue
            if size == 0 or start + size > len(self._data):
                return
            yield lz4.block.decompress(self._data[start : start + size], uncompressed_size=LZ4_BLOCK)
            self.used = start + size


def unpack_whole(data: bytes, kind: Compression, *, limit: int) -> bytes:
    """The content of one stream; raises GuestError where it is damaged or larger than `limit` bytes."""
    parts: list[bytes] = []
    for piece in Unpacking(memoryview(data), kind).pieces():
        parts.append(piece)
        limit -= len(piece)
        if limit < 0:
            raise GuestError(f"The {kind} data is too large when unpacked")
    return b"".join(parts)


def lz4_block(content: bytes) -> bytes:
    """A block of the LZ4 legacy format, with its size; `content` has `LZ4_BLOCK` bytes at the most."""
    packed: bytes = lz4.block.compress(content, store_size=False)
    return struct.pack("<I", len(packed)) + packed
