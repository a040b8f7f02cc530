"""What of a disk is copied: its layout first, then the map of every partition.

Partition tables, boot gaps, the backup GPT and the tail of every partition are always copied; space that
belongs to no partition is not, but for the first 16 MiB and the last MiB of the disk, where boot loaders and
the metadata of controllers live.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2v.disk import extents, layout, superblock
from p2v.disk.device import BlockDevice
from p2v.disk.maps import UsedMap, used_map
from p2v.errors import ReadError
from p2v.model import Disk, Extent, Filesystem, MiB, Partition, TableKind

BOOT_GAP = 16 * MiB
DISK_TAIL = 1 * MiB


@dataclass(frozen=True, slots=True)
class DiskMap:
    """Normalised extents to copy (bytes), and what the user should know about how they were found."""

    extents: tuple[Extent, ...]
    warnings: tuple[str, ...]

    @property
    def data_size(self) -> int:
        return extents.total(self.extents)


def inspect_disk(device: BlockDevice, disk: Disk) -> Disk:
    """The disk with its table, partitions and filesystems as they stand on it. Raises TransportError."""
    try:
        table = layout.read_table(device)
        whole = superblock.identify(device, 0, device.size)
    except (layout.TableDamaged, ReadError):
        return replace(disk, table=TableKind.NONE)
    partitions = tuple(_inspect_partition(device, partition) for partition in table.partitions)
    if table.kind is not TableKind.NONE and not _is_member(whole):
        whole = None
    return replace(disk, table=table.kind, table_id=table.id, partitions=partitions, filesystem=whole)


def _is_member(filesystem: Filesystem | None) -> bool:
    """Whether a whole disk belongs to an MD array, which may show its own partition table through it."""
    return filesystem is not None and filesystem.kind == "linux_raid_member"


def _inspect_partition(device: BlockDevice, partition: Partition) -> Partition:
    try:
        filesystem = superblock.identify(device, partition.start, partition.length)
    except ReadError:
        filesystem = None
    return replace(partition, filesystem=filesystem)


def disk_map(device: BlockDevice, disk: Disk) -> DiskMap:
    """Everything of the disk that must be copied. Raises TransportError."""
    try:
        table = layout.read_table(device)
        whole = superblock.identify(device, 0, device.size)
    except (layout.TableDamaged, ReadError) as error:
        everything = (Extent(0, device.size),)
        return DiskMap(everything, (f"{disk.path}: {error}; the whole disk is copied",))
    if table.kind is TableKind.NONE or _is_member(whole):
        found = used_map(device, 0, device.size, whole, name=disk.path)
        return DiskMap(tuple(extents.normalise(found.extents, size=device.size)), found.warnings)
    return _partitioned(device, disk, table)


def _partition_map(device: BlockDevice, partition: Partition, name: str) -> UsedMap:
    try:
        filesystem = superblock.identify(device, partition.start, partition.length)
    except ReadError as error:
        everything = (Extent(partition.start, partition.length),)
        return UsedMap(everything, (f"{name}: {error.message}; all of it is copied",))
    return used_map(device, partition.start, partition.length, filesystem, name=name)


def _partitioned(device: BlockDevice, disk: Disk, table: layout.Table) -> DiskMap:
    first = min((partition.start for partition in table.partitions), default=BOOT_GAP)
    parts = [Extent(0, min(first, BOOT_GAP)), Extent(device.size - DISK_TAIL, DISK_TAIL)]
    parts += [Extent(start, length) for start, length in table.metadata]
    warnings: list[str] = []
    for partition in table.partitions:
        found = _partition_map(device, partition, f"{disk.path} partition {partition.number}")
        parts += found.extents
        warnings += found.warnings
    inside = [Extent(max(part.start, 0), part.end - max(part.start, 0)) for part in parts]
    return DiskMap(tuple(extents.normalise(inside, size=device.size)), tuple(warnings))
