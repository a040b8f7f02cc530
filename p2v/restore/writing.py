"""One image onto one disk of the metal: what is used, what differs, and read back over there.

    image ──► used blocks ──► [those that differ, by digest] ──► written ──► digests of the disk, compared

Used is what the maps of the data path say of the image as it is written. A disk that can forget (an SSD)
is told to before a fresh restore; on others, what is free stays as it is: the boot needs none of it. Old
labels in the way are covered: the gap in front of the first partition, the tail of every partition and the
end of the disk count as used, and what the image has not of a larger disk gets zeros at its end.

A block counts as written once the machine said so, and is written down then (`*.written`). A later try asks
the disk for the digests of these, sends what differs, and never believes the note alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from p2v.disk import digests, extents
from p2v.disk.copy import Progress
from p2v.disk.device import BlockDevice, BlockRequest
from p2v.disk.digests import BlockSet, DigestTable
from p2v.errors import PlanRefused, VerifyError
from p2v.model import BLOCK_SIZE, Disk, Extent, GiB, KiB, MiB
from p2v.restore.packing import Packer, digests_of
from p2v.transports.writer_client import WriterClient
from p2v.transports.writer_frames import Clear, PackedBlock

TAIL = 1 * MiB
"""The end of a disk, where labels of old contents stand: a backup GPT, metadata of arrays."""

NARROWED, NARROWED_AT_ONCE = 4096, 64
"""Blocks that are compared in pieces, at the most and at a time; of more, the others are sent whole."""

FORGET_STEP = 16 * GiB
"""How much a disk is told to forget at a time: it may take seconds, and the line must not fall silent."""

PIECE = 64 * KiB
"""A block that differs is compared again in pieces of this size, and only those that differ are sent."""


@dataclass(frozen=True, slots=True)
class DiskWritten:
    """Bytes of one disk: its size, what is used of it, what was sent (`wire_size` of it on the line) and what
    was there already; how long it took in seconds, and how much was read back and found right.
    """

    disk: str
    size: int
    data_size: int
    sent_size: int
    wire_size: int
    kept_size: int
    verified_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DiskJob:
    """One image, open as `device`, for `target`; `used` are its extents, `journal` a file for this disk.

    With `compare`, the whole disk is looked at first and only what differs is sent. `index` are digests of
    the whole image that are known already.
    """

    device: BlockDevice
    used: tuple[Extent, ...]
    target: Disk
    journal: Path
    compare: bool = False
    index: DigestTable | None = None

    @property
    def size(self) -> int:
        return self.device.size

    def requests(self) -> Iterator[BlockRequest]:
        return extents.block_requests(self.used, size=self.size)

    @property
    def data_size(self) -> int:
        return extents.total(self.used)


def nobody(size: int) -> None:
    """Progress that is not shown."""


class DiskWriter:
    """Writes one disk over one line. A later try with the same journal goes on where this one stood.

    `progress` is told of what is written, `reading` of what was read back.
    """

    def __init__(self, job: DiskJob, client: WriterClient, number: int) -> None:
        self._job = job
        self._client = client
        self._disk = number
        self.progress: Progress = nobody
        self._table = DigestTable(job.size)
        self._same = BlockSet(job.size)
        self._narrowed: dict[int, BlockRequest] = {}
        self._packer = Packer(job.device, client.packs)
        self._wire = self._sent = self._kept = 0
        self._started = time.monotonic()
        self.reading: Progress = nobody
        if job.size > job.target.size:
            raise PlanRefused(f"{job.target.path} is smaller than its image")

    def run(self) -> DiskWritten:
        """Write and read back. Raises TransportError, ConnectionLost, VerifyError."""
        self.write()
        return self.verify()

    def write(self) -> None:
        """All that is used and not there yet is on the disk when this returns."""
        job = self._job
        if not job.journal.exists() and not job.compare:
            self._make_way()
        self._send(self.compare())
        self._client.flush(self._disk)

    def verify(self) -> DiskWritten:
        """Read back what was written. Raises VerifyError."""
        job = self._job
        verified = self._read_back()
        self._client.reread(self._disk)
        seconds = time.monotonic() - self._started
        return DiskWritten(
            job.target.identity, job.target.size, job.data_size, self._sent, self._wire, self._kept,
            verified, seconds,
        )  # fmt: skip

    @property
    def unverified_size(self) -> int:
        """Bytes to read back."""
        return sum(one.data_size for one in self._job.requests() if one.index not in self._same)

    def compare(self) -> Iterator[BlockRequest]:
        """The blocks to send: all, or those of which the disk has not the same digest already."""
        recorded = digests.read_journal(self._job.journal, self._job.size)
        looked_at = (one for one in self._job.requests() if self._job.compare or one.index in recorded)
        differ: dict[int, tuple[BlockRequest, bytes]] = {}
        for request, digest in self._client.hash_blocks(self._disk, self._expected(looked_at)):
            if digest == self._table[request.index]:
                self._keep(request)
            elif self._job.compare:
                differ[request.index] = (request, digest)
        first = dict(itertools.islice(differ.items(), NARROWED))
        self._narrowed = self._narrow(self._really(first)) if first else {}
        for request in self._job.requests():
            if request.index not in self._same:
                yield self._narrowed.get(request.index, request)

    def _keep(self, request: BlockRequest) -> None:
        self._same.add(request.index)
        self._kept += request.data_size
        self.progress(request.data_size)

    def _expected(self, requests: Iterable[BlockRequest]) -> Iterator[BlockRequest]:
        """The requests, once the digest of each is known here."""
        if self._job.index is not None:
            for request in requests:
                self._table[request.index] = self._job.index[request.index]
                yield request
            return
        with closing(digests_of(self._job.device, requests)) as found:
            for request, digest in found:
                self._table[request.index] = digest
                yield request

    def _really(self, differ: Mapping[int, tuple[BlockRequest, bytes]]) -> list[BlockRequest]:
        """Those that still differ by the image itself: a digest known before may be of more than is used."""
        left = []
        with closing(digests_of(self._job.device, (request for request, _ in differ.values()))) as found:
            for request, digest in found:
                self._table[request.index] = digest
                if digest == differ[request.index][1]:
                    self._keep(request)
                else:
                    left.append(request)
        return left

    def _narrow(self, requests: Sequence[BlockRequest]) -> dict[int, BlockRequest]:
        """Of blocks that differ, the pieces that do."""
        found: dict[int, BlockRequest] = {}
        for first in range(0, len(requests), NARROWED_AT_ONCE):
            found |= self._narrow_some(requests[first : first + NARROWED_AT_ONCE])
        return found

    def _narrow_some(self, requests: Sequence[BlockRequest]) -> dict[int, BlockRequest]:
        pieces = [piece for request in requests for piece in _pieces(request)]
        with closing(digests_of(self._job.device, pieces)) as found:
            here = [digest for _, digest in found]
        left: dict[int, list[BlockRequest]] = {}
        there = self._client.hash_blocks(self._disk, pieces)
        for expected, (piece, digest) in zip(here, there, strict=True):
            if digest == expected:
                self._kept += piece.data_size
                self.progress(piece.data_size)
            else:
                left.setdefault(piece.index, []).append(piece)
        return {index: _joined(some, self._job.size) for index, some in left.items()}

    def _make_way(self) -> None:
        """On a fresh disk: it forgets everything, where it can; no old label at the end of a larger one."""
        job = self._job
        for start in range(0, job.target.size, FORGET_STEP):
            length = min(FORGET_STEP, job.target.size - start)
            if not self._client.clear(self._disk, start, length, Clear.FORGET):
                break
        if job.target.size > job.size:
            start = max(job.size, job.target.size - TAIL)
            self._client.clear(self._disk, start, job.target.size - start, Clear.ZERO)

    def _send(self, requests: Iterable[BlockRequest]) -> None:
        with (
            digests.open_journal(self._job.journal) as journal,
            closing(self._packer.blocks(requests)) as blocks,
        ):
            for request in self._client.write(self._disk, self._noted(blocks), wrote=self._count):
                journal.append(request.index, self._table[request.index])
                self._sent += request.data_size
                self.progress(request.data_size)

    def _noted(self, blocks: Iterable[PackedBlock]) -> Iterator[PackedBlock]:
        """Digests of whole blocks are kept for reading back; those of pieces are known from comparing."""
        for block in blocks:
            if block.request.index not in self._narrowed:
                self._table[block.request.index] = block.digest
            yield block

    def _count(self, size: int, seconds: float) -> None:
        self._wire += size
        self._packer.wrote(size, seconds)

    def _read_back(self) -> int:
        """Every used block as it is on the disk now, but for what was compared a moment ago; bytes."""
        verified = 0
        wanted = (one for one in self._job.requests() if one.index not in self._same)
        for request, digest in self._client.hash_blocks(self._disk, wanted):
            if digest != self._table[request.index]:
                raise VerifyError(
                    f"Block {request.index} of {self._job.target.path} "
                    f"({self._job.target.identity}) differs from what was written",
                    hint="Is the disk sound? To write what differs again: p2v resume RUN",
                )
            verified += request.data_size
            self.reading(request.data_size)
        return verified

    def rehearse(self, requests: Iterable[BlockRequest]) -> float:
        """Bytes a second of these blocks over the line, with nothing written."""
        started, size = time.monotonic(), 0
        with closing(self._packer.blocks(requests)) as blocks:
            for request in self._client.rehearse(self._disk, blocks, wrote=self._count):
                size += request.data_size
        return size / max(time.monotonic() - started, 0.001)


def _pieces(request: BlockRequest) -> Iterator[BlockRequest]:
    """A block cut into pieces, each with its own used parts; `index` stays that of the block."""
    for at in range(0, request.length, PIECE):
        length = min(PIECE, request.length - at)
        inside = [
            (max(start, at) - at, min(start + size, at + length) - max(start, at))
            for start, size in request.pairs
            if start < at + length and start + size > at
        ]
        if inside:
            yield BlockRequest(request.index, request.offset + at, length, tuple(inside))


def _joined(pieces: Iterable[BlockRequest], size: int) -> BlockRequest:
    """The block of these pieces, with nothing but their used parts."""
    pieces = list(pieces)
    index = pieces[0].index
    offset = index * BLOCK_SIZE
    pairs: list[tuple[int, int]] = []
    for piece in pieces:
        for start, length in piece.pairs:
            at = piece.offset - offset + start
            if pairs and sum(pairs[-1]) == at:
                pairs[-1] = (pairs[-1][0], pairs[-1][1] + length)
            else:
                pairs.append((at, length))
    return BlockRequest(index, offset, digests.block_length(index, size), tuple(pairs))
