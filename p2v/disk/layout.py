"""Partition tables as they stand on the disk: MBR with its chain of logical partitions, and GPT.

Sources: UEFI specification 2.10 chapter 5 (GPT and protective MBR); the MBR layout of the IBM PC BIOS with
the extended partition chain as Linux reads it (`block/partitions/msdos.c`). Offsets in comments are bytes in
the sector. Everything read is hostile: entries outside the disk are refused, chains and tables are bounded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from p2v.disk.device import BlockDevice
from p2v.errors import TransportError
from p2v.model import MiB, Partition, TableKind

MAX_LOGICAL = 128
MAX_GPT_ENTRIES = 1024
EXTENDED_TYPES = (0x05, 0x0F, 0x85)
PROTECTIVE_TYPE = 0xEE
GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table. `id` is the MBR disk signature (8 hex digits) or the GPT disk GUID.

    `metadata` are (start, length) of everything that the table itself occupies outside the partitions.
    """

    kind: TableKind
    id: str
    partitions: tuple[Partition, ...]
    metadata: tuple[tuple[int, int], ...]


class TableDamaged(Exception):
    """The table contradicts itself: the disk is copied whole rather than guessed at."""


def read_table(device: BlockDevice) -> Table:
    """The partition table of a disk; kind NONE where there is none. Raises TableDamaged, TransportError."""
    if device.size < 2 * device.sector_size:
        return Table(TableKind.NONE, "", (), ())
    boot = device.read(0, 512)
    if boot[510:512] != b"\x55\xaa":
        return Table(TableKind.NONE, "", (), ())
    entries = _mbr_entries(boot)
    if any(entry.type == PROTECTIVE_TYPE for entry in entries):
        return _read_gpt(device)
    if not _plausible(boot, entries, device):
        # A boot sector of a filesystem without a table ends with the same two bytes.
        return Table(TableKind.NONE, "", (), ())
    return _read_mbr(device, boot, entries)


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    status: int
    type: int
    first: int
    count: int


def _mbr_entries(sector: bytes) -> list[_Entry]:
    # 446: four entries of 16 bytes: status, CHS, type at 4, CHS, first LBA at 8, sectors at 12.
    entries = []
    for number in range(4):
        raw = sector[446 + 16 * number : 462 + 16 * number]
        first, count = struct.unpack_from("<II", raw, 8)
        entries.append(_Entry(number + 1, raw[0], raw[4], first, count))
    return entries


def _plausible(boot: bytes, entries: list[_Entry], device: BlockDevice) -> bool:
    used = [entry for entry in entries if entry.type]
    if any(entry.status not in (0x00, 0x80) for entry in entries):
        return False
    if boot[3:11] in (b"NTFS    ", b"EXFAT   ") or boot[82:90] == b"FAT32   " or boot[54:57] == b"FAT":
        return False
    return bool(used) and all(
        entry.first and entry.count and entry.first * device.sector_size < device.size for entry in used
    )


def _read_mbr(device: BlockDevice, boot: bytes, entries: list[_Entry]) -> Table:
    signature = f"{struct.unpack_from('<I', boot, 440)[0]:08x}"
    partitions: list[Partition] = []
    metadata = [(0, device.sector_size)]
    for entry in entries:
        if entry.type in EXTENDED_TYPES:
            logical, links = _read_logical(device, entry, signature)
            partitions += logical
            metadata += links
        elif entry.type:
            partitions.append(_mbr_partition(device, entry.number, entry.first, entry, signature))
    return Table(TableKind.MBR, signature, _checked(device, partitions), tuple(metadata))


def _mbr_partition(device: BlockDevice, number: int, first: int, entry: _Entry, signature: str) -> Partition:
    sector = device.sector_size
    return Partition(
        number=number,
        start=first * sector,
        length=entry.count * sector,
        type_id=f"{entry.type:02x}",
        uuid=f"{signature}-{number:02x}",
    )


