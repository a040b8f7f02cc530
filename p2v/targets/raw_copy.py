"""A disk written as it is, holes left out: raw images, the data of a flat VMDK, of a fixed VHD.

Each used byte is read once and written once; nothing is read back. Blocks that are as they were captured keep
the digest that was made where they were read, the others are digested on their way.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from p2v.disk.digests import DigestTable, block_count, block_length
from p2v.model import BLOCK_SIZE, KiB

GRAIN = 64 * KiB
"""Zeros of this length stay a hole."""

WRITE_SIZE = 256 * KiB
"""Bytes of one write. Large ones get their cache in large folios of memory that nobody had before, which a
virtual machine comes by slowly: 840 MB took 0.2 s in pieces like this, 0.6 to 2.5 s in pieces of 4 MiB.
"""

WORKERS = max(2, min(4, os.cpu_count() or 2))
_ZEROS = bytes(GRAIN)


KnownDigest = Callable[[int], bytes | None]
"""The digest of a block, by its number, where somebody has made it already."""


def nothing_known(_index: int) -> None:
    return None


@contextmanager
def raw_copy(path: Path, disk_size: int, known: KnownDigest = nothing_known) -> Iterator[RawCopy]:
    """A disk that is written to the start of an existing file that is zero there, and at least as long."""
    with path.open("r+b", buffering=0) as file, ThreadPoolExecutor(WORKERS) as pool:
        yield RawCopy(file.fileno(), pool, disk_size, known)


class RawCopy:
    """A file that is being written; digests are made while more is read."""

    def __init__(self, handle: int, pool: ThreadPoolExecutor, disk_size: int, known: KnownDigest) -> None:
        self._handle = handle
        self._pool = pool
        self._disk_size = disk_size
        self._known = known
        self._waiting: deque[tuple[int, Future[bytes]]] = deque()
        self._digests: dict[int, bytes] = {}

    def write(self, offset: int, block: bytearray) -> None:
        index = offset // BLOCK_SIZE
        if known := self._known(index):
            self._digests[index] = known
        else:
            self._waiting.append((index, self._pool.submit(_digest, block)))
        for start, end in _runs(block):
            _write_all(self._handle, memoryview(block)[start:end], offset + start)
        if len(self._waiting) > 2 * WORKERS:
            self._take()

    def finish(self) -> str:
        """The SHA-256 over the digests of the blocks of the whole file, which is on the disk then."""
        while self._waiting:
            self._take()
        os.fsync(self._handle)
        # What the format has behind the disk (the footer of a VHD) is in the last blocks.
        size = os.fstat(self._handle).st_size
        return _summary(self._handle, size, self._disk_size, self._digests)

    def _take(self) -> None:
        index, digest = self._waiting.popleft()
        self._digests[index] = digest.result()


def _digest(block: bytearray) -> bytes:
    return hashlib.sha256(block).digest()


def _runs(block: bytearray) -> list[tuple[int, int]]:
    """The parts of a block that are not zero: (start, end)."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(block), GRAIN):
        end = min(start + GRAIN, len(block))
        if block.startswith(_ZEROS[: end - start], start):
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


def _write_all(handle: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(handle, view[:WRITE_SIZE], offset)
        view, offset = view[done:], offset + done


def _summary(handle: int, size: int, disk_size: int, digests: dict[int, bytes]) -> str:
    table = DigestTable(size)
    for index, digest in digests.items():
        if (index + 1) * BLOCK_SIZE <= disk_size or size == disk_size:
            table[index] = digest
    if size != disk_size:
        for index in range(disk_size // BLOCK_SIZE, block_count(size)):
            content = os.pread(handle, block_length(index, size), index * BLOCK_SIZE)
            table[index] = hashlib.sha256(content).digest()
    return table.summary
