"""A disk written as it is, holes left out: raw images, the data of a flat VMDK, of a fixed VHD.

Each used byte is read once, digested on its way and written once; nothing is read back.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from p2v.disk.digests import DigestTable, block_count, block_length
from p2v.model import BLOCK_SIZE, KiB, MiB
from p2v.targets.overlay_reader import OverlayReader

GRAIN = 64 * KiB
"""Zeros of this length stay a hole."""

SYNC_SIZE = 128 * MiB
"""So much is handed to the disk at a time while more is read, so that the end need not wait for all of it."""

WORKERS = max(2, min(4, os.cpu_count() or 2))
_ZEROS = bytes(GRAIN)


def copy_raw(reader: OverlayReader, path: Path) -> str:
    """Write the disk to the start of an existing file that is zero there, and at least as long.

    Returns the SHA-256 over the digests of the blocks of the whole file. It is on the disk then.
    """
    with path.open("r+b", buffering=0) as file, ThreadPoolExecutor(WORKERS) as pool:
        copy = _Copy(file.fileno(), pool)
        for offset, block in reader.blocks():
            copy.write(offset, block)
        copy.finish()
        # What the format has behind the disk (the footer of a VHD) is in the last blocks.
        size = os.fstat(file.fileno()).st_size
        return _summary(file.fileno(), size, reader.size, copy.digests)


class _Copy:
    """A file that is being written: digests are made and the disk works while more is read."""

    def __init__(self, handle: int, pool: ThreadPoolExecutor) -> None:
        self._handle = handle
        self._pool = pool
        self._waiting: deque[tuple[int, Future[bytes]]] = deque()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self.digests: dict[int, bytes] = {}

    def write(self, offset: int, block: bytearray) -> None:
        self._waiting.append((offset // BLOCK_SIZE, self._pool.submit(_digest, block)))
        for start, end in _runs(block):
            _write_all(self._handle, memoryview(block)[start:end], offset + start)
            self._unsynced += end - start
        if self._unsynced >= SYNC_SIZE and (self._syncing is None or self._syncing.done()):
            self._unsynced, self._syncing = 0, self._pool.submit(os.fdatasync, self._handle)
        if len(self._waiting) > 2 * WORKERS:
            self._take()

    def finish(self) -> None:
        while self._waiting:
            self._take()
        if self._syncing is not None:
            self._syncing.result()
        os.fsync(self._handle)

    def _take(self) -> None:
        index, digest = self._waiting.popleft()
        self.digests[index] = digest.result()


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
        done = os.pwrite(handle, view, offset)
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
