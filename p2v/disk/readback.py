"""Beside a copy: what was written goes onto the disk, is read back and compared, a batch at a time.

    writer ──block numbers──► flusher: onto the disk, every 128 MiB ──► readers: digest, compare ──► BlockSet

So the end of a copy does not wait for the whole image, neither to be flushed nor to be read again.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from p2v.disk.digests import BlockSet, DigestTable
from p2v.disk.image_digests import WORKERS, ImageDigests
from p2v.disk.image_file import ImageFile
from p2v.errors import TargetError, VerifyError
from p2v.model import MiB

FLUSH_BYTES = 32 * MiB
"""Written to the image between two flushes; without them the last one waits for the whole image."""

FLUSH_BLOCKS = 256
"""The same for blocks with little in them: to look at each takes longer than its bytes."""

TOGETHER = 8
"""Blocks that one reader compares before it looks for more work."""


@contextmanager
def disk_errors(what: object) -> Iterator[None]:
    """OSErrors of the block are TargetErrors, with what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        hint = "Free some space, then: p2v resume" if error.errno == errno.ENOSPC else ""
        raise TargetError(f"Cannot write {what}: {error.strerror}", hint=hint) from error


class ReadBack:
    """Told of each block once it is written; `right` is what was read back and is as the source sent it.

    A block that differs is only left out of `right`: the verification at the end reads it again and says so.
    """

    def __init__(self, image: ImageFile, table: DigestTable, right: BlockSet) -> None:
        self._image = image
        self._table = table
        self._right = right
        self._written: list[int] = []
        self._unflushed = 0
        self._batches: queue.Queue[list[int] | None] = queue.Queue()
        self._error: TargetError | None = None
        self._thread = threading.Thread(target=self._work, name="image-flusher", daemon=True)
        self._thread.start()

    def wrote(self, index: int, size: int) -> None:
        """`size` bytes of block `index` were written, its digest is in the table. Raises TargetError."""
        if self._error is not None:
            raise self._error
        self._written.append(index)
        self._unflushed += size
        if self._unflushed > FLUSH_BYTES or len(self._written) >= FLUSH_BLOCKS:
            self._batches.put(self._written)
            self._written, self._unflushed = [], 0

    def finish(self) -> None:
        """Flush and read the rest. Raises TargetError where the disk did not take all of it."""
        self._batches.put(self._written)
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the threads, the error of the copy being another."""
        self._batches.put(None)
        self._thread.join()

    def _work(self) -> None:
        digests = ImageDigests(self._image, self._table.size)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="image-readback") as readers:
            while (batch := self._batches.get()) is not None:
                # The kernel reports a failed write to one flush only: its error is that of the copy.
                try:
                    with disk_errors("the image"):
                        os.fdatasync(self._image.handle)
                except TargetError as error:
                    self._error = error
                    return
                for at in range(0, len(batch), TOGETHER):
                    readers.submit(self._compare, digests, batch[at : at + TOGETHER])

    def _compare(self, digests: ImageDigests, indexes: Sequence[int]) -> None:
        for index in indexes:
            with suppress(VerifyError):
                if digests.of_block(index) == self._table[index]:
                    self._right.add(index)


@contextmanager
def read_back(image: ImageFile, table: DigestTable, right: BlockSet) -> Iterator[ReadBack]:
    """Everything written in the block is on the disk and compared at its end. Raises TargetError."""
    beside = ReadBack(image, table, right)
    try:
        yield beside
    except BaseException:
        beside.stop()
        raise
    beside.finish()
