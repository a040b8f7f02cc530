"""Digests of a disk image: one SHA-256 for each block of 4 MiB.

While a capture runs they are a journal (`*.digest.part`): one record for each block that was written, in the
order of writing, so that a killed run knows what it has. A record cut short by the kill is ignored, and a
record is believed only after the block was read back. Finished, they are a plain table (`*.digest`): 32
bytes a block, block 0 first.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE

RECORD = struct.Struct("!I32s")
DIGEST_SIZE = 32
RUN = 4096
"""Blocks of a table that are kept together."""


def block_count(size: int) -> int:
    return -(-size // BLOCK_SIZE)


def block_length(index: int, size: int) -> int:
    """Bytes of block `index` of a disk of `size` bytes; the last one may be shorter."""
    return min(BLOCK_SIZE, size - index * BLOCK_SIZE)


@cache
def zero_digest(length: int) -> bytes:
    return hashlib.sha256(bytes(length)).digest()


class DigestTable:
    """The digests of one image, all blocks zero at first.

    Kept in runs of blocks, of which one without data takes no memory: fresh memory is slow to come by, and a
    large disk is mostly empty. At the most 32 bytes for each 4 MiB of disk.
    """

    def __init__(self, size: int, content: bytes | None = None) -> None:
        self.size = size
        self._count = block_count(size)
        self._runs: list[bytearray | None] = [None] * -(-self._count // RUN)
        if content is not None:
            self._fill(content)
        elif self._count:
            self[self._count - 1] = zero_digest(block_length(self._count - 1, size))

    def _fill(self, content: bytes) -> None:
        if len(content) != self._count * DIGEST_SIZE:
            raise VerifyError(
                f"The digests are for {len(content) // DIGEST_SIZE} blocks, the image has {self._count}"
            )
        for number in range(len(self._runs)):
            piece = content[number * RUN * DIGEST_SIZE : (number + 1) * RUN * DIGEST_SIZE]
            if piece != _zero_run():
                self._runs[number] = bytearray(piece)

    def __getitem__(self, index: int) -> bytes:
        if (run := self._runs[index // RUN]) is None:
            return zero_digest(BLOCK_SIZE)
        at = index % RUN * DIGEST_SIZE
        return bytes(run[at : at + DIGEST_SIZE])

    def __setitem__(self, index: int, digest: bytes) -> None:
        number, at = index // RUN, index % RUN * DIGEST_SIZE
        if (run := self._runs[number]) is None:
            if digest == zero_digest(BLOCK_SIZE):
                return
            run = self._runs[number] = bytearray(self._zeros(number))
        run[at : at + DIGEST_SIZE] = digest

    def first_not_zero(self, first: int, end: int) -> int | None:
        """The first of the blocks from `first` up to `end` whose digest is not that of zeros."""
        for number in range(first // RUN, -(-end // RUN)):
            run, start = self._runs[number], number * RUN
            low, high = max(first, start), min(end, start + RUN)
            if (
                run is None
                or run[(low - start) * DIGEST_SIZE : (high - start) * DIGEST_SIZE]
                == (_zero_run()[: (high - low) * DIGEST_SIZE])
            ):
                continue
            for index in range(low, high):
                if self[index] != zero_digest(block_length(index, self.size)):
                    return index
        return None

    def pieces(self) -> Iterator[bytes | bytearray]:
        """The table as it stands in a file, a run at a time."""
        return (self._zeros(number) if run is None else run for number, run in enumerate(self._runs))

    def _zeros(self, number: int) -> bytes:
        return _zero_run()[: min(RUN, self._count - number * RUN) * DIGEST_SIZE]

    @property
    def summary(self) -> str:
        """One digest for the whole image: SHA-256 over the table, hexadecimal."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


@cache
def _zero_run() -> bytes:
    return zero_digest(BLOCK_SIZE) * RUN


class BlockSet:
    """Which blocks of an image; several threads may add. Memory: one byte for each 4 MiB of disk."""

    def __init__(self, size: int) -> None:
        self._members = bytearray(block_count(size))

    def add(self, index: int) -> None:
        self._members[index] = 1

    def discard(self, index: int) -> None:
        self._members[index] = 0

    def add_range(self, start: int, length: int) -> None:
        """Every block that holds any of these bytes; what lies outside the image does not count."""
        first = start // BLOCK_SIZE
        count = max(0, min(-(-(start + length) // BLOCK_SIZE), len(self._members)) - first)
        self._members[first : first + count] = b"\1" * count

    def inverted(self) -> BlockSet:
        """The blocks that are not in it."""
        other = BlockSet(0)
        other._members = bytearray(1 - member for member in self._members)
        return other

    def __contains__(self, index: int) -> bool:
        return self._members[index] == 1


def read_table(path: Path, size: int) -> DigestTable:
    try:
        return DigestTable(size, path.read_bytes())
    except OSError as error:
        raise VerifyError(f"Cannot read the digests in {path}: {error.strerror}") from error


class DigestJournal:
    """The records of a running capture, appended after each block that was written."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def append(self, index: int, digest: bytes) -> None:
        os.write(self._handle, RECORD.pack(index, digest))


@contextmanager
def open_journal(path: Path) -> Iterator[DigestJournal]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # A record that a kill cut short would shift all that follow.
        os.ftruncate(handle, os.fstat(handle).st_size // RECORD.size * RECORD.size)
        yield DigestJournal(handle)
    finally:
        os.close(handle)


def read_journal(path: Path, size: int) -> dict[int, bytes]:
    """The newest digest recorded for each block; empty where there is no journal."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = len(content) // RECORD.size * RECORD.size
    count = block_count(size)
    return {index: digest for index, digest in RECORD.iter_unpack(content[:whole]) if index < count}
