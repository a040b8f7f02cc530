"""How much is used of what says so in no superblock: NTFS by its bitmap, LVM by the volumes on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from p2v.disk import extents, superblock
from p2v.disk.device import BlockDevice
from p2v.disk.maps import used_map
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.view import LinearView
from p2v.disk.volumes import PhysicalVolume, VolumePart, physical_volumes
from p2v.errors import TransportError
from p2v.model import Disk, Filesystem, Partition
from p2v.restore.relayout import LVM, least_of

MEASURED = frozenset({"ntfs", LVM})


def measured(device: BlockDevice, disk: Disk) -> Disk:
    """The disk with `used` of every filesystem that a smaller disk may ask about. Raises TransportError.

    Of a physical volume it is what cannot go: all that its volumes occupy but the one with most space.
    """
    partitions = tuple(_measured(device, partition) for partition in disk.partitions)
    whole = disk.filesystem
    if whole and not partitions:
        whole = replace(whole, used=_used(device, 0, disk.size, whole))
    return replace(disk, partitions=partitions, filesystem=whole)


def _measured(device: BlockDevice, partition: Partition) -> Partition:
    filesystem = partition.filesystem
    if filesystem is None:
        return partition
    used = _used(device, partition.start, partition.length, filesystem)
    return replace(partition, filesystem=replace(filesystem, used=used))


def _used(device: BlockDevice, start: int, length: int, filesystem: Filesystem) -> int | None:
    """What the superblock says, else what its map says; None where that cannot be read."""
    if filesystem.used is not None or filesystem.kind not in MEASURED:
        return filesystem.used
    try:
        found = used_map(device, start, length, filesystem, name="the partition")
        used = extents.total(extents.normalise(found.extents, size=device.size))
        least = _least_of_volumes(device, start) if filesystem.kind == LVM else 0
    except (TransportError, MapUnknown):
        return None
    return None if found.warnings else max(used, least)


def _least_of_volumes(device: BlockDevice, start: int) -> int:
    volume = next(one for one in physical_volumes(device) if one.own[0].start == start)
    allocated = sum(part.length for part in volume.parts)
    spare = max((size - least for size, least in _sizes(device, volume)), default=0)
    return volume.own[0].length + allocated - max(0, spare)


def _sizes(device: BlockDevice, volume: PhysicalVolume) -> Iterator[tuple[int, int]]:
    """Size and least size of every volume that can be made smaller."""
    for _, parts in groupby(sorted(volume.parts, key=_place), key=lambda part: part.volume):
        view = LinearView(device, [(part.start, part.length) for part in parts], name="a volume")
        inside = superblock.identify(view, 0, view.size)
        least = least_of(inside) if inside and inside.kind != "ntfs" else 0
        if least:
            yield view.size, least


def _place(part: VolumePart) -> tuple[str, int]:
    return part.volume, part.offset
