"""What state Windows left an NTFS volume in: marked dirty, a log that was not played back, a hibernated
system.

Sources: `include/ntfs-3g/layout.h` and `libntfs-3g/volume.c` (ntfs_volume_check_hiberfile) of ntfs-3g;
offsets are bytes. Names in the root folder are read from its index, whatever order they are in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps import ntfs, ntfs_record
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.ntfs_record import DATA, INDEX_ALLOCATION, INDEX_ROOT, REFERENCE_MASK, Run
from p2v.disk.maps.runs import read_all
from p2v.model import KiB, MiB

ROOT_FOLDER = 5
INDEX_NAME_LENGTH = 4
"""Of `$I30`, the index of names."""
INDEX_SIZES = tuple(512 << shift for shift in range(8))
MAX_INDEX = MiB
LAST_ENTRY = 0x2
HAS_BLOCKS = 0x1
HIBERFIL = "hiberfil.sys"
HEADER = 4 * KiB
HIBERNATED = b"hibr"
"""Of a system that resumed it is `wake`, or zeros."""
SYSTEM_FOLDERS = frozenset(("windows", "winnt"))


@dataclass(frozen=True, slots=True)
class NtfsState:
    """`has_clean_log`: all that the log holds is in the files too. `holds_windows` goes by the root."""

    is_dirty: bool
    has_clean_log: bool
    is_hibernated: bool
    holds_windows: bool


def read_state(device: BlockDevice, start: int, length: int) -> NtfsState:
    """Of the volume in `length` bytes from `start`. Raises MapUnknown where it is damaged, TransportError."""
    volume = ntfs.read_boot(device, start, length)
    table = ntfs.master_table(device, volume)
    names = dict(_names(device, volume, table))
    return NtfsState(
        is_dirty=ntfs.is_dirty(device, volume, table),
        has_clean_log=ntfs.has_clean_log(device, volume, table),
        is_hibernated=HIBERFIL in names and _is_hibernated(device, volume, table, names[HIBERFIL]),
        holds_windows=bool(SYSTEM_FOLDERS & names.keys()),
    )


def _names(device: BlockDevice, volume: ntfs.Volume, table: Sequence[Run]) -> Iterator[tuple[str, int]]:
    """What is in the root folder: names in lower case, and references to the records of the files."""
    length = INDEX_NAME_LENGTH
    root = ntfs.find_attribute(device, volume, table, ROOT_FOLDER, INDEX_ROOT, name_length=length).content
    if len(root) < 32:
        raise MapUnknown("a damaged root folder")
    # 8 size of an index block; 16 the header of the entries that stand here.
    size = struct.unpack_from("<I", root, 8)[0]
    yield from _entries(root, 16)
    if size not in INDEX_SIZES:
        raise MapUnknown("a root folder with blocks of impossible size")
    # 12 of that header: flags.
    blocks = _blocks(device, volume, table, size) if root[28] & HAS_BLOCKS else ()
    for block in blocks:
        yield from _entries(block, 24)


def _blocks(device: BlockDevice, volume: ntfs.Volume, table: Sequence[Run], size: int) -> Iterator[bytes]:
    index = ntfs.find_attribute(
        device, volume, table, ROOT_FOLDER, INDEX_ALLOCATION, name_length=INDEX_NAME_LENGTH
    )
    places = ntfs.places(volume, index.runs, 0, min(index.size, MAX_INDEX) // size * size)
    content = b"".join(read_all(device, places))
    for at in range(0, len(content) - size + 1, size):
        raw = content[at : at + size]
        if raw[:4] == b"INDX":  # one that is not used yet may hold anything
            yield ntfs_record.with_fixups(raw, b"INDX")


def _entries(raw: bytes, header: int) -> Iterator[tuple[str, int]]:
    # Of the header: 0 first entry and 4 end of the last, both from the header.
    first, end = struct.unpack_from("<II", raw, header)
    at = header + first
    while at + 16 <= min(header + end, len(raw)):
        # 0 the file's record, 8 length of the entry, 10 of its key, 12 flags.
        reference, size, key_size, flags = struct.unpack_from("<QHHH", raw, at)
        if flags & LAST_ENTRY or size < 16:
            return
        # The key is a $FILE_NAME: 64 length of the name in characters, 66 the name.
        key = raw[at + 16 : at + 16 + key_size]
        if len(key) > 66:
            yield key[66 : 66 + 2 * key[64]].decode("utf-16-le", "replace").lower(), reference
        at += size


def _is_hibernated(device: BlockDevice, volume: ntfs.Volume, table: Sequence[Run], reference: int) -> bool:
    number = reference & REFERENCE_MASK
    raw = ntfs.read_record(device, volume, table, number)
    # 16 sequence number: an entry that was left over names an older file in the same record.
    if struct.unpack_from("<H", raw, 16)[0] != reference >> 48:
        return False
    content = ntfs.find_attribute(device, volume, table, number, DATA)
    if content.size < HEADER:
        return True  # as ntfs-3g takes it: a volume that another, hibernated Windows uses
    if content.initialised < HEADER:
        return False
    start = read_all(device, ntfs.places(volume, content.runs, 0, HEADER))
    return b"".join(start)[:4].lower() == HIBERNATED
