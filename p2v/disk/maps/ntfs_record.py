"""Records of the NTFS master file table: fixups, attributes, and runs of clusters.

Source: `include/ntfs-3g/layout.h` and `libntfs-3g/runlist.c` of ntfs-3g; offsets are bytes. Nothing here
reads: all functions take bytes and raise MapUnknown for what contradicts itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk.maps.errors import MapUnknown

SECTOR = 512
"""The stride of the fixups, whatever the sector size of the disk."""
ATTRIBUTE_LIST = 0x20
VOLUME_INFORMATION = 0x70
DATA = 0x80
INDEX_ROOT = 0x90
INDEX_ALLOCATION = 0xA0
END = 0xFFFFFFFF
IN_USE = 0x1
REFERENCE_MASK = (1 << 48) - 1
MAX_RUNS = 262_144
"""Runs of one file; Windows itself ends far below that."""


@dataclass(frozen=True, slots=True)
class Run:
    """`count` clusters of a file from its cluster `vcn`, standing at `lcn` of the volume."""

    vcn: int
    lcn: int
    count: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, or one piece of it. `content` is what a resident one holds; sizes are bytes."""

    type: int
    name_length: int
    resident: bool
    content: bytes
    first_vcn: int
    runs: tuple[Run, ...]
    size: int
    initialised: int


def with_fixups(raw: bytes, magic: bytes) -> bytes:
    """A record as it was before the last two bytes of each sector were replaced."""
    at, count = struct.unpack_from("<HH", raw, 4)
    sectors = len(raw) // SECTOR
    if raw[:4] != magic or count != sectors + 1 or at < 8 or at + 2 * count > len(raw):
        raise MapUnknown(f"a damaged record ({magic.decode('ascii')})")
    fixed = bytearray(raw)
    mark = raw[at : at + 2]
    for number in range(sectors):
        tail = (number + 1) * SECTOR - 2
        if raw[tail : tail + 2] != mark:
            raise MapUnknown("a record that was written in part")
        fixed[tail : tail + 2] = raw[at + 2 + 2 * number : at + 4 + 2 * number]
    return bytes(fixed)


def attributes(record: bytes) -> Iterator[Attribute]:
    """The attributes of a record (with fixups undone) that is in use."""
    # 20 first attribute, 22 flags, 24 bytes in use.
    at, flags, used = struct.unpack_from("<HHI", record, 20)
    if not flags & IN_USE or not 42 <= at < used <= len(record):
        raise MapUnknown("a damaged record of the master file table")
    while at + 4 <= used:
        kind = struct.unpack_from("<I", record, at)[0]
        if kind == END:
            return
        size = struct.unpack_from("<I", record, at + 4)[0] if at + 8 <= used else 0
        if not 24 <= size <= used - at:
            break
        yield _attribute(record[at : at + size])
        at += size
    raise MapUnknown("damaged attributes in the master file table")


def _attribute(raw: bytes) -> Attribute:
    # 8 non-resident, 9 length of the name, 12 flags.
    kind, _, non_resident, name_length, _, flags = struct.unpack_from("<IIBBHH", raw)
    if non_resident:
        return _non_resident(raw, kind, name_length, flags)
    # 16 size of the content, 20 its offset.
    size, offset = struct.unpack_from("<IH", raw, 16)
    if offset + size > len(raw):
        raise MapUnknown("a damaged attribute")
    return Attribute(kind, name_length, True, raw[offset : offset + size], 0, (), size, size)


def _non_resident(raw: bytes, kind: int, name_length: int, flags: int) -> Attribute:
    # 16 first and 24 last cluster of this piece, 32 offset of the runs; 48 size and 56 initialised size
    # stand in the first
    # piece only.
    if len(raw) < 48:
        raise MapUnknown("a damaged attribute")
    first, last, offset = struct.unpack_from("<QQH", raw, 16)
    size, initialised = struct.unpack_from("<QQ", raw, 48) if len(raw) >= 64 else (0, 0)
    wanted = kind == INDEX_ALLOCATION or (kind in (ATTRIBUTE_LIST, DATA) and not name_length)
    if wanted and flags:
        raise MapUnknown("a compressed, sparse or encrypted system file")
    runs = tuple(_runs(raw[offset:], first)) if wanted else ()
    if wanted and sum(run.count for run in runs) != last + 1 - first & (1 << 64) - 1:
        raise MapUnknown("runs of clusters that do not fit their attribute")
    return Attribute(kind, name_length, False, b"", first, runs, size, initialised)


def _runs(pairs: bytes, vcn: int) -> Iterator[Run]:
    """Mapping pairs: a byte with two lengths, a count, and a distance from the run before; zero ends them."""
    at = 0
    lcn = 0
    while at < len(pairs) and pairs[at]:
        count_size, step_size = pairs[at] & 0xF, pairs[at] >> 4
        body = pairs[at + 1 : at + 1 + count_size + step_size]
        if not 0 < count_size <= 8 or not 0 < step_size <= 8 or len(body) < count_size + step_size:
            raise MapUnknown("damaged runs of clusters, or a hole in a system file")
        count = int.from_bytes(body[:count_size], "little", signed=True)
        lcn += int.from_bytes(body[count_size:], "little", signed=True)
        if count <= 0 or lcn < 0:
            raise MapUnknown("damaged runs of clusters")
        yield Run(vcn, lcn, count)
        vcn += count
        at += 1 + count_size + step_size


def listed_records(content: bytes, kind: int, name_length: int = 0) -> list[int]:
    """The records that an attribute list names for an attribute of a type and a name so long, in order."""
    records: list[int] = []
    at = 0
    while at + 26 <= len(content):
        # 4 length, 6 length of the name, 16 reference of the record.
        found, size, length = struct.unpack_from("<IHB", content, at)
        if size < 26:
            raise MapUnknown("a damaged attribute list")
        record = struct.unpack_from("<Q", content, at + 16)[0] & REFERENCE_MASK
        if (found, length) == (kind, name_length) and record not in records[-1:]:
            records.append(record)
        at += size
    return records
