"""Disks that cannot be read everywhere: tried again, then refused, or salvaged sector by sector.

    fetch    b0 b1 b2 ✗  b4 b5 …      the others go on; the bad one is tried again when they are done
             ✗ → pause, once more; 3 times → halves, quarters … one sector: zeros, and remembered

Only blocks that are copied are ever filled with zeros. What a map reads is never: a bitmap of zeros would say
that nothing is used. There the error goes to the caller, who copies everything instead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from p2v.disk.device import BlockData, BlockDevice, BlockRequest, digest_of_parts
from p2v.errors import ReadError
from p2v.model import Extent

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further try: a drive that has just been busy with a sector wants some."""

LATER = 64
"""Unreadable blocks that wait until the others are done; when there are more, they are tried at once."""

Sleep = Callable[[float], None]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The pairs of one block as far as they can be read, and where they cannot (bytes of the disk)."""

    parts: list[bytes]
    bad: tuple[Extent, ...]
    wire_size: int


class SalvageDevice:
    """A `BlockDevice` over another one, which deals with its read errors.

    `name` is what errors call it. With `fill` unreadable sectors become zeros and are found in `bad`; without
    it they raise ReadError. Blocks come in the order of the requests, but for those that failed at first.
    """

    def __init__(
        self, device: BlockDevice, *, name: str, fill: bool = False, sleep: Sleep = time.sleep
    ) -> None:
        self._device = device
        self._name = name
        self._fill = fill
        self._sleep = sleep
        self._bad: dict[int, tuple[Extent, ...]] = {}

    @property
    def size(self) -> int:
        return self._device.size

    @property
    def sector_size(self) -> int:
        return self._device.sector_size

    @property
    def live(self) -> bool:
        return self._device.live

    @property
    def bad(self) -> tuple[Extent, ...]:
        """What is zeros in place of the disk's content, as the blocks were last read; sorted, merged."""
        merged: list[Extent] = []
        for extent in sorted((one for some in self._bad.values() for one in some), key=lambda one: one.start):
            if merged and merged[-1].end == extent.start:
                merged[-1] = Extent(merged[-1].start, merged[-1].length + extent.length)
            else:
                merged.append(extent)
        return tuple(merged)

    def read(self, offset: int, length: int) -> bytes:
        """Raises ReadError after some tries; never zeros in place of what cannot be read."""
        return self._again(lambda: self._device.read(offset, length))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        done = 0
        try:
            for data in self._device.read_many(ranges):
                yield data
                done += 1
        except ReadError:
            yield self.read(*ranges[done])
            yield from self.read_many(ranges[done + 1 :])

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        later: deque[BlockRequest] = deque()
        todo = _Requests(requests)
        while todo.more():
            try:
                for block in self._device.fetch(todo):
                    todo.answered(block.request)
                    self._bad.pop(block.request.offset, None)
                    yield block
            except ReadError as error:
                later.append(todo.failed(error))
            while later and (len(later) > LATER or not todo.more()):
                yield self._rescue(later.popleft())

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        todo = _Requests(requests)
        while todo.more():
            try:
                for request, digest in self._device.hash_blocks(todo):
                    todo.answered(request)
                    self._bad.pop(request.offset, None)
                    yield request, digest
            except ReadError as error:
                request = todo.failed(error)
                yield request, self._rescue(request).digest

    def _rescue(self, request: BlockRequest) -> BlockData:
        """One block that could not be read at first. Raises ReadError unless zeros are allowed."""
        try:
            block = self._again(lambda: self._one(request))
        except ReadError as error:
            pieces = self._read_pieces(request, error)
            self._bad[request.offset] = pieces.bad
            digest = digest_of_parts(request, pieces.parts)
            return BlockData(request, b"".join(pieces.parts), digest, pieces.wire_size)
        self._bad.pop(request.offset, None)
        return block

    def _again(self, attempt: Callable[[], T]) -> T:
        for pause in PAUSES:
            try:
                return attempt()
            except ReadError:
                self._sleep(pause)
        return attempt()

    def _one(self, request: BlockRequest) -> BlockData:
        (block,) = self._device.fetch([request])
        return block

    def _read_pieces(self, request: BlockRequest, error: ReadError) -> _Pieces:
        bad: list[Extent] = []
        parts, wire = [], 0
        for start, size in request.pairs:
            content = bytearray(size)
            for piece in self._halves(request.offset + start, size):
                wire += piece.wire_size
                at = piece.request.offset - request.offset - start
                content[at : at + len(piece.data)] = piece.data
                if not piece.data:
                    bad.append(Extent(piece.request.offset, piece.request.length))
                    self._refuse(bad[0].start, error)
            parts.append(bytes(content))
        return _Pieces(parts, tuple(bad), wire)

    def _halves(self, offset: int, length: int) -> Iterator[BlockData]:
        """A range in as few pieces as can be read; an unreadable sector is a piece without data."""
        request = BlockRequest(-1, offset, length, ((0, length),))
        try:
            yield self._one(request)
        except ReadError:
            if length <= self.sector_size:
                yield BlockData(request, b"", b"", 0)
                return
            half = -(-length // 2 // self.sector_size) * self.sector_size
            yield from self._halves(offset, half)
            yield from self._halves(offset + half, length - half)

    def _refuse(self, offset: int, error: ReadError) -> None:
        if not self._fill:
            raise ReadError(
                f"{self._name} cannot be read at byte {offset}, tried {len(PAUSES) + 1} times: "
                f"{error.message}",
                offset=offset,
                hint="To have zeros in its place: p2v resume RUN --allow-bad-sectors",
            ) from error


class _Requests(Iterator[BlockRequest]):
    """Requests that know which of them were not answered, so that the rest can be asked for again."""

    def __init__(self, requests: Iterable[BlockRequest]) -> None:
        self._fresh = iter(requests)
        self._asked: deque[BlockRequest] = deque()
        self._again: deque[BlockRequest] = deque()

    def __next__(self) -> BlockRequest:
        request = self._again.popleft() if self._again else next(self._fresh)
        self._asked.append(request)
        return request

    def answered(self, request: BlockRequest) -> None:
        self._asked.remove(request)

    def failed(self, error: ReadError) -> BlockRequest:
        """The request that the error is about; the others without an answer will be asked for again."""
        inside = (one for one in self._asked if one.offset <= error.offset < one.offset + one.length)
        request = next(inside, None)
        if request is None:
            raise error
        self._asked.remove(request)
        self._again.extendleft(reversed(self._asked))
        self._asked.clear()
        return request

    def more(self) -> bool:
        """Whether there is one to ask for."""
        if not self._again:
            self._again.extend(one for one in [next(self._fresh, None)] if one is not None)
        return bool(self._again)
