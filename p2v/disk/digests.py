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
"""Blocks compared at once: a large disk is mostly holes."""


def block_count(size: int) -> int:
    return -(-size // BLOCK_SIZE)


def block_length(index: int, size: int) -> int:
    """Bytes of block `index` of a disk of `size` bytes; the last one may be shorter."""
    return min(BLOCK_SIZE, size - index * BLOCK_SIZE)


@cache
def zero_digest(length: int) -> bytes:
    return hashlib.sha256(bytes(length)).digest()


class DigestTable:
    """The digests of one image, all blocks zero at first. Memory: 32 bytes for each 4 MiB of disk."""

    def __init__(self, size: int, content: bytes | None = None) -> None:
        self.size = size
        count = block_count(size)
        if content is None:
            content = zero_digest(BLOCK_SIZE) * (count - 1) + zero_digest(block_length(count - 1, size))
        if len(content) != count * DIGEST_SIZE:
            raise VerifyError(
                f"The digests are for {len(content) // DIGEST_SIZE} blocks, the image has {count}"
            )
        self._content = bytearray(content)

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._content[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    def __setitem__(self, index: int, digest: bytes) -> None:
        self._content[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = digest

    def first_not_zero(self, first: int, end: int) -> int | None:
        """The first of the blocks from `first` up to `end` whose digest is not that of zeros."""
        zeros = zero_digest(BLOCK_SIZE) * RUN
        for at in range(first, end, RUN):
            stop = min(at + RUN, end)
            if self._content[at * DIGEST_SIZE : stop * DIGEST_SIZE] == zeros[: (stop - at) * DIGEST_SIZE]:
                continue
            for index in range(at, stop):
                if self[index] != zero_digest(block_length(index, self.size)):
                    return index
        return None

    def to_bytes(self) -> bytes:
        return bytes(self._content)

    @property
    def summary(self) -> str:
        """One digest for the whole image: SHA-256 over the table, hexadecimal."""
        return hashlib.sha256(self._content).hexdigest()


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
        for index in range(start // BLOCK_SIZE, min(-(-(start + length) // BLOCK_SIZE), len(self._members))):
            self._members[index] = 1

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