def _read_logical(
    device: BlockDevice, extended: _Entry, signature: str
) -> tuple[list[Partition], list[tuple[int, int]]]:
    """Follow the chain: each link holds one partition relative to itself and the next link relative to the
    start.
    """
    partitions: list[Partition] = []
    links: list[tuple[int, int]] = []
    here = extended.first
    seen: set[int] = set()
    while here and len(seen) < MAX_LOGICAL:
        if here in seen or (here + 1) * device.sector_size > device.size:
            raise TableDamaged(f"the chain of logical partitions is broken at sector {here}")
        seen.add(here)
        links.append((here * device.sector_size, device.sector_size))
        sector = device.read(here * device.sector_size, 512)
        if sector[510:512] != b"\x55\xaa":
            break
        link = here
        here = 0
        for entry in _mbr_entries(sector)[:2]:
            if entry.type in EXTENDED_TYPES:
                here = extended.first + entry.first
            elif entry.type and entry.count:
                number = 5 + len(partitions)
                partitions.append(_mbr_partition(device, number, link + entry.first, entry, signature))
    return partitions, links


def _read_gpt(device: BlockDevice) -> Table:
    sector = device.sector_size
    last = device.size // sector - 1
    for lba in (1, last):
        table = _gpt_at(device, lba)
        if table is not None:
            return table
    raise TableDamaged("neither GPT header is intact")


def _gpt_at(device: BlockDevice, lba: int) -> Table | None:
    sector = device.sector_size
    raw = device.read(lba * sector, sector)
    header = GPT_HEADER.unpack_from(raw)
    signature, _, header_size, crc, _, _, alternate, first, last, disk_id, at, count, size, entries_crc = (
        header
    )
    if signature != b"EFI PART" or not 92 <= header_size <= sector:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_size]) != crc:
        return None
    if not 1 <= count <= MAX_GPT_ENTRIES or size not in (128, 256, 512, 1024):
        raise TableDamaged(f"GPT with {count} entries of {size} bytes")
    if at * sector + count * size > device.size:
        return None
    entries = device.read(at * sector, count * size)
    if zlib.crc32(entries) != entries_crc:
        return None
    partitions = [
        partition
        for number in range(count)
        if (partition := _gpt_partition(entries[number * size : (number + 1) * size], number + 1, sector))
    ]
    return Table(
        TableKind.GPT,
        _guid(disk_id),
        _checked(device, partitions),
        _gpt_metadata(device, first, last, alternate),
    )


def _gpt_metadata(device: BlockDevice, first: int, last: int, alternate: int) -> tuple[tuple[int, int], ...]:
    """Everything before the first and behind the last usable sector, and the backup wherever it is said to
    be.
    """
    sector = device.sector_size
    head, tail = first * sector, (last + 1) * sector
    if not 0 < head <= tail <= device.size:
        raise TableDamaged("the usable range of the GPT lies outside the disk")
    metadata = [(0, head), (tail, device.size - tail)]
    if (alternate + 1) * sector <= tail:
        metadata.append((alternate * sector, sector))
    return tuple(metadata)


def _gpt_partition(raw: bytes, number: int, sector: int) -> Partition | None:
    # 0 type GUID, 16 partition GUID, 32 first LBA, 40 last LBA (inclusive).
    if raw[:16] == bytes(16):
        return None
    first, last = struct.unpack_from("<QQ", raw, 32)
    return Partition(
        number=number,
        start=first * sector,
        length=(last - first + 1) * sector,
        type_id=_guid(raw[:16]),
        uuid=_guid(raw[16:32]),
    )


def _guid(raw: bytes) -> str:
    import uuid  # 2 ms of each start of p2v, and only a GPT has any

    return str(uuid.UUID(bytes_le=raw))


def _checked(device: BlockDevice, partitions: list[Partition]) -> tuple[Partition, ...]:
    ordered = sorted(partitions, key=lambda partition: partition.start)
    for partition in ordered:
        if partition.start <= 0 or partition.length <= 0 or partition.end > device.size:
            raise TableDamaged(f"partition {partition.number} lies outside the disk")
    for one, other in pairwise(ordered):
        if one.end > other.start:
            raise TableDamaged(f"partitions {one.number} and {other.number} overlap")
    return tuple(ordered)


def guess_sector_size(device: BlockDevice) -> int:
    """512, or 4096 where a GPT header stands at byte 4096: an image does not say which disk it was made
    from.
    """
    try:
        return 4096 if device.size > MiB and device.read(4096, 8) == b"EFI PART" else 512
    except TransportError:
        return 512
