"""Content that moves along with its partition, inside an image.

Of a swap space the header alone travels: it is one with the same UUID and label, and what was swapped out
means nothing to another boot. Filesystems that know where on the disk they begin are told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from p2v.disk.maps.swap import HEADER_SIZE
from p2v.disk.nbd import NbdWriter
from p2v.model import MiB
from p2v.restore.relayout import Place, Relayout

CHUNK = 16 * MiB
HIDDEN = 28
"""Boot sectors of NTFS and FAT: sectors before the partition, four bytes; a BIOS boot reads from there."""
SECTORS, BACKUP = 40, 50
"""NTFS: all its sectors, eight bytes. FAT32: the sector with the copy of the boot sector, two bytes."""


def move_contents(device: NbdWriter, layout: Relayout) -> None:
    """Move what is in every partition that has another place. Raises TransportError."""
    up = layout.difference > 0
    for place in sorted(layout.places, key=lambda place: place.start, reverse=up):
        if place.moved:
            _move(device, place)
            _tell(device, place)


def _move(device: NbdWriter, place: Place) -> None:
    """In an order in which nothing is overwritten that has not been read."""
    size = HEADER_SIZE if _kind(place) == "swap" else place.length
    chunks: Sequence[int] = range(0, size, CHUNK)
    for at in reversed(chunks) if place.moved > 0 else chunks:
        step = min(CHUNK, size - at)
        _copy(device, place.partition.start + at, place.start + at, step)


def _copy(device: NbdWriter, source: int, destination: int, length: int) -> None:
    if not any(device.data(source, length)):
        device.zero(destination, length)
        return
    device.write(destination, device.read(source, length))


def _kind(place: Place) -> str:
    return place.partition.filesystem.kind if place.partition.filesystem else ""


def _tell(device: NbdWriter, place: Place) -> None:
    old, new = (at // device.sector_size for at in (place.partition.start, place.start))
    for at in _boot_sectors(device, place):
        field = device.read(at + HIDDEN, 4)
        if field == struct.pack("<I", old & 0xFFFF_FFFF):
            device.write(at + HIDDEN, struct.pack("<I", new & 0xFFFF_FFFF))


def _boot_sectors(device: NbdWriter, place: Place) -> Iterator[int]:
    """The boot sector of NTFS or FAT, and its copy."""
    boot = device.read(place.start, 512)
    sector = struct.unpack_from("<H", boot, 11)[0]
    match _kind(place):
        case "ntfs":
            yield place.start
            copy = struct.unpack_from("<Q", boot, SECTORS)[0] * sector
        case "vfat":
            yield place.start
            copy = struct.unpack_from("<H", boot, BACKUP)[0] * sector if boot[82:90] == b"FAT32   " else 0
        case _:
            return
    if (
        sector <= copy <= place.length - sector
        and device.read(place.start + copy, 512)[:HIDDEN] == boot[:HIDDEN]
    ):
        yield place.start + copy
