"""Blocks of one size from many places of a device, neighbours in one read."""

from __future__ import annotations

from collections.abc import Sequence

from p2v.disk.device import BlockDevice
from p2v.model import MiB

LARGEST_READ = 1 * MiB


def read_blocks(device: BlockDevice, offsets: Sequence[int], size: int) -> list[bytes]:
    """The `size` bytes at each offset, in the order of the offsets. The caller bounds how many they are.

    Raises TransportError.
    """
    joined: list[tuple[int, int]] = []
    for offset in offsets:
        if joined and sum(joined[-1]) == offset and joined[-1][1] + size <= LARGEST_READ:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((offset, size))
    pieces = device.read_many(joined)
    return [raw[at : at + size] for raw in pieces for at in range(0, len(raw), size)]
