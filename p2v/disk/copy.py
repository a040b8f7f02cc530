"""The copy engine: from a device into a sparse image, resumable at the block, and read back at the end.

    source ──requests in flight──► bounded queue ──► one writer: image block, then its digest in the journal
                                                        └──► one flusher: onto the disk, every 128 MiB

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
from p2v.disk.device import BlockData, BlockDevice, BlockRequest
from p2v.disk.digests import DigestJournal, DigestTable
from p2v.disk.extents import block_requests
from p2v.disk.image_digests import ImageDigests, next_data
from p2v.errors import TargetError, VerifyError
from p2v.model import BLOCK_SIZE, CaptureStats, Extent, KiB, MiB

QUEUE_BLOCKS = 6
"""Blocks between the line and the disk: enough to keep both busy, 24 MiB at the most."""

FLUSH_BYTES = 128 * MiB
"""Written to the image between two flushes; without them the last one waits for the whole image."""

STEP = 64 * KiB
"""Zeros are left as holes in steps of this size."""

_ZEROS = bytearray(STEP)

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
        with _disk_errors(files.partial_image):
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
    written = {request.index: request for request in requests if request.index in recorded}
    # Not a list: the source digests its side while this side still does the same.
    candidates = (
        written[index]
        for index, digest in ImageDigests(handle, device.size).of_blocks(written)
        if digest == recorded[index]
    )
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
                flush(_write_block(handle, block))
                journal.append(block.request.index, block.digest)
                progress(block.request.data_size)
            except BaseException as error:
                errors.append(error)

    def put(block: BlockData) -> None:
        if errors:
            raise _Failed
        blocks.put(block)

    thread = threading.Thread(target=work, name="image-writer", daemon=True)
    with _flusher(handle, errors) as flush:
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


@contextmanager
def _flusher(handle: int, errors: list[BaseException]) -> Iterator[Callable[[int], None]]:
    """One thread that brings the image onto the disk beside the copy, each time `FLUSH_BYTES` were written.

    The kernel reports a failed write to one flush only, so an error here is an error of the copy.
    """
    wanted: queue.Queue[bool] = queue.Queue(1)
    unflushed = 0

    def work() -> None:
        while wanted.get():
            try:
                with _disk_errors("the image"):
                    os.fdatasync(handle)
            except TargetError as error:
                errors.append(error)

    def wrote(size: int) -> None:
        nonlocal unflushed
        unflushed += size
        if unflushed > FLUSH_BYTES and wanted.empty():
            wanted.put(True)
            unflushed = 0

    thread = threading.Thread(target=work, name="image-flusher", daemon=True)
    thread.start()
    try:
        yield wrote
    finally:
        wanted.put(False)
        thread.join()


def _write_block(handle: int, block: BlockData) -> int:
    """Write one block; what an earlier try left outside its used parts becomes zero. Returns bytes written."""
    request = block.request
    written, done, end = 0, 0, 0
    with _disk_errors("the image"), memoryview(block.data) as data:
        empty = next_data(handle, request.offset, request.offset + request.length) is None
        for start, size in request.pairs:
            if not empty:
                _write_zeros(handle, request.offset + end, start - end)
            written += _write_sparse(handle, request.offset + start, data[done : done + size], empty)
            done, end = done + size, start + size
        if not empty:
            _write_zeros(handle, request.offset + end, request.length - end)
    return written


def _write_zeros(handle: int, offset: int, size: int) -> None:
    for at in range(offset, offset + size, STEP):
        length = min(STEP, offset + size - at)
        if next_data(handle, at, at + length) is not None:
            _write_all(handle, memoryview(_ZEROS)[:length], at)


def _write_sparse(handle: int, offset: int, data: memoryview, empty: bool) -> int:
    """Write what is not zero, and the zeros only where the image has data. Returns bytes written."""
    written, start = 0, 0
    for at in range(0, len(data), STEP):
        piece = data[at : at + STEP]
        if not _is_zero(piece):
            continue
        # Everything before this step in one write.
        written += _write_all(handle, data[start:at], offset + start)
        if not empty:
            _write_zeros(handle, offset + at, len(piece))
        start = at + len(piece)
    return written + _write_all(handle, data[start:], offset + start)


def _is_zero(piece: memoryview) -> bool:
    # A bytearray compares with memcmp; a memoryview on the left would go through its bytes one by one.
    return _ZEROS == piece if len(piece) == STEP else _ZEROS[: len(piece)] == piece


def _write_all(handle: int, piece: memoryview, offset: int) -> int:
    size = len(piece)
    while piece:
        done = os.pwrite(handle, piece, offset)
        piece, offset = piece[done:], offset + done
    return size


def verify_image(path: Path, table: DigestTable, *, progress: Progress) -> None:
    """Read the image back and compare every block with the digest made at the source.

    Holes are not read. Raises VerifyError with the first block that differs.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_size != table.size:
            raise VerifyError(f"{path} has {os.fstat(handle).st_size} bytes instead of {table.size}")
        image = ImageDigests(handle, table.size)
        after = 0
        for index, digest in image.of_blocks(image.blocks_with_data()):
            _verify_holes(path, table, after, index)
            if digest != table[index]:
                raise _differs(path, table, index)
            after = index + 1
            progress(digests.block_length(index, table.size))
        _verify_holes(path, table, after, digests.block_count(table.size))
    finally:
        os.close(handle)


def _verify_holes(path: Path, table: DigestTable, first: int, end: int) -> None:
    """The blocks from `first` up to `end` are holes here: the source must have had zeros there."""
    for index in range(first, end):
        if table[index] != digests.zero_digest(digests.block_length(index, table.size)):
            raise _differs(path, table, index)


def _differs(path: Path, table: DigestTable, index: int) -> VerifyError:
    start = index * BLOCK_SIZE
    end = start + digests.block_length(index, table.size)
    return VerifyError(f"Block {index} of {path} (bytes {start} to {end}) differs from what the source sent")
