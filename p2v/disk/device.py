"""What the data path asks of a disk, wherever it is: exact reads, and blocks with their digests.

A `BlockDevice` that knows nothing else can still be copied whole; a used-block map only makes it faster.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2v.errors import ReadError, TransportError
from p2v.model import BLOCK_SIZE

ALIGNMENT = 4096
"""Extents are rounded outwards to this many bytes: direct reads want it, and no filesystem here is finer."""

READ_ERRORS = frozenset(
    {errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.EBADMSG, errno.ETIMEDOUT}
)
"""How Linux says that a disk has the sector but cannot read it (block/blk-core.c, `blk_errors`): a bad medium
is EIO through the page cache, and ENODATA to a direct read.
"""


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Used parts of one block of a disk: `pairs` are (start in the block, length), sorted, bytes."""

    index: int
    offset: int
    length: int
    pairs: tuple[tuple[int, int], ...]

    @property
    def data_size(self) -> int:
        return sum(size for _, size in self.pairs)


@dataclass(frozen=True, slots=True)
class BlockData:
    """One block as it was read: its used parts joined, and the bytes that travelled for it.

    `digest` is the SHA-256 of the zero-filled block, made where it was read. `empty` says that the data is
    known to be nothing but zeros.
    """

    request: BlockRequest
    data: bytes | memoryview
    digest: bytes
    wire_size: int
    empty: bool = False


class BlockDevice(Protocol):
    """A disk that can be read. Sizes and offsets in bytes; errors are TransportError."""

    @property
    def size(self) -> int: ...

    @property
    def sector_size(self) -> int: ...

    @property
    def live(self) -> bool:
        """Whether its filesystems may be mounted right now (and were synced before the device was opened)."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The ranges (offset, length) in order, several in flight where that is faster."""

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        """Blocks with their digests, in the order of the requests, several in flight."""

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        """The digests alone: what is on the disk now, at no cost on the wire."""


class PlainReads(ABC):
    """Everything of a `BlockDevice` that follows from `read`, for devices where nothing is gained by more."""

    live: bool = False

    @property
    @abstractmethod
    def size(self) -> int: ...

    @property
    @abstractmethod
    def sector_size(self) -> int: ...

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes: ...

    def check_range(self, offset: int, length: int, name: str) -> None:
        """Raises TransportError for bytes that the device has not."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TransportError(f"{name}: bytes {offset} to {offset + length} are outside of it")

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for offset, length in ranges:
            yield self.read(offset, length)

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for request in requests:
            data, digest = _read_block(self, request)
            yield BlockData(request, data, digest, len(data))

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        for request in requests:
            yield request, _read_block(self, request)[1]


class FileDevice(PlainReads):
    """A disk in a local file or block device, opened read-only."""

    def __init__(self, handle: int, *, size: int, sector_size: int, name: str) -> None:
        self._handle = handle
        self._size = size
        self._sector_size = sector_size
        self._name = name

    @property
    def size(self) -> int:
        return self._size

    @property
    def sector_size(self) -> int:
        return self._sector_size

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length, self._name)
        pieces = []
        while length:
            piece = self._read_once(offset, length)
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def _read_once(self, offset: int, length: int) -> bytes:
        try:
            piece = self._pread(offset, length)
        except OSError as error:
            message = f"{self._name}: cannot read at byte {offset}: {error.strerror}"
            if error.errno in READ_ERRORS:
                raise ReadError(message, offset=offset) from error
            raise TransportError(message) from error
        if not piece:
            raise TransportError(f"{self._name} ends at byte {offset}, before its size of {self._size}")
        return piece

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._handle, length, offset)
        except OSError as error:
            # The page cache reads much more than was asked for, and fails as a whole.
            if error.errno not in READ_ERRORS or (offset | length) % self._sector_size:
                raise
            with contextlib.suppress(OSError):
                return _read_past_cache(self._handle, offset, length)
            raise


def _read_past_cache(handle: int, offset: int, length: int) -> bytes:
    direct = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, length) as page:
            done = os.preadv(direct, [page], offset)
            return page[:done]
    finally:
        os.close(direct)


def _read_block(device: PlainReads, request: BlockRequest) -> tuple[bytes, bytes]:
    """The used parts of a block, joined, and the SHA-256 of the zero-filled block."""
    pieces = [device.read(request.offset + start, size) for start, size in request.pairs]
    return b"".join(pieces), digest_of_parts(request, pieces)


def digest_of_parts(request: BlockRequest, pieces: Sequence[bytes | memoryview]) -> bytes:
    """SHA-256 of a block in which everything outside the request's pairs is zero."""
    digest = hashlib.sha256()
    done = 0
    for (start, size), piece in zip(request.pairs, pieces, strict=True):
        update_zeros(digest, start - done)
        digest.update(piece)
        done = start + size
    update_zeros(digest, request.length - done)
    return digest.digest()


_ZEROS = bytes(BLOCK_SIZE)


def update_zeros(digest: hashlib._Hash, size: int) -> None:
    """Go on with `size` zero bytes."""
    while size > 0:
        part = min(size, len(_ZEROS))
        digest.update(memoryview(_ZEROS)[:part])
        size -= part


@contextmanager
def open_file_device(path: Path, *, sector_size: int = 512) -> Iterator[FileDevice]:
    """A raw image or a local block device. Raises TransportError where it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TransportError(f"Cannot open {path}: {error.strerror}") from error
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        yield FileDevice(handle, size=size, sector_size=sector_size, name=str(path))
    finally:
        os.close(handle)
