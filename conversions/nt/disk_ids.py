"""How Windows names a partition: by what stands in the partition table, which a copy of the disk keeps.

Two places hold such names: the boot configuration (BCD) and `MountedDevices`. They are only wrong once a disk
has another signature or GUID, or a partition another start; a table of moves says what became of what.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from p2v.model import Disk, Partition, TableKind

GPT_MARK = b"DMIO:ID:"
"""In front of a partition's GUID in MountedDevices."""
LOCATOR = struct.pack("<IIII", 6, 0, 0x48, 0)
"""How a partition begins in an element of a BCD: type 6, and its length of 0x48 bytes, this included.

It stands at byte 16 of a plain element, behind the GUID of further options, and within longer ones that name
a file on a partition. The layout is as Windows 8.1 (MBR) and Windows 11 (GPT) wrote it: 16 bytes partition
(GUID, or its start in bytes), 4 kind of device (0: hard disk), 4 kind of table (0: GPT, 1: MBR), 16 bytes
disk (GUID or signature), 16 zeros.
"""
LOCATOR_SIZE = 0x48
HARD_DISK = 0
GPT, MBR = 0, 1


@dataclass(frozen=True, slots=True)
class MbrPlace:
    """A partition of a disk with an MBR: the signature of the disk, and its start in bytes."""

    signature: int
    offset: int

    def mounted(self) -> bytes:
        """As a value of MountedDevices."""
        return struct.pack("<IQ", self.signature, self.offset)

    def located(self) -> bytes:
        """As the part of a BCD element behind LOCATOR."""
        return struct.pack("<Q8xIII12x16x", self.offset, HARD_DISK, MBR, self.signature)


@dataclass(frozen=True, slots=True)
class GptPlace:
    """A partition of a disk with a GPT."""

    disk: UUID
    partition: UUID

    def mounted(self) -> bytes:
        return GPT_MARK + self.partition.bytes_le

    def located(self) -> bytes:
        return struct.pack("<16sII16s16x", self.partition.bytes_le, HARD_DISK, GPT, self.disk.bytes_le)


Place = MbrPlace | GptPlace


@dataclass(frozen=True, slots=True)
class Move:
    """What a partition was called, and what it is called now."""

    old: Place
    new: Place


def place_of(disk: Disk, partition: Partition) -> Place | None:
    """None where its table has no names that Windows could use."""
    try:
        match disk.table:
            case TableKind.MBR:
                return MbrPlace(int(disk.table_id, 16), partition.start)
            case TableKind.GPT:
                return GptPlace(UUID(disk.table_id), UUID(partition.uuid))
            case TableKind.NONE:
                return None
    except ValueError:
        return None


def places(disks: Sequence[Disk]) -> frozenset[Place]:
    """Every partition of these disks that has a name."""
    found = (place_of(disk, partition) for disk in disks for partition in disk.partitions)
    return frozenset(place for place in found if place)


def moves(before: Sequence[Disk], after: Sequence[Disk]) -> tuple[Move, ...]:
    """What was renamed between two looks at the same disks, in the same order; partitions keep their
    numbers.
    """
    return tuple(
        Move(old, new)
        for one, other in zip(before, after, strict=True)
        for partition in one.partitions
        for same in other.partitions
        if same.number == partition.number
        if (old := place_of(one, partition)) and (new := place_of(other, same)) and old != new
    )


def located(element: bytes) -> tuple[Place, ...]:
    """The partitions that a device element of a BCD names."""
    return tuple(place for _, place in _locators(element))


def relocated(element: bytes, table: Mapping[Place, Place]) -> bytes:
    """The element with its partitions renamed; what is in no move, or is no partition, stays as it is."""
    changed = bytearray(element)
    for offset, place in _locators(element):
        if place in table:
            changed[offset : offset + LOCATOR_SIZE] = LOCATOR + table[place].located()
    return bytes(changed)


def remounted(data: bytes, table: Mapping[Place, Place]) -> bytes:
    """A value of MountedDevices with its partition renamed.

    A GPT partition is named without its disk there, so the first move that has its GUID counts.
    """
    return next((new.mounted() for old, new in table.items() if old.mounted() == data), data)


def _locators(element: bytes) -> Iterator[tuple[int, Place]]:
    offset = element.find(LOCATOR, 0x10)
    while 0 <= offset <= len(element) - LOCATOR_SIZE:
        place = _place(element[offset + len(LOCATOR) : offset + LOCATOR_SIZE])
        if place:
            yield offset, place
        offset = element.find(LOCATOR, offset + (LOCATOR_SIZE if place else 1))


def _place(body: bytes) -> Place | None:
    """What stands behind LOCATOR, if a writer of the same kind wrote it; another form is left alone."""
    partition, device, table, disk = struct.unpack_from("<16sII16s", body)
    place: Place | None = None
    if table == GPT:
        place = GptPlace(UUID(bytes_le=disk), UUID(bytes_le=partition))
    elif table == MBR:
        place = MbrPlace(*struct.unpack("<I12x", disk), *struct.unpack("<Q8x", partition))
    return place if place and device == HARD_DISK and place.located() == body else None
