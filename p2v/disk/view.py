"""A device that is pieces of another one, end to end: what a linear logical volume is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from p2v.disk.device import BlockDevice, PlainReads
from p2v.model import Extent


class LinearView(PlainReads):
    """The pieces (offset, length) of a device, read-only. Bytes are counted from the start of the view."""

    def __init__(self, device: BlockDevice, pieces: Sequence[tuple[int, int]], *, name: str) -> None:
        self._device = device
        self._pieces = tuple(pieces)
        self._ends = tuple(accumulate(length for _, length in self._pieces))
        self._name = name
        self.live = device.live

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def sector_size(self) -> int:
        return self._device.sector_size

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self.read_many([(offset, length)]))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        cut = [list(self.locate(offset, length)) for offset, length in ranges]
        answers = self._device.read_many([part for parts in cut for part in parts])
        for parts in cut:
            yield b"".join(next(answers) for _ in parts)

    def locate(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Where bytes of the view stand on the device. Raises TransportError outside the view."""
        self.check_range(offset, length, self._name)
        at = bisect_right(self._ends, offset)
        while length:
            place, size = self._pieces[at]
            skip = offset - (self._ends[at] - size)
            part = min(length, size - skip)
            yield place + skip, part
            offset, length, at = offset + part, length - part, at + 1

    def on_device(self, extents: Sequence[Extent]) -> Iterator[Extent]:
        """Extents of the view as extents of the device; what reaches beyond the view is cut off."""
        for extent in extents:
            start, end = max(extent.start, 0), min(extent.end, self.size)
            if start < end:
                for place, size in self.locate(start, end - start):
                    yield Extent(place, size)
