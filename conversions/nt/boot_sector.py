"""The boot sector of an NTFS volume: what a BIOS start reads from it, and nobody else.

Offsets (NTFS as in ntfs-3g's layout.h, BIOS_PARAMETER_BLOCK): 0x03 name, 0x0B bytes a sector, 0x18 sectors a
track, 0x1A heads, 0x1C hidden sectors, which is the start of the partition, 0x28 sectors of the volume,
behind which stands the backup. The boot code of XP and 2003 counts in cylinders and heads; from Vista on it
does not, and BitLocker watches the sector: there only a wrong start is mended, which no boot survives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from conversions.nt.disk_ids import MbrPlace, place_of
from conversions.nt.places import BOOT, ROOT, VolumeBytes
from conversions.nt.work import WindowsWork
from conversions.protocol import GuestFiles
from p2v.errors import GuestError
from p2v.model import Disk, Firmware, Partition

SIZE = 512
NAME = b"NTFS    "
MARK = b"\x55\xaa"
HEADS = ((2_114_445_312, 0x40), (4_228_374_780, 0x80))
"""Bytes that a disk is smaller than, and the heads that a BIOS gives it (virt-v2v, fix_ntfs_heads)."""
MOST_HEADS = 0xFF


@dataclass(frozen=True, slots=True)
class BootSector:
    """What is read of one: `serial` names the volume, `sectors` counts all but the backup."""

    sector_size: int
    heads: int
    hidden: int
    sectors: int
    serial: int

    @property
    def backup(self) -> int:
        """Where the backup stands, in bytes of the partition."""
        return self.sectors * self.sector_size


def parse(sector: bytes) -> BootSector:
    """Raises GuestError where it is no boot sector of NTFS."""
    if len(sector) < SIZE or sector[3:11] != NAME or sector[510:512] != MARK:
        raise GuestError("The volume does not begin with a boot sector of NTFS")
    size, heads, hidden = struct.unpack_from("<H13xHI", sector, 0x0B)
    sectors, serial = struct.unpack_from("<Q24xQ", sector, 0x28)
    if size not in (512, 1024, 2048, 4096) or not 0 < sectors < 1 << 55:
        raise GuestError("The boot sector of the volume gives sizes that cannot be")
    return BootSector(size, heads, hidden, sectors, serial)


def heads_of(disk_size: int) -> int:
    """The heads that a BIOS says of a disk of so many bytes."""
    return next((heads for limit, heads in HEADS if disk_size < limit), MOST_HEADS)


def corrected(sector: bytes, *, hidden: int, heads: int | None = None) -> bytes:
    """The sector with the right start and, where given, heads. Raises GuestError where it is not NTFS'."""
    parse(sector)
    fixed = bytearray(sector)
    struct.pack_into("<I", fixed, 0x1C, hidden)
    if heads is not None:
        struct.pack_into("<H", fixed, 0x1A, heads)
    return bytes(fixed)


def volume_bytes(guest: GuestFiles) -> VolumeBytes | None:
    """The guest's volumes below their files; None where the guest is a tree of files."""
    return cast(VolumeBytes, guest) if hasattr(guest, "write_volume") else None


def step(work: WindowsWork) -> None:
    """Mend what a BIOS start needs of the volumes with Windows and with its loader."""
    volumes = volume_bytes(work.guest)
    if volumes is None or work.request.firmware is not Firmware.BIOS:
        return
    for place in (BOOT, ROOT):
        if place == ROOT or work.guest.exists(place):
            try:
                _mend(work, volumes, place)
            except GuestError as error:
                work.warn(f"The boot sector of the volume {place} was left as it is: {error.message}")


def _mend(work: WindowsWork, volumes: VolumeBytes, place: str) -> None:
    first = volumes.read_volume(place, 0, SIZE)
    found = parse(first)
    hits = _whereabouts(work, found)
    if len(hits) != 1:
        if work.windows.major < 6:  # newer ones need nothing where the partition stayed where it was
            work.warn(
                f"The geometry of the volume {place} was not set: {len(hits)} partitions have its serial"
            )
        return
    disk, partition = hits[0]
    heads = heads_of(disk.size) if work.windows.major < 6 else None
    hidden = _start(work, disk, partition) // found.sector_size
    for offset in _copies(volumes, place, found, partition):
        before = volumes.read_volume(place, offset, SIZE)
        after = corrected(before, hidden=hidden, heads=heads)
        if after != before:
            volumes.write_volume(place, offset, after)
            where = "boot sector" if offset == 0 else "backup of the boot sector"
            reason = "start and geometry of the partition, which a BIOS start reads"
            work.changes.record_bytes(f"{place} ({where})", before, after, reason)


def _whereabouts(work: WindowsWork, found: BootSector) -> list[tuple[Disk, Partition]]:
    """Which partition of the disks this is, by its serial number; a BIOS must be able to reach it."""
    name = f"{found.serial:016X}"
    return [
        (disk, partition)
        for disk in work.request.machine.disks
        for partition in disk.partitions
        if partition.filesystem and partition.filesystem.uuid.upper() == name
        if _start(work, disk, partition) // found.sector_size < 1 << 32
    ]


def _start(work: WindowsWork, disk: Disk, partition: Partition) -> int:
    """Where the partition begins on the disk that is started from."""
    place = place_of(disk, partition)
    new = next((move.new for move in work.request.moves if move.old == place), place)
    return new.offset if isinstance(new, MbrPlace) else partition.start


def _copies(volumes: VolumeBytes, place: str, found: BootSector, partition: Partition) -> Iterator[int]:
    """Where the sector stands: at the start, and behind the volume if that is really a copy of it."""
    yield 0
    if found.backup + SIZE > partition.length:
        return
    try:
        backup = parse(volumes.read_volume(place, found.backup, SIZE))
    except GuestError:
        return
    if backup.serial == found.serial:
        yield found.backup
