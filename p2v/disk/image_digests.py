"""Digests of the blocks of a sparse image, several threads at once, holes not read.

SHA-256 of a block that is mostly hole costs as much as of one full of data, so what is cheap to know is not
computed again: a hole, and a block with little in it that came up before (an empty filesystem repeats the
same bitmap every 2 GiB).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from p2v.disk.device import update_zeros
from p2v.disk.digests import block_length, zero_digest
from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE, KiB, MiB

WORKERS = min(4, os.cpu_count() or 1)
STEP = MiB
SMALL = 64 * KiB
REMEMBERED = 64


class ImageDigests:
    """Reads an open image of `size` bytes. Memory: a few MiB for each thread."""

    def __init__(self, handle: int, size: int) -> None:
        self._handle = handle
        self._size = size
        self._known: dict[tuple[object, ...], bytes] = {}

    def of_blocks(self, indexes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """(block, digest) in the order asked. Raises VerifyError where the image cannot be read."""
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="image-digest") as pool:
            for index in indexes:
                waiting.append((index, pool.submit(self.of_block, index)))
                if len(waiting) > 2 * WORKERS:
                    yield _take(waiting)
            while waiting:
                yield _take(waiting)

    def of_block(self, index: int) -> bytes:
        length = block_length(index, self._size)
        try:
            ranges = self._data_ranges(index * BLOCK_SIZE, length)
            if not ranges:
                return zero_digest(length)
            if sum(size for _, size in ranges) > SMALL:
                return self._digest(index * BLOCK_SIZE, length, ranges)
            return self._remembered(index * BLOCK_SIZE, length, ranges)
        except OSError as error:
            raise VerifyError(f"Cannot read block {index} of the image: {error.strerror}") from error

    def blocks_with_data(self) -> Iterator[int]:
        """The blocks that are more than a hole, in order."""
        at: int | None = next_data(self._handle, 0, self._size)
        while at is not None:
            yield at // BLOCK_SIZE
            at = next_data(self._handle, (at // BLOCK_SIZE + 1) * BLOCK_SIZE, self._size)

    def _data_ranges(self, offset: int, length: int) -> tuple[tuple[int, int], ...]:
        """Where the block has data: (start in the block, length)."""
        ranges = []
        end = offset + length
        at = next_data(self._handle, offset, end)
        while at is not None:
            stop = min(os.lseek(self._handle, at, os.SEEK_HOLE), end)
            ranges.append((at - offset, stop - at))
            at = next_data(self._handle, stop, end)
        return tuple(ranges)

    def _remembered(self, offset: int, length: int, ranges: tuple[tuple[int, int], ...]) -> bytes:
        content = tuple(os.pread(self._handle, size, offset + start) for start, size in ranges)
        key = (length, ranges, content)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            # Read again: the digest is of what the disk says, not of what the key says.
            digest = self._digest(offset, length, ranges)
            self._known[key] = digest
            return digest
        return self._known.get(key) or self._digest(offset, length, ranges)

    def _digest(self, offset: int, length: int, ranges: tuple[tuple[int, int], ...]) -> bytes:
        digest = hashlib.sha256()
        done = 0
        for start, size in ranges:
            update_zeros(digest, start - done)
            for at in range(start, start + size, STEP):
                piece = min(STEP, start + size - at)
                digest.update(_exactly(self._handle, offset + at, piece))
            done = start + size
        update_zeros(digest, length - done)
        return digest.digest()


def next_data(handle: int, offset: int, end: int) -> int | None:
    """The first byte from `offset` on, before `end`, that is no hole; None where there is none."""
    if offset >= end:
        return None
    try:
        at = os.lseek(handle, offset, os.SEEK_DATA)
    except OSError:
        return None  # ENXIO: nothing but a hole from here to the end
    return at if at < end else None


def _exactly(handle: int, offset: int, size: int) -> bytes:
    piece = os.pread(handle, size, offset)
    if len(piece) != size:
        raise VerifyError(f"The image ends at byte {offset + len(piece)}")
    return piece


def _take(waiting: deque[tuple[int, Future[bytes]]]) -> tuple[int, bytes]:
    index, digest = waiting.popleft()
    return index, digest.result()
