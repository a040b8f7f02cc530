"""The copy engine: from a device into a sparse image, resumable at the block, and read back at the end.

    source ──requests in flight──► bounded queue ──► one writer: image block, then its digest in the journal
                                                        └──► beside it: onto the disk, read back, compared

Memory is a handful of blocks, whatever the size of the disk.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from p2v.disk import digests, extents
from p2v.disk.device import BlockData, BlockDevice, BlockRequest
from p2v.disk.digests import BlockSet, DigestJournal, DigestTable
from p2v.disk.image_digests import ImageDigests
from p2v.disk.image_file import ImageFile, open_image_file
from p2v.disk.readback import ReadBack, disk_errors, read_back
from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE, CaptureStats, Extent, KiB

QUEUE_BLOCKS = 6
"""Blocks between the line and the disk: enough to keep both busy, 24 MiB at the most."""

SMALL = 64 * KiB
SMALL_BLOCKS = 16
"""Blocks with no more data than this go to the disk so many at a time."""

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
    """What a capture left behind: digests, counters, and the blocks that were read back and are right.

    `moved_size` is the bytes of used blocks that were not there already, `seen` what this process has looked
    at, so that the table holds for it.
    """

    table: DigestTable
    right: BlockSet
    stats: CaptureStats
    moved_size: int
    seen: BlockSet


def capture_disk(
    device: BlockDevice,
    used: Sequence[Extent],
    files: ImageFiles,
    *,
    progress: Progress,
    former: Captured | None = None,
    within: BlockSet | None = None,
) -> Captured:
    """Copy the used extents of a device into `files.partial_image`, going on from an earlier try.

    Blocks of an earlier try count only when the image still holds what the journal says and the source still
    has the same: both sides are hashed, nothing travels. `former` is what this very process left there a
    moment ago: the image is not read to know it. With `within`, only these blocks are looked at, and all
    others stay as `former` has them. Raises TransportError, TargetError (no space).
    """
    started = time.monotonic()
    table, right = DigestTable(device.size), BlockSet(device.size)
    seen = BlockSet(device.size)
    seen.add_range(0, device.size)
    if within is not None:
        seen = _take_over(former, within, table, right)
    with open_image(files.partial_image, device.size) as image:
        kept = _kept_blocks(device, image, used, Known(files.journal, former, within), progress)
        for index, digest in kept.items():
            table[index] = digest
            if former is None or index not in former.seen or index in former.right:
                right.add(index)
        _drop_stale(image, used, files.journal, within)
        wanted = partial(_requests, used, table.size, within)
        reused = sum(request.data_size for request in wanted() if request.index in kept) if kept else 0
        missing = (request for request in wanted() if request.index not in kept)
        with digests.open_journal(files.journal) as journal, read_back(image, table, right) as beside:
            wire = _copy_blocks(device, missing, image, Records(table, journal, beside), progress)
        with disk_errors(files.partial_image):
            os.fsync(image.handle)
    stats = CaptureStats(table.size, extents.total(used), wire, reused, time.monotonic() - started)
    looked_at = stats.data_size if within is None else sum(request.data_size for request in wanted())
    moved = looked_at - reused
    return Captured(table, right, stats, moved, seen)


def _take_over(former: Captured | None, within: BlockSet, table: DigestTable, right: BlockSet) -> BlockSet:
    """Outside of the blocks that are looked at, everything is as it was; returns what is known then."""
    seen = BlockSet(table.size)
    for index in range(digests.block_count(table.size)):
        if index in within:
            seen.add(index)
        elif former is not None and index in former.seen:
            seen.add(index)
            table[index] = former.table[index]
            if index in former.right:
                right.add(index)
    return seen


def _requests(used: Iterable[Extent], size: int, within: BlockSet | None = None) -> Iterator[BlockRequest]:
    # Made anew each time that they are needed: those of a full disk of 2 TiB would fill 150 MiB.
    requests = extents.block_requests(used, size=size)
    return requests if within is None else (one for one in requests if one.index in within)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an image that is there already: by its journal, or by this process itself."""

    journal: Path
    former: Captured | None
    within: BlockSet | None

    @contextmanager
    def blocks(
        self, image: ImageFile, written: Collection[int], size: int
    ) -> Iterator[Iterator[tuple[int, bytes]]]:
        """Of these blocks each one and its digest, as the image really has it."""
        recorded = digests.read_journal(self.journal, size)
        seen = self.former.seen if self.former else BlockSet(size)
        unknown = [index for index in written if index not in seen]
        with closing(ImageDigests(image, size).of_blocks(unknown)) as here:
            right = ((index, digest) for index, digest in here if digest == recorded[index])
            yield itertools.chain(self._believed(written, seen), right)

    def _believed(self, written: Iterable[int], seen: BlockSet) -> Iterator[tuple[int, bytes]]:
        if self.former is not None:
            yield from ((index, self.former.table[index]) for index in written if index in seen)


