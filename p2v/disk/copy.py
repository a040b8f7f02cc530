"""The copy engine: from a device into a sparse image, resumable at the block, and read back at the end.

    source ──requests in flight──► bounded queue ──► one writer: image block, then its digest in the journal

Memory is a handful of blocks, whatever the size of the disk.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.disk import digests
from p2v.disk.device import BlockData, BlockDevice, BlockRequest, FileDevice, digest_of_parts
from p2v.disk.digests import DigestJournal, DigestTable
from p2v.disk.extents import block_requests
from p2v.errors import TargetError, VerifyError
from p2v.model import BLOCK_SIZE, CaptureStats, Extent

QUEUE_BLOCKS = 6
"""Blocks between the line and the disk: enough to keep both busy, 24 MiB at the most."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files of one captured disk; the `.part` names hold until everything was verified."""

    image: Path
    digest: Path

    @property
    def partial_image(self) -> Path:
        return self.image.with_name(self.image.name + ".part")

    @property
    def journal(self) -> Path:
        return self.digest.with_name(self.digest.name + ".part")


@dataclass(frozen=True, slots=True)
class Captured:
    """What a capture left behind: its digests (not yet verified) and its counters."""

    table: DigestTable
    stats: CaptureStats


def capture_disk(
    device: BlockDevice, used: Sequence[Extent], files: ImageFiles, *, progress: Progress
) -> Captured:
    """Copy the used extents of a device into `files.partial_image`, going on from an earlier try.

    Blocks of an earlier try count only when the image still holds what the journal says and the source still
    has the same: both sides are hashed, nothing travels. Raises TransportError, TargetError (no space).
    """
    started = time.monotonic()
    requests = list(block_requests(used, size=device.size))
    with open_image(files.partial_image, device.size) as handle:
        kept = _kept_blocks(device, handle, requests, files.journal)
        _drop_stale(handle, files.journal, requests, device.size)
        missing = [request for request in requests if request.index not in kept]
        reused = sum(request.data_size for request in requests if request.index in kept)
        progress(reused)
        with digests.open_journal(files.journal) as journal:
            wire, written = _copy_blocks(device, missing, handle, journal, progress)
        os.fsync(handle)
    table = DigestTable(device.size)
    for index, digest in (kept | written).items():
        table[index] = digest
    data_size = sum(request.data_size for request in requests)
    stats = CaptureStats(device.size, data_size, wire, reused, time.monotonic() - started)
    return Captured(table, stats)


@contextmanager
def open_image(path: Path, size: int) -> Iterator[int]:
    """A sparse image of exactly `size` bytes, open for reading and writing; an earlier one is kept."""
    with _disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _disk_errors(path):
            os.ftruncate(handle, size)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Free some space, then: p2v resume" if error.errno == errno.ENOSPC else ""
        raise TargetError(f"Cannot write {what}: {error.strerror}", hint=hint) from error


def _kept_blocks(
    device: BlockDevice, handle: int, requests: list[BlockRequest], journal: Path
) -> dict[int, bytes]:
    """Blocks of an earlier try that are right here and unchanged there."""
    recorded = digests.read_journal(journal, device.size)
    image = FileDevice(handle, size=device.size, sector_size=device.sector_size, name="image")
    candidates = [
        request
        for request in requests
        if request.index in recorded and _image_digest(image, request.index) == recorded[request.index]
    ]
    return {
        request.index: digest
        for request, digest in device.hash_blocks(candidates)
        if digest == recorded[request.index]
    }


def _drop_stale(handle: int, journal: Path, requests: list[BlockRequest], size: int) -> None:
    """Zero blocks that an earlier try wrote and that the source has freed since."""
    wanted = {request.index for request in requests}
    for index in digests.read_journal(journal, size):
        if index not in wanted:
            with _disk_errors("the image"):
                os.pwrite(handle, bytes(digests.block_length(index, size)), index * BLOCK_SIZE)


