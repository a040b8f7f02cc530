"""Who may use what p2v puts on an NTFS volume: ntfs-3g itself would let everybody change it.

A driver or a program that runs as the system must not be anybody's to replace. Formats: [MS-DTYP] 2.4.
"""

from __future__ import annotations

import struct

ATTRIBUTE = "system.ntfs_acl"
"""The extended attribute by which ntfs-3g reads and sets the descriptor of a file."""

FULL, READ_AND_RUN = 0x001F01FF, 0x001200A9
INHERITED_BY_ALL = 0x03
"""OBJECT_INHERIT_ACE and CONTAINER_INHERIT_ACE: what is made in a folder later is used by the same."""


def _sid(*parts: int) -> bytes:
    """S-1-5-…: NT AUTHORITY."""
    return struct.pack(f"<BB6B{len(parts)}I", 1, len(parts), 0, 0, 0, 0, 0, 5, *parts)


SYSTEM, ADMINISTRATORS, USERS = _sid(18), _sid(32, 544), _sid(32, 545)


def _allowed(who: bytes, mask: int, flags: int) -> bytes:
    return struct.pack("<BBHI", 0, flags, 8 + len(who), mask) + who


def _descriptor(flags: int) -> bytes:
    """Self-relative: the owner and its group are Administrators, the list has three entries."""
    entries = b"".join(
        (
            _allowed(SYSTEM, FULL, flags),
            _allowed(ADMINISTRATORS, FULL, flags),
            _allowed(USERS, READ_AND_RUN, flags),
        )
    )
    size = len(ADMINISTRATORS)
    head = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, 20 + size, 0, 20 + 2 * size)
    entry_list = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 3, 0) + entries
    return head + ADMINISTRATORS + ADMINISTRATORS + entry_list


FILE, FOLDER = _descriptor(0), _descriptor(INHERITED_BY_ALL)
"""The system and administrators may do everything, users read and run."""