@dataclass(frozen=True, slots=True)
class Records:
    """Where the digest of a block goes: into the table, and into the journal once the block is written.

    `beside` then reads the block back and compares.
    """

    table: DigestTable
    journal: DigestJournal
    beside: ReadBack

    def add(self, block: BlockData) -> None:
        self.table[block.request.index] = block.digest
        self.journal.append(block.request.index, block.digest)


@contextmanager
def open_image(path: Path, size: int) -> Iterator[ImageFile]:
    """A sparse image of exactly `size` bytes, open for reading and writing; an earlier one is kept."""
    with ExitStack() as stack:
        with disk_errors(path):
            image = stack.enter_context(open_image_file(path, os.O_RDWR | os.O_CREAT))
            os.ftruncate(image.handle, size)
        yield image


def _kept_blocks(
    device: BlockDevice, image: ImageFile, used: Sequence[Extent], known: Known, progress: Progress
) -> dict[int, bytes]:
    """Blocks of an earlier try that are right here and unchanged there, with their digests."""
    recorded = digests.read_journal(known.journal, device.size)
    if not recorded:
        return {}
    requests = _requests(used, device.size, known.within)
    written = {request.index: request for request in requests if request.index in recorded}
    kept: dict[int, bytes] = {}
    expected: dict[int, bytes] = {}
    with known.blocks(image, written, device.size) as here:
        # Not a list: the source digests its side while this side still does the same.
        for request, digest in device.hash_blocks(_noted(here, written, expected)):
            if digest == expected.pop(request.index):
                kept[request.index] = digest
                progress(request.data_size)
    return kept


def _noted(
    here: Iterable[tuple[int, bytes]], written: Mapping[int, BlockRequest], expected: dict[int, bytes]
) -> Iterator[BlockRequest]:
    """The requests for blocks, whose digests are kept in `expected` until the answers come."""
    for index, digest in here:
        expected[index] = digest
        yield written[index]


def _drop_stale(image: ImageFile, used: Sequence[Extent], journal: Path, within: BlockSet | None) -> None:
    """Zero blocks that an earlier try wrote and that the source has freed since."""
    size = os.fstat(image.handle).st_size
    recorded = digests.read_journal(journal, size)
    stale = set(recorded) if within is None else {index for index in recorded if index in within}
    if stale:
        stale -= {request.index for request in _requests(used, size) if request.index in stale}
    for index in stale:
        with disk_errors("the image"):
            _write_zeros(image, index * BLOCK_SIZE, digests.block_length(index, size))


def _copy_blocks(
    device: BlockDevice,
    requests: Iterable[BlockRequest],
    image: ImageFile,
    records: Records,
    progress: Progress,
) -> int:
    """Fetch and write; returns bytes on the wire."""
    wire = 0
    with _writer(image, records, progress) as put:
        for block in device.fetch(requests):
            wire += block.wire_size
            put(block)
    return wire


class _Failed(Exception):
    """The writer gave up; the reason is raised where the writer is closed."""


