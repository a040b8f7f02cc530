"""A GPT made to fit another disk size: its backup belongs at the true end, and both headers say where.

Source: UEFI specification 2.10, 5.3.2 (header), 5.2.3 (protective MBR). Numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib

from p2v.errors import GuestError

HEADER_SIZE = 92
SIGNATURE = b"EFI PART"
PROTECTIVE = 0xEE
LAST_LBA = 0xFFFF_FFFF
MAX_ENTRIES_SIZE = 1024 * 1024

Patch = tuple[int, bytes]
"""Where on the disk, and what stands there."""


def rehome(head: bytes, sector: int, size: int) -> list[Patch]:
    """What must stand on a disk of `size` bytes so that the GPT in `head`, its first bytes, belongs to it.

    Raises GuestError where the primary header or its entries are damaged.
    """
    header = bytearray(head[sector : 2 * sector])
    if header[:8] != SIGNATURE or _checksum(header) != struct.unpack_from("<I", header, 16)[0]:
        raise GuestError(
            "The first header of the partition table (GPT) is damaged",
            hint="Repair it on the source: sgdisk --verify, gdisk (recovery menu)",
        )
    entries = _entries(header, head, sector)
    last = size // sector - 1
    backup_at = last - -(-len(entries) // sector)
    # 24 own LBA, 32 the other header's, 48 last usable, 72 start of the entries, 88 their CRC
    struct.pack_into("<Q", header, 32, last)
    struct.pack_into("<Q", header, 48, backup_at - 1)
    backup = bytearray(header)
    struct.pack_into("<QQ", backup, 24, last, 1)
    struct.pack_into("<Q", backup, 72, backup_at)
    return [
        *_protective(head[:512], last),
        (sector, _sealed(header)),
        (backup_at * sector, entries + bytes(-len(entries) % sector)),
        (last * sector, _sealed(backup)),
    ]


def _entries(header: bytearray, head: bytes, sector: int) -> bytes:
    at, count, each, checksum = struct.unpack_from("<QIII", header, 72)
    size = count * each
    entries = head[at * sector : at * sector + size]
    if not 0 < size <= MAX_ENTRIES_SIZE or len(entries) < size or zlib.crc32(entries) != checksum:
        raise GuestError("The entries of the partition table (GPT) are damaged")
    return entries


def _checksum(header: bytes | bytearray) -> int:
    size = min(max(struct.unpack_from("<I", header, 12)[0], HEADER_SIZE), len(header))
    return zlib.crc32(bytes(header[:16]) + bytes(4) + bytes(header[20:size]))


def _sealed(header: bytearray) -> bytes:
    struct.pack_into("<I", header, 16, _checksum(header))
    return bytes(header)


def _protective(boot: bytes, last: int) -> list[Patch]:
    """The size in the protective MBR; one with further entries (hybrid) is somebody's own work and stays."""
    places = [446 + 16 * number for number in range(4) if boot[446 + 16 * number + 4]]
    if len(places) != 1 or boot[places[0] + 4] != PROTECTIVE:
        return []
    return [(places[0] + 12, struct.pack("<I", min(last, LAST_LBA)))]
