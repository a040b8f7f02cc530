"""Changes to a registry that Windows had written to its logs only, brought into the hive as it would itself.

Since Windows 8.1 a hive in use is nearly always behind its logs: so are those of a snapshot, or of a machine
that lost its power. Format and rules: M. Suhanov, "Windows registry file format specification"
(github.com/msuhanov/regf), "Format of transaction log files", new format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor

BASE_SIZE = 4096
BIN_ALIGNMENT = 4096
SECTOR = 512
HEADER = 40
SEED = 0x82EF4D887A4E55C5
"""Of the hashes in log entries, CmpHvSymcryptSeed."""
PLACE_SEQUENCES, PLACE_LENGTH, PLACE_FLAGS, PLACE_CHECKSUM = 4, 40, 144, 508
ENTRY_LIMIT = 100_000
"""Pages of one entry."""
GROWTH_LIMIT = 64 << 20
"""Bytes by which one entry may make a hive grow."""
MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a log whose hashes are right: pages to be written, by their place behind the base block."""

    sequence: int
    flags: int
    length: int
    pages: tuple[tuple[int, bytes], ...]


def replay(hive: bytes, logs: Sequence[bytes]) -> bytes | None:
    """The hive with what its logs say, clean; None where they do not continue it.

    Entries are applied as long as their numbers follow each other from the hive's own on; what Windows did
    not write to its end has a wrong hash and ends the log.
    """
    (_, second) = sequences(hive)
    if checksum(hive) != struct.unpack_from("<I", hive, PLACE_CHECKSUM)[0]:
        return None
    found = {entry.sequence: entry for log in reversed(logs) for entry in entries(log)}
    made = bytearray(hive)
    number = second
    while number in found and _apply(made, found[number]):
        number += 1
    if number == second:
        return None
    struct.pack_into("<II", made, PLACE_SEQUENCES, number - 1, number - 1)
    put_checksum(made)
    return bytes(made)


def sequences(hive: bytes) -> tuple[int, int]:
    """Both sequence numbers of a base block; they differ where a hive is behind its logs."""
    first, second = struct.unpack_from("<II", hive, PLACE_SEQUENCES)
    return first, second


def checksum(hive: bytes | bytearray) -> int:
    """Of the base block: the exclusive or of its first 127 numbers; 0 and -1 are never stored."""
    total: int = reduce(xor, struct.unpack_from("<127I", hive, 0))
    return {0: 1, MASK: MASK - 1}.get(total, total)


def put_checksum(hive: bytearray) -> None:
    struct.pack_into("<I", hive, PLACE_CHECKSUM, checksum(hive))


def entries(log: bytes) -> Iterator[Entry]:
    """The entries of a log, up to the first that is none or is damaged."""
    at = SECTOR
    while (entry := _entry(log, at)) is not None:
        yield entry
        at += struct.unpack_from("<I", log, at + 4)[0]


def _entry(log: bytes, at: int) -> Entry | None:
    if len(log) < at + HEADER:
        return None
    magic, size, flags, sequence, length, count = struct.unpack_from("<4s5I", log, at)
    fits = SECTOR <= size <= len(log) - at and size % SECTOR == 0
    if magic != b"HvLE" or not fits or length % BIN_ALIGNMENT or count > ENTRY_LIMIT:
        return None
    body, head = log[at + HEADER : at + size], log[at : at + 32]
    if struct.unpack_from("<QQ", log, at + 24) != (marvin32(body), marvin32(head)):
        return None
    pages = _pages(body, count, length)
    return None if pages is None else Entry(sequence, flags, length, pages)


def _pages(body: bytes, count: int, length: int) -> tuple[tuple[int, bytes], ...] | None:
    """Pages stand behind the list of their places, without gaps."""
    if len(body) < 8 * count:
        return None
    at, pages = 8 * count, []
    for offset, size in struct.iter_unpack("<II", body[: 8 * count]):
        if at + size > len(body) or offset + size > length:
            return None
        pages.append((offset, body[at : at + size]))
        at += size
    return tuple(pages)


def _apply(hive: bytearray, entry: Entry) -> bool:
    """Whether the entry fits; a hive may grow by it."""
    room = BASE_SIZE + entry.length - len(hive)
    if room > GROWTH_LIMIT:
        return False
    hive.extend(bytes(max(room, 0)))
    for offset, page in entry.pages:
        hive[BASE_SIZE + offset : BASE_SIZE + offset + len(page)] = page
    struct.pack_into("<I", hive, PLACE_LENGTH, entry.length)
    struct.pack_into("<I", hive, PLACE_FLAGS, entry.flags)
    return True


def marvin32(data: bytes, seed: int = SEED) -> int:
    """Marvin32 (SymCrypt), its low half in the low 32 bits, as the logs store it."""
    low, high = seed & MASK, seed >> 32
    whole = len(data) // 4 * 4
    tail = int.from_bytes(data[whole:] + b"\x80", "little")
    for (word,) in struct.iter_unpack("<I", data[:whole] + struct.pack("<II", tail, 0)):
        low = low + word & MASK
        high ^= low
        low = ((low << 20 | low >> 12) + high) & MASK
        high = (high << 9 | high >> 23) & MASK ^ low
        low = ((low << 27 | low >> 5) + high) & MASK
        high = (high << 19 | high >> 13) & MASK
    return high << 32 | low
