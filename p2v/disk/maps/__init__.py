"""Used-block maps: one file per filesystem, `used_extents(device, start, length)`, and the registry.

A map raises `MapUnknown` for anything that it does not fully understand; the caller then copies all of it
and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2v.disk import superblock
from p2v.disk.device import BlockDevice
from p2v.disk.maps import btrfs, exfat, ext, fat, lvm, ntfs, swap, xfs
from p2v.disk.maps.errors import MapUnknown
from p2v.errors import ReadError
from p2v.model import Extent, Filesystem


@dataclass(frozen=True, slots=True)
class UsedMap:
    """Extents to copy, in bytes from the start of the disk, and what the user should know about them."""

    extents: tuple[Extent, ...]
    warnings: tuple[str, ...] = ()


MapReader = Callable[[BlockDevice, int, int], list[Extent]]
ContainerReader = Callable[[BlockDevice, int, int, lvm.InnerMap], list[Extent]]

MAPS: dict[str, MapReader] = {
    "ext2": ext.used_extents,
    "ext3": ext.used_extents,
    "ext4": ext.used_extents,
    "ntfs": ntfs.used_extents,
    "vfat": fat.used_extents,
    "exfat": exfat.used_extents,
    "btrfs": btrfs.used_extents,
    "xfs": xfs.used_extents,
    "swap": swap.used_extents,
}

CONTAINERS: dict[str, ContainerReader] = {
    "LVM2_member": lvm.used_extents,
}
"""These hold devices, and are given the way to ask for the maps of what stands on them."""


def used_map(
    device: BlockDevice, start: int, length: int, filesystem: Filesystem | None, *, name: str
) -> UsedMap:
    """What must be copied of the `length` bytes from `start`: by the filesystem's own map, or all of it."""
    everything = (Extent(start, length),)
    if filesystem is None or filesystem.kind not in {*MAPS, *CONTAINERS}:
        return UsedMap(everything)
    warnings: list[str] = []
    try:
        if filesystem.kind in CONTAINERS:
            inner = _inner_map(name, warnings)
            extents = CONTAINERS[filesystem.kind](device, start, length, inner)
        else:
            extents = MAPS[filesystem.kind](device, start, length)
    except MapUnknown as error:
        return UsedMap(everything, (f"{name}: {error}; all of it is copied",))
    except ReadError as error:
        return UsedMap(everything, (f"{name}: its map cannot be read: {error.message}; all of it is copied",))
    tail = start + min(filesystem.size, length)
    if filesystem.kind != "swap" and tail < start + length:
        extents.append(Extent(tail, start + length - tail))
    return UsedMap(tuple(extents), tuple(warnings))


def _inner_map(name: str, warnings: list[str]) -> lvm.InnerMap:
    """The map of a device inside this one; its warnings join those of the whole."""

    def read(volume: BlockDevice, volume_name: str) -> list[Extent]:
        filesystem = superblock.identify(volume, 0, volume.size)
        found = used_map(volume, 0, volume.size, filesystem, name=f"{name}, volume {volume_name}")
        warnings.extend(found.warnings)
        return list(found.extents)

    return read
