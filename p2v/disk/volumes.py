"""Where the logical volumes of a disk lie on it, by the metadata of LVM on the disk itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk import layout, superblock
from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.lvm import LINEAR, SECTOR
from p2v.disk.maps.lvm_metadata import read_group, read_label
from p2v.disk.maps.lvm_text import Section
from p2v.model import Extent


@dataclass(frozen=True, slots=True)
class VolumePart:
    """`length` bytes of the disk from `start` that are those of a logical volume from `offset`."""

    volume: str
    start: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """One physical volume; `own` is what LVM itself keeps on it, labels and metadata."""

    group: str
    revision: int
    own: tuple[Extent, ...]
    parts: tuple[VolumePart, ...]


def physical_volumes(device: BlockDevice) -> tuple[PhysicalVolume, ...]:
    """Every physical volume on a disk; `group` is the UUID of its volume group.

    Raises MapUnknown where the metadata cannot be relied on, TransportError.
    """
    try:
        table = layout.read_table(device)
    except layout.TableDamaged as error:
        raise MapUnknown(str(error)) from error
    places = [(part.start, part.length) for part in table.partitions] or [(0, device.size)]
    return tuple(_read(device, *place) for place in places if _is_physical_volume(device, *place))


def _is_physical_volume(device: BlockDevice, start: int, length: int) -> bool:
    found = superblock.identify(device, start, length)
    return found is not None and found.kind == "LVM2_member"


def _read(device: BlockDevice, start: int, length: int) -> PhysicalVolume:
    label = read_label(device, start, length)
    group = read_group(device, start, label)
    volumes = group.section("physical_volumes").sections
    own = [name for name, one in volumes.items() if one.text("id").replace("-", "") == label.uuid]
    if len(own) != 1:
        raise MapUnknown("its volume group does not know this physical volume")
    here = volumes[own[0]]
    extent = group.number("extent_size") * SECTOR
    first = start + here.number("pe_start") * SECTOR
    end = first + here.number("pe_count") * extent
    if not start < first <= end <= start + length:
        raise MapUnknown("the volume group's extents are outside the partition")
    return PhysicalVolume(
        group=group.text("id"),
        revision=group.number("seqno"),
        own=(Extent(start, first - start), Extent(end, start + length - end)),
        parts=tuple(_parts(group, own[0], first, extent, end)),
    )


def _parts(group: Section, own: str, first: int, extent: int, end: int) -> Iterator[VolumePart]:
    for name, volume in group.section("logical_volumes").sections.items():
        for segment in volume.sections.values():
            if segment.text("type") not in LINEAR or segment.number("stripe_count") != 1:
                continue
            match segment.items("stripes"):
                case [str(place), int(at)] if place == own:
                    start, length = first + at * extent, segment.number("extent_count") * extent
                    if at < 0 or start + length > end:
                        raise MapUnknown("a segment outside the physical volume")
                    yield VolumePart(name, start, length, segment.number("start_extent") * extent)
