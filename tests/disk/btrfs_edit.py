"""Small edits of a Btrfs image that its tools of today cannot make yet: the kernel judges the result."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from p2v.disk.maps.crc32c import crc32c
from p2v.model import Extent

Key = tuple[int, int, int]
HEADER = 101
SUPER = 65536
NODE = 16384


@dataclass
class Leaf:
    """A leaf of a tree: the header as it is, and the items, which may be changed."""

    head: bytes
    items: list[tuple[Key, bytes]]

    @classmethod
    def parse(cls, raw: bytes) -> Leaf:
        assert raw[100] == 0, "not a leaf"
        items = []
        for number in range(struct.unpack_from("<I", raw, 96)[0]):
            *key, offset, size = struct.unpack_from("<QBQII", raw, HEADER + 25 * number)
            items.append(((key[0], key[1], key[2]), raw[HEADER + offset : HEADER + offset + size]))
        return cls(raw[:HEADER], items)

    def pack(self) -> bytes:
        table, data, end = b"", b"", NODE - HEADER
        for key, content in sorted(self.items):
            end -= len(content)
            table += struct.pack("<QBQII", *key, end, len(content))
            data = content + data
        head = self.head[:96] + struct.pack("<I", len(self.items)) + self.head[100:]
        return sealed(head + table + bytes(NODE - HEADER - len(table) - len(data)) + data)


def sealed(raw: bytes) -> bytes:
    """With its CRC-32C at the front."""
    return crc32c(raw[32:]).to_bytes(4, "little") + bytes(28) + raw[32:]


def with_block_group_tree(image: Path) -> None:
    """Moves the block groups of a new filesystem (no files, DUP metadata) into a tree of their own."""
    raw = bytearray(image.read_bytes())
    chunks = _chunks(raw)
    root = struct.unpack_from("<Q", raw, SUPER + 80)[0]
    roots = _leaf(raw, chunks, root)
    number = next(at for at, (key, _) in enumerate(roots.items) if key[:2] == (2, 132))
    extent_item = roots.items[number][1]
    extents_at = struct.unpack_from("<Q", extent_item, 176)[0]
    extents = _leaf(raw, chunks, extents_at)

    groups = [item for item in extents.items if item[0][1] == 192]
    new_at = max(key[0] for key, _ in extents.items if key[1] == 169) + NODE
    start = next(key[0] for key, _ in groups if key[0] <= new_at < key[0] + key[2])
    groups = [(key, _more(data) if key[0] == start else data) for key, data in groups]
    extents.items = [item for item in extents.items if item[0][1] != 192]
    like = next(data for key, data in extents.items if key[0] == extents_at)
    extents.items.append(((new_at, 169, 0), like[:-8] + struct.pack("<Q", 11)))
    head = (
        extents.head[:48]
        + struct.pack("<Q", new_at)
        + extents.head[56:88]
        + struct.pack("<Q", 11)
        + extents.head[96:]
    )
    new_root = extent_item[:176] + struct.pack("<Q", new_at) + extent_item[184:]
    roots.items.append(((11, 132, 0), new_root))

    _write(raw, chunks, extents_at, extents.pack())
    _write(raw, chunks, root, roots.pack())
    _write(raw, chunks, new_at, Leaf(head, groups).pack())
    block = raw[SUPER : SUPER + 4096]
    used, compat_ro = (struct.unpack_from("<Q", block, at)[0] for at in (120, 180))
    struct.pack_into("<Q", block, 120, used + NODE)
    struct.pack_into("<Q", block, 180, compat_ro | 8)
    raw[SUPER : SUPER + 4096] = sealed(bytes(block))
    image.write_bytes(raw)


def _more(group: bytes, by: int = NODE) -> bytes:
    return struct.pack("<Q", struct.unpack_from("<Q", group)[0] + by) + group[8:]


def with_overlap(image: Path) -> None:
    """One tree block of a new filesystem is said to begin inside of the one before it; the sums are right."""
    raw = bytearray(image.read_bytes())
    chunks, extents_at, extents = _extent_leaf(raw)
    last = max(key for key, _ in extents.items if key[1] == 169)
    moved = (last[0] - 4096, *last[1:])
    extents.items = [(moved if key == last else key, data) for key, data in extents.items]
    _write(raw, chunks, extents_at, extents.pack())
    image.write_bytes(raw)


def with_wrong_counters(image: Path) -> Extent:
    """Two block groups of a new filesystem count wrongly, their sum is right. Returns where the data is."""
    raw = bytearray(image.read_bytes())
    chunks, extents_at, extents = _extent_leaf(raw)
    change = {1: NODE, 4: -NODE}  # data, metadata with its profile
    groups = {key: data for key, data in extents.items if key[1] == 192}
    for key, data in groups.items():
        by = change.get(struct.unpack_from("<Q", data, 16)[0] & 5, 0)
        groups[key] = _more(data, by)
    extents.items = [(key, groups.get(key, data)) for key, data in extents.items]
    _write(raw, chunks, extents_at, extents.pack())
    image.write_bytes(raw)
    key = next(key for key, data in groups.items() if struct.unpack_from("<Q", data, 16)[0] == 1)
    return Extent(places(chunks, key[0])[0], key[2])


def _extent_leaf(raw: bytearray) -> tuple[list[tuple[int, int, list[int]]], int, Leaf]:
    """The chunks, and the extent tree of a new filesystem, which is one leaf, with its address."""
    chunks = _chunks(raw)
    roots = _leaf(raw, chunks, struct.unpack_from("<Q", raw, SUPER + 80)[0])
    at = struct.unpack_from("<Q", dict(roots.items)[2, 132, 0], 176)[0]
    return chunks, at, _leaf(raw, chunks, at)


def _chunks(raw: bytes | bytearray) -> list[tuple[int, int, list[int]]]:
    """Logical address, length, places; the chunk tree is found through the superblock's own array."""
    size = struct.unpack_from("<I", raw, SUPER + 160)[0]
    first = raw[SUPER + 811 : SUPER + 811 + size]
    system = _chunk(struct.unpack_from("<Q", first, 9)[0], bytes(first[17:]))
    leaf = _leaf(raw, [system], struct.unpack_from("<Q", raw, SUPER + 88)[0])
    return [_chunk(key[2], data) for key, data in leaf.items if key[1] == 228]


def _chunk(logical: int, data: bytes) -> tuple[int, int, list[int]]:
    count = struct.unpack_from("<H", data, 44)[0]
    places = [struct.unpack_from("<Q", data, 56 + 32 * at)[0] for at in range(count)]
    return logical, struct.unpack_from("<Q", data)[0], places


def places(chunks: list[tuple[int, int, list[int]]], logical: int) -> list[int]:
    start, _, stripes = next(chunk for chunk in chunks if chunk[0] <= logical < chunk[0] + chunk[1])
    return [stripe + logical - start for stripe in stripes]


def _leaf(raw: bytes | bytearray, chunks: list[tuple[int, int, list[int]]], logical: int) -> Leaf:
    at = places(chunks, logical)[0]
    return Leaf.parse(bytes(raw[at : at + NODE]))


def _write(raw: bytearray, chunks: list[tuple[int, int, list[int]]], logical: int, node: bytes) -> None:
    for at in places(chunks, logical):
        raw[at : at + NODE] = node


def patched_super(image: Path, offset: int, value: bytes) -> None:
    """Changes bytes of the first superblock and its checksum."""
    with image.open("r+b") as handle:
        handle.seek(SUPER)
        block = bytearray(handle.read(4096))
        block[offset : offset + len(value)] = value
        handle.seek(SUPER)
        handle.write(sealed(bytes(block)))
