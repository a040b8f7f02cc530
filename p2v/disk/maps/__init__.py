"""Used-block maps: one file per filesystem, `used_extents(device, start, length)`, and which is whose.

A map raises `MapUnknown` for anything that it does not fully understand; the caller then copies all of it
and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from p2v.disk import superblock
from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.errors import ReadError
from p2v.model import Extent, Filesystem


@dataclass(frozen=True, slots=True)
class UsedMap:
    """Extents to copy, in bytes from the start of the disk, and what the user should know about them."""

    extents: tuple[Extent, ...]
    warnings: tuple[str, ...] = ()


MapReader = Callable[[BlockDevice, int, int], list[Extent]]

MAPS = {
    "ext2": "ext",
    "ext3": "ext",
    "ext4": "ext",
    "ntfs": "ntfs",
    "vfat": "fat",
    "exfat": "exfat",
    "btrfs": "btrfs",
    "xfs": "xfs",
    "swap": "swap",
}
"""By the name that libblkid gives a filesystem, the module that has its map."""

CONTAINER = "LVM2_member"
"""Holds devices, and is given the way to ask for the maps of what stands on them."""


def _map_of(kind: str) -> MapReader | None:
    """The map of a kind of filesystem, loaded when it is needed: a disk holds one or two of them."""
    if kind not in MAPS:
        return None
    read: MapReader = import_module(f"p2v.disk.maps.{MAPS[kind]}").used_extents
    return read


def used_map(
    device: BlockDevice, start: int, length: int, filesystem: Filesystem | None, *, name: str
) -> UsedMap:
    """What must be copied of the `length` bytes from `start`: by the filesystem's own map, or all of it."""
    everything = (Extent(start, length),)
    if filesystem is None:
        return UsedMap(everything)
    warnings: list[str] = []
    read = _container(name, warnings) if filesystem.kind == CONTAINER else _map_of(filesystem.kind)
    if read is None:
        return UsedMap(everything)
    try:
        extents = read(device, start, length)
    except MapUnknown as error:
        return UsedMap(everything, (f"{name}: {error}; all of it is copied",))
    except ReadError as error:
        return UsedMap(everything, (f"{name}: its map cannot be read: {error.message}; all of it is copied",))
    tail = start + min(filesystem.size, length)
    if filesystem.kind != "swap" and tail < start + length:
        extents.append(Extent(tail, start + length - tail))
    return UsedMap(tuple(extents), tuple(warnings))


def _container(name: str, warnings: list[str]) -> MapReader:
    """The map of what holds volumes; the warnings of their maps join those of the whole."""
    from p2v.disk.maps import lvm

    def inner(volume: BlockDevice, volume_name: str) -> list[Extent]:
        filesystem = superblock.identify(volume, 0, volume.size)
        found = used_map(volume, 0, volume.size, filesystem, name=f"{name}, volume {volume_name}")
        warnings.extend(found.warnings)
        return list(found.extents)

    return partial(lvm.used_extents, inner=inner)
