"""BitLocker volumes: that they are encrypted, and whether the key lies open beside the data.

Sources: libbde's "BitLocker Drive Encryption (BDE) format specification"; offsets are bytes. Three copies of
the metadata are on a volume, each a header, and entries of which some are protected copies of the key.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.model import KiB

SIGNATURE = b"-FVE-FS-"
TO_GO_SIGNATURE = b"MSWIN4.1"
TO_GO_IDS = (
    uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001"),
    uuid.UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8"),
)
"""Stand in the boot sector since Windows 7: of the metadata, and where only used space is encrypted."""
TO_GO_ID_AT = 424
METADATA_AT = {TO_GO_SIGNATURE: 440, SIGNATURE: 176}
"""Where the boot sector has the places of the metadata. Vista has only one, as a cluster."""
HEADER_SIZE = 64 + 48
METADATA_LIMIT = 64 * KiB
VOLUME_MASTER_KEY = (0x0002, 0x0008)
"""The types of an entry and of its value."""
CLEAR_KEY = 0x0000


@dataclass(frozen=True, slots=True)
class BitLocker:
    """`is_to_go`: of a removable disk. `has_clear_key`: it is suspended, anyone can read it."""

    is_to_go: bool
    has_clear_key: bool


def is_bitlocker(head: bytes) -> bool:
    """By the boot sector; a volume of BitLocker To Go looks like FAT32 at first sight."""
    if head[3:11] == SIGNATURE:
        return True
    mark = head[TO_GO_ID_AT : TO_GO_ID_AT + 16]
    return head[3:11] == TO_GO_SIGNATURE and mark in {one.bytes_le for one in TO_GO_IDS}


def read_bitlocker(device: BlockDevice, start: int, length: int) -> BitLocker | None:
    """Of the volume in `length` bytes from `start`; None for what is not encrypted. Raises TransportError.

    What is damaged counts as a volume without a clear key.
    """
    if length < 512:
        return None
    head = device.read(start, 512)
    if not is_bitlocker(head):
        return None
    places = struct.unpack_from("<3Q", head, METADATA_AT[head[3:11]])
    usable = [place for place in places if 0 < place <= length - HEADER_SIZE]
    clear = any(_has_clear_key(device, start + place, start + length) for place in usable)
    return BitLocker(head[3:11] == TO_GO_SIGNATURE, clear)


def _has_clear_key(device: BlockDevice, place: int, end: int) -> bool:
    raw = device.read(place, min(METADATA_LIMIT, end - place))
    if raw[:8] != SIGNATURE:
        return False
    # 64 the header of the entries: 0 bytes in all, 4 version, 8 bytes of that header.
    size, version, header = struct.unpack_from("<III", raw, 64)
    if version != 1 or header != 48 or not header < size <= len(raw) - 64:
        return False
    return any(kind == CLEAR_KEY for kind in _protections(raw[64 + header : 64 + size]))


def _protections(entries: bytes) -> Iterator[int]:
    """How each copy of the key is protected."""
    at = 0
    while at + 8 <= len(entries):
        # 0 bytes of the entry, 2 its type, 4 that of its value; of a key 34 its protection.
        size, kind, value = struct.unpack_from("<HHH", entries, at)
        if not 8 <= size <= len(entries) - at:
            return
        if (kind, value) == VOLUME_MASTER_KEY and size >= 36:
            yield struct.unpack_from("<H", entries, at + 34)[0]
        at += size
