"""LVM2 physical volumes: what is allocated, and of plain logical volumes only what their filesystem uses.

A logical volume is plain when it lies wholly and linearly on this physical volume and no other volume
refers to it; whatever else is allocated is copied whole: stripes, mirrors and RAID, pools of thin volumes
and caches, snapshots and their origins (a snapshot still needs what its origin has freed). Label, metadata
and everything outside the extents are always copied. Where the group's metadata does
not add up, all is copied.

Source of the segment types: `lib/*/` of LVM2 and its `vgcfgbackup` files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.lvm_metadata import read_group, read_label
from p2v.disk.maps.lvm_text import Section
from p2v.disk.maps.runs import Union
from p2v.disk.view import LinearView
from p2v.model import Extent

SECTOR = 512
"""All sizes in the metadata are in these, whatever the sector size of the disk."""
LINEAR = ("striped", "linear")
AREA_LISTS = ("stripes", "mirrors")

InnerMap = Callable[[BlockDevice, str], list[Extent]]
"""The map of what a logical volume holds: the volume as a device and its name; extents in bytes of that
device.
"""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where the extents of this physical volume stand; bytes of the device."""

    names: frozenset[str]
    own: str
    first: int
    extent_size: int
    extents: int

    @property
    def end(self) -> int:
        return self.first + self.extents * self.extent_size


@dataclass(frozen=True, slots=True)
class _Logical:
    """A logical volume's extents on this physical volume, as (first, count).

    `plain`: they are all of it, one after the other.
    """

    name: str
    areas: tuple[tuple[int, int], ...]
    plain: bool


def used_extents(device: BlockDevice, start: int, length: int, inner: InnerMap) -> list[Extent]:
    """What must be copied of the physical volume at `start`, bytes of the device. Raises MapUnknown,
    TransportError.
    """
    if isinstance(device, LinearView):
        raise MapUnknown("a volume group within a logical volume")
    label = read_label(device, start, length)
    group = read_group(device, start, label)
    geometry = _geometry(group, label.uuid, start, length)
    volumes = list(_logical_volumes(group, geometry))
    _check_overlap(volumes)
    used = Union()
    used.add(start, geometry.first - start)
    used.add(geometry.end, start + length - geometry.end)
    for offset, size in label.areas:
        used.add(start + offset, size)
    for volume in volumes:
        for extent in _content(device, volume, geometry, inner):
            used.add(extent.start, extent.length)
    return used.extents()


def _geometry(group: Section, uuid: str, start: int, length: int) -> _Geometry:
    volumes = group.section("physical_volumes").sections
    match [name for name, volume in volumes.items() if volume.text("id").replace("-", "") == uuid]:
        case [name]:
            own = volumes[name]
        case _:
            raise MapUnknown("its volume group does not know this physical volume, or knows it twice")
    size = group.number("extent_size") * SECTOR
    first = start + own.number("pe_start") * SECTOR
    geometry = _Geometry(frozenset(volumes), name, first, size, own.number("pe_count"))
    if not size or first <= start or geometry.end > start + length:
        raise MapUnknown("the volume group's extents are outside the partition")
    return geometry


def _logical_volumes(group: Section, geometry: _Geometry) -> Iterator[_Logical]:
    volumes = group.section("logical_volumes").sections
    own = group.section("physical_volumes").sections[geometry.own]
    usable = not {"EXPORTED", "MISSING"} & {*group.items("status"), *own.items("flags"), *own.items("status")}
    referred = {
        text
        for volume in volumes.values()
        for segment in volume.sections.values()
        for text in segment.strings()
        if text in volumes
    }
    for name, volume in volumes.items():
        yield _logical(name, volume, geometry, usable=usable and name not in referred)


def _logical(name: str, volume: Section, geometry: _Geometry, *, usable: bool) -> _Logical:
    segments = _segments(name, volume)
    areas = tuple(area for segment in segments for area in _areas(segment, geometry))
    total = sum(segment.number("extent_count") for segment in segments)
    linear = all(_is_linear(segment) for segment in segments) and total == sum(count for _, count in areas)
    visible = "VISIBLE" in volume.items("status")
    return _Logical(name, areas, usable and visible and linear and total > 0)


def _segments(name: str, volume: Section) -> list[Section]:
    """In the order of the logical volume, without a gap."""
    segments = sorted(volume.sections.values(), key=lambda segment: segment.number("start_extent"))
    expected = 0
    for segment in segments:
        if segment.number("start_extent") != expected:
            raise MapUnknown(f"the segments of the logical volume {name!r} have gaps")
        expected += segment.number("extent_count")
    if len(segments) != volume.number("segment_count"):
        raise MapUnknown(f"the logical volume {name!r} has segments that are not described")
    return segments


def _is_linear(segment: Section) -> bool:
    return segment.text("type") in LINEAR and segment.number("stripe_count") == 1


def _areas(segment: Section, geometry: _Geometry) -> Iterator[tuple[int, int]]:
    """The extents (first, count) that a segment occupies here. Layers that stand on other logical volumes
    have none.
    """
    kind = segment.text("type")
    count = segment.number("extent_count")
    if kind in LINEAR:
        stripes = segment.number("stripe_count")
        if not stripes or count % stripes or len(segment.items("stripes")) != 2 * stripes:
            raise MapUnknown("damaged stripes in the metadata of LVM")
        count //= stripes
    elif kind != "mirror" and geometry.names & set(segment.strings()):
        raise MapUnknown(f"segments of the unknown type {kind!r}")
    for name in AREA_LISTS:
        yield from _listed(segment.items(name), count, geometry)


def _listed(items: list[str | int], count: int, geometry: _Geometry) -> Iterator[tuple[int, int]]:
    """Pairs of a volume and its first extent; only this physical volume's count."""
    for at in range(0, len(items) - 1, 2):
        name, first = items[at], items[at + 1]
        if not isinstance(name, str) or not isinstance(first, int) or first < 0:
            raise MapUnknown("damaged segments in the metadata of LVM")
        if name == geometry.own:
            if first + count > geometry.extents:
                raise MapUnknown("a segment outside the physical volume")
            yield first, count


def _check_overlap(volumes: list[_Logical]) -> None:
    areas = sorted(area for volume in volumes for area in volume.areas if area[1])
    if any(first + count > following for (first, count), (following, _) in pairwise(areas)):
        raise MapUnknown("logical volumes overlap")


def _content(device: BlockDevice, volume: _Logical, geometry: _Geometry, inner: InnerMap) -> Iterator[Extent]:
    size = geometry.extent_size
    pieces = [(geometry.first + first * size, count * size) for first, count in volume.areas]
    if not volume.plain:
        yield from (Extent(*piece) for piece in pieces)
        return
    view = LinearView(device, pieces, name=volume.name)
    yield from view.on_device(inner(view, volume.name))