@contextmanager
def _writer(image: ImageFile, records: Records, progress: Progress) -> Iterator[Callable[[BlockData], None]]:
    """One thread writes blocks from a bounded queue; its first error ends the copy and is raised here."""
    batches: queue.Queue[list[BlockData] | None] = queue.Queue(QUEUE_BLOCKS)
    batch: list[BlockData] = []
    errors: list[BaseException] = []

    def work() -> None:
        while (blocks := batches.get()) is not None:
            if errors:
                continue  # drain, so that the reader never waits for a place in the queue
            try:
                for block in blocks:
                    size = _write_block(image, block)
                    records.add(block)
                    records.beside.wrote(block.request.index, size)
                    progress(block.request.data_size)
            except BaseException as error:
                errors.append(error)

    def put(block: BlockData) -> None:
        nonlocal batch
        if errors:
            raise _Failed
        batch.append(block)
        # To wake the other thread for each of many small blocks would cost more than to write them.
        if len(batch) >= SMALL_BLOCKS or not (block.empty or len(block.data) <= SMALL):
            batches.put(batch)
            batch = []

    thread = threading.Thread(target=work, name="image-writer", daemon=True)
    thread.start()
    try:
        yield put
    except _Failed:
        pass
    finally:
        batches.put(batch)
        batches.put(None)
        thread.join()
    if errors:
        raise errors[0]


def _write_block(image: ImageFile, block: BlockData) -> int:
    """Write one block; what an earlier try left around its used parts becomes zero. Returns bytes written."""
    request = block.request
    written, done, end = 0, 0, 0
    with disk_errors("the image"), memoryview(block.data) as data:
        empty = image.next_data(request.offset, request.offset + request.length) is None
        for start, size in () if block.empty else request.pairs:
            if not empty:
                _write_zeros(image, request.offset + end, start - end)
            written += _write_sparse(image, request.offset + start, data[done : done + size], empty)
            done, end = done + size, start + size
        if not empty:
            _write_zeros(image, request.offset + end, request.length - end)
    return written


def _write_zeros(image: ImageFile, offset: int, size: int) -> None:
    for at in range(offset, offset + size, STEP):
        length = min(STEP, offset + size - at)
        if image.next_data(at, at + length) is not None:
            image.write(memoryview(_ZEROS)[:length], at)


def _write_sparse(image: ImageFile, offset: int, data: memoryview, empty: bool) -> int:
    """Write what is not zero, and the zeros only where the image has data. Returns bytes written."""
    written, start = 0, 0
    for at in range(0, len(data), STEP):
        piece = data[at : at + STEP]
        if not _is_zero(piece):
            continue
        # Everything before this step in one write.
        written += image.write(data[start:at], offset + start)
        if not empty:
            _write_zeros(image, offset + at, len(piece))
        start = at + len(piece)
    return written + image.write(data[start:], offset + start)


def _is_zero(piece: memoryview) -> bool:
    # A bytearray compares with memcmp; a memoryview on the left would go through its bytes one by one.
    zeros = _ZEROS if len(piece) == STEP else _ZEROS[: len(piece)]
    return zeros == piece


def verify_image(
    path: Path, table: DigestTable, *, progress: Progress, right: BlockSet | None = None
) -> None:
    """Read the image back and compare every block with the digest made at the source.

    Holes are not read, nor what is in `right`: that was read back since it was written. Raises VerifyError
    with the first block that differs.
    """
    with open_image_file(path, os.O_RDONLY) as image:
        size = os.fstat(image.handle).st_size
        if size != table.size:
            raise VerifyError(f"{path} has {size} bytes instead of {table.size}")
        after = 0
        for index, digest in _read_again(ImageDigests(image, size), table, right or BlockSet(size)):
            _verify_holes(path, table, after, index)
            if digest != table[index]:
                raise _differs(path, table, index)
            after = index + 1
            progress(digests.block_length(index, size))
        _verify_holes(path, table, after, digests.block_count(size))


def _read_again(blocks: ImageDigests, table: DigestTable, right: BlockSet) -> Iterator[tuple[int, bytes]]:
    """Every block with data and its digest, in order; those in `right` are not read."""
    for known, indexes in itertools.groupby(blocks.blocks_with_data(), right.__contains__):
        if known:
            yield from ((index, table[index]) for index in indexes)
            continue
        with closing(blocks.of_blocks(indexes)) as found:
            yield from found


def _verify_holes(path: Path, table: DigestTable, first: int, end: int) -> None:
    """The blocks from `first` up to `end` are holes here: the source must have had zeros there."""
    index = table.first_not_zero(first, end)
    if index is not None:
        raise _differs(path, table, index)


def _differs(path: Path, table: DigestTable, index: int) -> VerifyError:
    start = index * BLOCK_SIZE
    end = start + digests.block_length(index, table.size)
    return VerifyError(f"Block {index} of {path} (bytes {start} to {end}) differs from what the source sent")
