"""LVM2 physical volumes: label, metadata areas, and the newest intact metadata text.

Source: `lib/format_text/{layout.h,format-text.c}` and `lib/label/label.h` of LVM2; offsets are bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps import lvm_text
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.lvm_text import Section
from p2v.disk.maps.runs import read_all
from p2v.model import MiB

SECTOR = 512
LABEL_SECTORS = 4
MDA_MAGIC = b" LVM2 x[5A%r0N*>"
MDA_HEADER = 512
"""In front of the ring of texts, whatever the sector size."""
IGNORED = 0x1
MAX_AREAS = 8
MAX_TEXT = 8 * MiB
CRC_START = 0xF597A6CF


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """What the label says. `areas` hold metadata: (offset, length) in bytes of the partition."""

    uuid: str
    areas: tuple[tuple[int, int], ...]


def checksum(content: bytes) -> int:
    """The CRC-32 of LVM: its own start value, and not inverted at the end."""
    return zlib.crc32(content, CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def read_label(device: BlockDevice, start: int, length: int) -> PhysicalVolume:
    """The label in the first four sectors of a partition. Raises MapUnknown, TransportError."""
    if length < LABEL_SECTORS * SECTOR:
        raise MapUnknown("the partition is smaller than a label")
    head = device.read(start, LABEL_SECTORS * SECTOR)
    labels = [head[at : at + SECTOR] for at in range(0, len(head), SECTOR)]
    found = [label for label in labels if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001"]
    if len(found) != 1:
        raise MapUnknown("not one label of LVM but several")
    return _parse_label(found[0], length)


def _parse_label(label: bytes, length: int) -> PhysicalVolume:
    # 16 checksum of what follows it, 20 offset of the header: UUID, size of the device, two lists of areas.
    crc, at = struct.unpack_from("<II", label, 16)
    if crc != checksum(label[20:]) or at != 32:
        raise MapUnknown("a damaged label of LVM")
    lists: list[list[tuple[int, int]]] = []
    position = at + 40
    for _ in range(2):
        areas = []
        while (area := _area(label, position))[0]:
            areas.append(area)
            position += 16
        lists.append(areas)
        position += 16
    inside = tuple((offset, size) for offset, size in lists[1] if offset + size <= length)
    if len(inside) != len(lists[1]) or len(inside) > MAX_AREAS:
        raise MapUnknown("metadata areas of LVM outside the partition")
    return PhysicalVolume(label[at : at + 32].decode("ascii", "replace"), inside)


def _area(label: bytes, at: int) -> tuple[int, int]:
    if at + 16 > len(label):
        raise MapUnknown("a damaged label of LVM")
    offset, size = struct.unpack_from("<QQ", label, at)
    return offset, size


def read_group(device: BlockDevice, start: int, volume: PhysicalVolume) -> Section:
    """The newest metadata of the volume group that the physical volume knows.

    Raises MapUnknown where it has none, or none that can be relied on.
    """
    found = [text for area in volume.areas if (text := _read_area(device, start, *area)) is not None]
    if not found:
        raise MapUnknown("the physical volume holds no metadata of its volume group")
    groups = [_single(lvm_text.parse(text)) for text in found]
    return max(groups, key=lambda group: group.number("seqno"))


def _single(root: Section) -> Section:
    match list(root.sections.values()):
        case [group]:
            return group
        case _:
            raise MapUnknown("damaged metadata of LVM")


def _read_area(device: BlockDevice, start: int, offset: int, size: int) -> str | None:
    """The committed text of one metadata area, None where the area is empty."""
    if size < 2 * MDA_HEADER:
        raise MapUnknown("a metadata area of LVM of impossible size")
    header = device.read(start + offset, MDA_HEADER)
    # 0 checksum of what follows, 4 magic, 20 version, 24 start, 32 size, 40 texts: offset, size, checksum,
    # flags.
    crc, magic, version, own, own_size = struct.unpack_from("<I16sIQQ", header)
    if crc != checksum(header[4:]) or (magic, version, own, own_size) != (MDA_MAGIC, 1, offset, size):
        raise MapUnknown("a damaged metadata area of LVM")
    at, text_size, text_crc, flags = struct.unpack_from("<QQII", header, 40)
    if flags & IGNORED:
        raise MapUnknown("a metadata area of LVM that is not kept up to date")
    if struct.unpack_from("<Q", header, 64)[0] and not device.live:
        raise MapUnknown("a change to the volume group was not completed")
    if not at:
        return None
    if not MDA_HEADER <= at < size or not 0 < text_size <= min(MAX_TEXT, size - MDA_HEADER):
        raise MapUnknown("a damaged metadata area of LVM")
    # The texts stand in a ring behind the header.
    first = min(text_size, size - at)
    ranges = [(start + offset + at, first), (start + offset + MDA_HEADER, text_size - first)]
    raw = b"".join(read_all(device, ranges))
    if checksum(raw) != text_crc:
        raise MapUnknown("the metadata of LVM has a wrong checksum")
    return raw.rstrip(b"\0").decode("utf-8", "replace")
