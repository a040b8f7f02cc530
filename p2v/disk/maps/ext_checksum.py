"""Checksums of all group descriptors of an ext4 filesystem at once.

Source: `ext4_group_desc_csum` in `fs/ext4/super.c`. A large disk has some ten thousand descriptors of 64
bytes; one by one that takes seconds in Python. So each step of the usual table walk is made for the same byte
of every descriptor together: a state of N checksums is one byte string of length N for each of its bytes, a
table look-up is `bytes.translate`, and XOR is that of large integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache

CRC16 = (0xA001, 2)
CRC32C = (0x82F63B78, 4)
"""Polynomial, reflected, and width in bytes."""
CHECKSUM_AT = 30


def intact(raw: bytes, size: int, *, uuid: bytes, seed: int | None, crc32c: bool) -> bytes:
    """For each descriptor of `size` bytes in `raw`, 1 where its checksum is right, else 0.

    `seed` is the checksum seed of the superblock, None where it follows from the UUID.
    """
    kind = CRC32C if crc32c else CRC16
    count = len(raw) // size
    start = _walk(kind, 0xFFFFFFFF, uuid) if seed is None else seed
    state = [bytes([start >> 8 * plane & 0xFF]) * count for plane in range(kind[1])]
    numbers = struct.pack(f"<{count}I", *range(count))
    for column in _columns(numbers, 4, raw, size, crc32c=crc32c):
        state = _step(kind, state, column)
    low, high = raw[CHECKSUM_AT::size], raw[CHECKSUM_AT + 1 :: size]
    wrong = _or(_xor(state[0], low[:count]), _xor(state[1], high[:count]))
    return wrong.translate(bytes([1]) + bytes(255))


def _columns(numbers: bytes, number_size: int, raw: bytes, size: int, *, crc32c: bool) -> Iterable[bytes]:
    """The group's number, then its descriptor; CRC-32C takes the checksum itself as zeros, CRC-16 leaves it
    out.
    """
    count = len(raw) // size
    for at in range(number_size):
        yield numbers[at::number_size]
    for at in range(size):
        if at not in (CHECKSUM_AT, CHECKSUM_AT + 1):
            yield raw[at::size][:count]
        elif crc32c:
            yield bytes(count)


def _step(kind: tuple[int, int], state: list[bytes], column: bytes) -> list[bytes]:
    index = _xor(state[0], column)
    found = [index.translate(table) for table in _tables(kind)]
    return [_xor(one, rest) for one, rest in zip(found, state[1:], strict=False)] + [found[-1]]


def _walk(kind: tuple[int, int], start: int, data: bytes) -> int:
    state = [bytes([start >> 8 * plane & 0xFF]) for plane in range(kind[1])]
    for byte in data:
        state = _step(kind, state, bytes([byte]))
    return int.from_bytes(b"".join(state), "little")


def _xor(left: bytes, right: bytes) -> bytes:
    both = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return both.to_bytes(len(left), "little")


def _or(left: bytes, right: bytes) -> bytes:
    both = int.from_bytes(left, "little") | int.from_bytes(right, "little")
    return both.to_bytes(len(left), "little")


@cache
def _tables(kind: tuple[int, int]) -> tuple[bytes, ...]:
    """The usual table of 256 entries, one byte string for each byte of an entry, the lowest first."""
    entries = [_entry(kind[0], index) for index in range(256)]
    return tuple(bytes(entry >> 8 * plane & 0xFF for entry in entries) for plane in range(kind[1]))


def _entry(polynomial: int, value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (polynomial if value & 1 else 0)
    return value
