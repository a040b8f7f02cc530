"""Runs of used units, and their union in bounded memory: what maps made of bitmaps and tables share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from p2v.disk.device import BlockDevice
from p2v.model import Extent, KiB, MiB

MERGE_GAP = 16 * KiB
"""A free gap smaller than this is copied too, as the copy itself would do."""
MAX_EXTENTS = 65_536
"""More than these are thinned out by closing larger gaps: about 10 MiB, whatever the size of the disk."""
PIECE_SIZE = 1 * MiB
BATCH_PIECES = 16

_IN_USE = bytes([ord("0")]) + bytes([ord("1")]) * 255
"""Translates an entry into a digit: zero is free."""


class Union:
    """Used byte ranges of a device, in any order; ascending is fastest."""

    def __init__(self, *, gap: int = MERGE_GAP, limit: int = MAX_EXTENTS) -> None:
        self._gap = gap
        self._limit = limit
        self._ranges: list[tuple[int, int]] = []

    def add(self, start: int, length: int) -> None:
        """`length` bytes from `start` are used; nothing happens where the length is not positive."""
        if length <= 0:
            return
        end = start + length
        if self._ranges:
            first, last = self._ranges[-1]
            if first <= start < last + self._gap:
                self._ranges[-1] = (first, max(last, end))
                return
        self._ranges.append((start, end))
        if len(self._ranges) > self._limit:
            self._thin()

    def _thin(self) -> None:
        self._merge()
        while len(self._ranges) > self._limit // 2:
            self._gap *= 2
            self._merge()

    def _merge(self) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted(self._ranges):
            if merged and start < merged[-1][1] + self._gap:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        self._ranges = merged

    def covers(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether every one of the ranges (start, length) lies within what was added."""
        self._merge()
        return all(self._covers(start, start + size) for start, size in ranges)

    def _covers(self, start: int, end: int) -> bool:
        at = bisect_right(self._ranges, start, key=lambda known: known[0])
        return at > 0 and end <= self._ranges[at - 1][1]

    def extents(self) -> list[Extent]:
        """Sorted, without overlap."""
        self._merge()
        return [Extent(start, end - start) for start, end in self._ranges]


def bit_runs(bitmap: bytes, count: int, *, gap: int = 1) -> Iterator[tuple[int, int]]:
    """Runs (first, length) of set bits among the first `count`, lowest bit of the first byte first."""
    bits = int.from_bytes(bitmap, "little") & ((1 << count) - 1)
    if bits:
        yield from digit_runs(f"{bits:0{count}b}"[::-1], gap=gap)


def digit_runs(digits: str, *, gap: int = 1) -> Iterator[tuple[int, int]]:
    """Runs (first, length) of "1"; fewer than `gap` zeros between two do not part them."""
    apart = "0" * gap
    at = digits.find("1")
    while at >= 0:
        end = digits.find(apart, at)
        if end < 0:
            end = digits.rfind("1") + 1
        yield at, end - at
        at = digits.find("1", end)


def entry_digits(raw: bytes, width: int, top_mask: int) -> str:
    """One digit for each little-endian entry of `width` bytes: "0" where it is zero under the mask of its
    highest byte.
    """
    planes = [int.from_bytes(raw[at::width], "little") for at in range(width)]
    count = len(raw) // width
    planes[-1] &= int.from_bytes(bytes([top_mask]) * count, "little")
    joined = 0
    for plane in planes:
        joined |= plane
    return joined.to_bytes(count, "little").translate(_IN_USE).decode("ascii")


def gap_units(unit_size: int) -> int:
    """The smallest number of free units that is worth not copying."""
    return max(1, MERGE_GAP // unit_size)


def read_all(device: BlockDevice, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """A bounded batch, read to its end before anything is judged.

    An exception between two answers would leave the rest of them on the line to the source, where the next
    question would find them.
    """
    return list(device.read_many(ranges))


def in_pieces(offset: int, length: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of reads (offset, length) that cover a range: bounded in memory, several in flight."""
    step = PIECE_SIZE * BATCH_PIECES
    for start in range(offset, offset + length, step):
        end = min(start + step, offset + length)
        yield [(at, min(PIECE_SIZE, end - at)) for at in range(start, end, PIECE_SIZE)]
