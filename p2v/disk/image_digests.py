"""Digests of the blocks of a sparse image, several threads at once, holes not read.

SHA-256 of a block that is mostly hole costs as much as of one full of data, so what is cheap to know is not
computed again: a hole, and a block with little in it that came up before (an empty filesystem repeats the
same bitmap every 2 GiB).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from p2v.disk.device import update_zeros
from p2v.disk.digests import block_length, zero_digest
from p2v.disk.image_file import ImageFile, page_buffer
from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE, KiB

WORKERS = min(4, os.cpu_count() or 1)
SMALL = 64 * KiB
REMEMBERED = 64


class ImageDigests:
    """Reads an open image of `size` bytes. Memory: one block for each thread."""

    def __init__(self, image: ImageFile, size: int) -> None:
        self._image = image
        self._buffers = threading.local()
        self._size = size
        self._known: dict[tuple[object, ...], bytes] = {}

    def of_blocks(self, indexes: Iterable[int]) -> Generator[tuple[int, bytes], None, None]:
        """(block, digest) in the order asked; to be closed before the image.

        Raises VerifyError where the image cannot be read.
        """
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
            small = length > SMALL >= sum(size for _, size in ranges)
            digest = self._remembered if small else self._digest
            return digest(index * BLOCK_SIZE, length, ranges)
        except OSError as error:
            raise VerifyError(f"Cannot read block {index} of the image: {error.strerror}") from error

    def blocks_with_data(self) -> Iterator[int]:
        """The blocks that are more than a hole, in order."""
        at: int | None = self._image.next_data(0, self._size)
        while at is not None:
            yield at // BLOCK_SIZE
            at = self._image.next_data((at // BLOCK_SIZE + 1) * BLOCK_SIZE, self._size)

    def _data_ranges(self, offset: int, length: int) -> tuple[tuple[int, int], ...]:
        """Where the block has data: (start in the block, length)."""
        ranges = []
        end = offset + length
        at = self._image.next_data(offset, end)
        while at is not None:
            stop = min(self._image.next_hole(at), end)
            ranges.append((at - offset, stop - at))
            at = self._image.next_data(stop, end)
        return tuple(ranges)

    def _remembered(self, offset: int, length: int, ranges: tuple[tuple[int, int], ...]) -> bytes:
        content = b"".join(bytes(self._read(offset + start, size)) for start, size in ranges)
        key = (length, ranges, content)
        found = self._known.get(key)
        if found is None:
            found = self._digest(offset, length, ranges)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def _digest(self, offset: int, length: int, ranges: tuple[tuple[int, int], ...]) -> bytes:
        digest = hashlib.sha256()
        done = 0
        for start, size in ranges:
            update_zeros(digest, start - done)
            digest.update(self._read(offset + start, size))
            done = start + size
        update_zeros(digest, length - done)
        return digest.digest()

    def _read(self, offset: int, size: int) -> memoryview:
        """Valid until this thread reads again."""
        if not hasattr(self._buffers, "view"):
            self._buffers.view = page_buffer(BLOCK_SIZE)
        view: memoryview = self._buffers.view[:size]
        self._image.read(view, offset)
        return view


def _take(waiting: deque[tuple[int, Future[bytes]]]) -> tuple[int, bytes]:
    index, digest = waiting.popleft()
    return index, digest.result()
