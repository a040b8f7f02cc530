"""The streamOptimized VMDK: written front to back, each grain deflated, several threads at work.

Format: VMware's "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents". A header, a
text descriptor, then grains of 64 KiB each behind a marker with its place; after the grains of 32 MiB their
grain table, at the end the grain directory, a footer (the header again, with the place of the directory) and
an end marker. Numbers are little-endian, places are sectors of 512 bytes from the start of the disk's data.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Self

from p2v.errors import TargetError
from p2v.model import KiB

SECTOR = 512
GRAIN = 64 * KiB
GRAIN_SECTORS = GRAIN // SECTOR
TABLE_ENTRIES = 512
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
MARKER = struct.Struct("<QI")
METADATA_MARKER = struct.Struct("<QII496x")
GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER, END = 1, 2, 3, 0
FLAGS = 0x30001
"""Line ends can be checked; grains are compressed; there are markers."""

AT_END = 0xFFFFFFFFFFFFFFFF
DEFLATE = 1
OVERHEAD = 128
DESCRIPTOR_SECTORS = 20
MAX_SECTORS = 2**32 - 1
LEVEL = 1
"""A tenth larger than zlib's usual level, in a third of the time."""

WORKERS = max(2, min(8, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class Written:
    """What came out: bytes, the SHA-256 of them all, hexadecimal, and the bytes of the disk in its grains."""

    size: int
    digest: str
    populated: int = 0


class _Stream:
    """The file as it grows, with its digest; nothing of it is ever read or written again."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sector(self) -> int:
        return self.size // SECTOR

    def write(self, data: bytes) -> None:
        """Padded to whole sectors."""
        padded = data + bytes(-len(data) % SECTOR)
        self._out.write(padded)
        self._digest.update(padded)
        self.size += len(padded)
        if self.sector > MAX_SECTORS:
            raise TargetError("The compressed disk would be larger than 2 TiB, which this format cannot hold")

    def finish(self, populated: int) -> Written:
        return Written(self.size, self._digest.hexdigest(), populated)


def write_stream(
    pieces: Iterable[tuple[int, bytes | bytearray]], size: int, name: str, out: BinaryIO
) -> Written:
    """Write a disk of `size` bytes. `pieces` are (offset, content) in ascending order, on whole grains.

    What no piece holds is zero, and so are grains of zeros, which take no space. `name` stands in the
    descriptor. Raises TargetError where the format cannot hold the disk.
    """
    with StreamWriter(size, name, out) as writer:
        for offset, content in pieces:
            writer.write(offset, content)
        return writer.finish()


class StreamWriter:
    """The same, for a disk whose pieces come one by one; `finish` ends the file."""

    def __init__(self, size: int, name: str, out: BinaryIO) -> None:
        self._size = size
        self._capacity = -(-size // SECTOR)
        self._stream = _Stream(out)
        self._tables: dict[int, int] = {}
        self._table, self._entries, self._grains = -1, [0] * TABLE_ENTRIES, 0
        self._waiting: deque[Future[list[tuple[int, bytes]]]] = deque()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="deflate")
        self._stream.write(_header(self._capacity, directory=AT_END))
        self._stream.write(_descriptor(self._capacity, name).ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0"))
        self._stream.write(bytes((OVERHEAD - 1 - DESCRIPTOR_SECTORS) * SECTOR))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, offset: int, content: bytes | bytearray) -> None:
        """A piece behind all that came before; it may be deflated and written a little later."""
        self._waiting.append(self._pool.submit(_deflate_piece, offset, content))
        if len(self._waiting) > 2 * WORKERS:
            self._take()

    def finish(self) -> Written:
        """Raises TargetError where the format cannot hold the disk."""
        while self._waiting:
            self._take()
        _write_table(self._stream, self._tables, self._table, self._entries)
        _write_end(self._stream, self._tables, self._capacity)
        return self._stream.finish(min(self._grains * GRAIN, self._size))

    def _take(self) -> None:
        for grain, packed in self._waiting.popleft().result():
            if grain // TABLE_ENTRIES != self._table:
                _write_table(self._stream, self._tables, self._table, self._entries)
                self._table, self._entries = grain // TABLE_ENTRIES, [0] * TABLE_ENTRIES
            self._entries[grain % TABLE_ENTRIES] = self._stream.sector
            self._stream.write(MARKER.pack(grain * GRAIN_SECTORS, len(packed)) + packed)
            self._grains += 1


def _write_table(stream: _Stream, tables: dict[int, int], table: int, entries: list[int]) -> None:
    if table < 0:
        return
    content = struct.pack(f"<{TABLE_ENTRIES}I", *entries)
    stream.write(METADATA_MARKER.pack(len(content) // SECTOR, 0, GRAIN_TABLE))
    tables[table] = stream.sector
    stream.write(content)


def _write_end(stream: _Stream, tables: dict[int, int], capacity: int) -> None:
    count = -(-capacity // (TABLE_ENTRIES * GRAIN_SECTORS))
    content = struct.pack(f"<{count}I", *(tables.get(table, 0) for table in range(count)))
    stream.write(METADATA_MARKER.pack(-(-len(content) // SECTOR), 0, GRAIN_DIRECTORY))
    directory = stream.sector
    stream.write(content)
    stream.write(METADATA_MARKER.pack(1, 0, FOOTER))
    stream.write(_header(capacity, directory=directory))
    stream.write(METADATA_MARKER.pack(0, 0, END))


def _header(capacity: int, *, directory: int) -> bytes:
    return HEADER.pack(
        b"KDMV",
        3,
        FLAGS,
        capacity,
        GRAIN_SECTORS,
        1,
        DESCRIPTOR_SECTORS,
        TABLE_ENTRIES,
        0,
        directory,
        OVERHEAD,
        0,
        b"\n \r\n",
        DEFLATE,
    )


def _descriptor(capacity: int, name: str) -> bytes:
    return descriptor(capacity, name, kind="streamOptimized", extent="SPARSE", adapter="lsilogic").encode()


def descriptor(capacity: int, extent_name: str, *, kind: str, extent: str, adapter: str) -> str:
    """The text descriptor of a VMDK of `capacity` sectors with one extent."""
    heads, sectors = (16, 63) if adapter == "ide" else (255, 63)
    cylinders = min(capacity // (heads * sectors), 65535)
    content_id = zlib.crc32(f"{extent_name}:{capacity}".encode()) & 0x7FFFFFFF
    offset = " 0" if extent == "FLAT" else ""
    return f"""# Disk DescriptorFile
version=1
CID={content_id:08x}
parentCID=ffffffff
createType="{kind}"

# Extent description
RW {capacity} {extent} "{extent_name}"{offset}

# The Disk Data Base
#DDB

ddb.adapterType = "{adapter}"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{sectors}"
ddb.virtualHWVersion = "4"
"""


_ZERO_GRAIN = bytes(GRAIN)


def _deflate_piece(offset: int, content: bytes | bytearray) -> list[tuple[int, bytes]]:
    """(number of the grain, its content deflated) for each grain that is not zero, in order."""
    view = memoryview(content)
    found = []
    for start in range(0, len(content), GRAIN):
        grain = view[start : start + GRAIN]
        if not content.startswith(_ZERO_GRAIN[: len(grain)], start):
            # The last grain of a disk is filled up: readers expect a whole one.
            whole = grain if len(grain) == GRAIN else bytes(grain) + bytes(GRAIN - len(grain))
            found.append(((offset + start) // GRAIN, zlib.compress(whole, LEVEL)))
    return found
