"""Extents as plain arithmetic: normalise, invert, and cut into the blocks that are requested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2v.disk.device import ALIGNMENT, BlockRequest
from p2v.model import BLOCK_SIZE, Extent, KiB

MERGE_GAP = 16 * KiB
"""A free gap smaller than this is copied too: one longer read costs less than two."""


def normalise(extents: Iterable[Extent], *, size: int) -> list[Extent]:
    """Sorted, aligned outwards, without overlap, small gaps filled, nothing beyond `size` bytes."""
    result: list[Extent] = []
    for extent in sorted(extents, key=lambda extent: extent.start):
        start = extent.start - extent.start % ALIGNMENT
        end = min(extent.end + -extent.end % ALIGNMENT, size)
        if end <= start:
            continue
        if result and start - result[-1].end < MERGE_GAP:
            start, end = result[-1].start, max(end, result[-1].end)
            result.pop()
        result.append(Extent(start, end - start))
    return result


def total(extents: Iterable[Extent]) -> int:
    return sum(extent.length for extent in extents)


def block_requests(extents: Iterable[Extent], *, size: int) -> Iterator[BlockRequest]:
    """Requests for normalised extents of a disk of `size` bytes, block by block; free blocks have none.

    extents   ███████████·······██··················█████
    blocks    |0      |1      |2      |3      |4      |
    requests   0       1       2                4      5
    """
    pairs: list[tuple[int, int]] = []
    index = -1
    for extent in extents:
        start = extent.start
        while start < extent.end:
            if start // BLOCK_SIZE != index:
                if pairs:
                    yield _request(index, pairs, size)
                index, pairs = start // BLOCK_SIZE, []
            end = min(extent.end, (index + 1) * BLOCK_SIZE)
            pairs.append((start - index * BLOCK_SIZE, end - start))
            start = end
    if pairs:
        yield _request(index, pairs, size)


def _request(index: int, pairs: list[tuple[int, int]], size: int) -> BlockRequest:
    offset = index * BLOCK_SIZE
    return BlockRequest(index, offset, min(BLOCK_SIZE, size - offset), tuple(pairs))
