"""Swap: the header page alone. What was swapped out means nothing to another boot.

Source: `union swap_header` in `include/linux/swap.h`.
"""

from __future__ import annotations

from p2v.disk.device import BlockDevice
from p2v.model import Extent, KiB

HEADER_SIZE = 64 * KiB
"""The largest page of any architecture: the header is the first page."""


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    return [Extent(start, min(HEADER_SIZE, length))]