def _image_digest(image: FileDevice, index: int) -> bytes:
    length = digests.block_length(index, image.size)
    whole = BlockRequest(index, index * BLOCK_SIZE, length, ((0, length),))
    return digest_of_parts(whole, [image.read(whole.offset, length)])


def _copy_blocks(
    device: BlockDevice,
    requests: Iterable[BlockRequest],
    handle: int,
    journal: DigestJournal,
    progress: Progress,
) -> tuple[int, dict[int, bytes]]:
    """Fetch and write; returns bytes on the wire and the digest of each block written."""
    wire = 0
    written: dict[int, bytes] = {}
    with _writer(handle, journal, progress) as put:
        for block in device.fetch(requests):
            wire += block.wire_size
            written[block.request.index] = block.digest
            put(block)
    return wire, written


class _Failed(Exception):
    """The writer gave up; the reason is raised where the writer is closed."""


@contextmanager
def _writer(handle: int, journal: DigestJournal, progress: Progress) -> Iterator[Callable[[BlockData], None]]:
    """One thread writes blocks from a bounded queue; its first error ends the copy and is raised here."""
    blocks: queue.Queue[BlockData | None] = queue.Queue(QUEUE_BLOCKS)
    errors: list[BaseException] = []

    def work() -> None:
        while (block := blocks.get()) is not None:
            if errors:
                continue  # drain, so that the reader never waits for a place in the queue
            try:
                _write_block(handle, block)
                journal.append(block.request.index, block.digest)
                progress(block.request.data_size)
            except BaseException as error:
                errors.append(error)

    def put(block: BlockData) -> None:
        if errors:
            raise _Failed
        blocks.put(block)

    thread = threading.Thread(target=work, name="image-writer", daemon=True)
    thread.start()
    try:
        yield put
    except _Failed:
        pass
    finally:
        blocks.put(None)
        thread.join()
    if errors:
        raise errors[0]


def _write_block(handle: int, block: BlockData) -> None:
    """Write one block as a whole, zeros between its used parts included: an earlier try may have left other
    bytes.
    """
    request = block.request
    content = bytearray(request.length)
    done = 0
    for start, size in request.pairs:
        content[start : start + size] = block.data[done : done + size]
        done += size
    with _disk_errors("the image"):
        _write_sparse(handle, request, content)


def _write_sparse(handle: int, request: BlockRequest, content: bytearray) -> None:
    """Leave what is zero on both sides as a hole, in steps of 64 KiB."""
    step = 64 * 1024
    with memoryview(content) as view:
        for start in range(0, request.length, step):
            piece = view[start : start + step]
            offset = request.offset + start
            if any(piece) or _has_data(handle, offset, len(piece)):
                _write_all(handle, piece, offset)


def _has_data(handle: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) < offset + length
    except OSError:
        return False  # ENXIO: nothing but a hole from here to the end


def _write_all(handle: int, piece: memoryview, offset: int) -> None:
    while piece:
        done = os.pwrite(handle, piece, offset)
        piece, offset = piece[done:], offset + done


def verify_image(path: Path, table: DigestTable, *, progress: Progress) -> None:
    """Read the image back and compare every block with the digest made at the source.

    Holes are not read. Raises VerifyError with the first block that differs.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_size != table.size:
            raise VerifyError(f"{path} has {os.fstat(handle).st_size} bytes instead of {table.size}")
        image = FileDevice(handle, size=table.size, sector_size=512, name=str(path))
        for index in range(digests.block_count(table.size)):
            length = digests.block_length(index, table.size)
            hole = not _has_data(handle, index * BLOCK_SIZE, length)
            digest = digests.zero_digest(length) if hole else _image_digest(image, index)
            if digest != table[index]:
                raise VerifyError(
                    f"Block {index} of {path} (bytes {index * BLOCK_SIZE} to {index * BLOCK_SIZE + length}) "
                    "differs from what the source sent"
                )
            progress(0 if hole else length)
    finally:
        os.close(handle)
