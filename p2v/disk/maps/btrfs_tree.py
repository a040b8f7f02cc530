"""Trees of Btrfs: from a logical address to places on the device, and from a root to items in key order.

Source: `include/uapi/linux/btrfs_tree.h` and the "On-disk format" of the Btrfs documentation. All numbers are
little-endian. Every node says where it stands, of which generation it is and to which filesystem it belongs,
and has a checksum; the second copy is asked where the first one is wrong.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from p2v.disk.device import BlockDevice
from p2v.disk.maps.crc32c import crc32c
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.reads import read_blocks
from p2v.model import MiB

Key = tuple[int, int, int]
"""Object, type, offset: items are sorted by it."""
FIRST_KEY: Key = (0, 0, 0)
LAST_KEY: Key = (2**64 - 1, 2**8 - 1, 2**64 - 1)

HEADER_SIZE = 101
ITEM_SIZE = 25
POINTER_SIZE = 33
LARGEST_LEVEL = 7
NODE_BATCH = 2 * MiB
"""Bytes of nodes in memory for each level of one tree."""
CHECKSUM_SIZE = 32


class ChunkType:
    """Bits of a chunk and of a block group: what is in it, and its profile."""

    DATA = 0x1
    SYSTEM = 0x2
    METADATA = 0x4
    RAID0 = 0x8
    DUP = 0x20


def checksum_of(kind: int) -> Callable[[bytes], bytes] | None:
    """The function of a checksum type, or None for xxHash, which Python does not have. Raises MapUnknown."""
    match kind:
        case 0:
            return lambda data: crc32c(data).to_bytes(4, "little")
        case 1:
            return None
        case 2:
            return lambda data: hashlib.sha256(data).digest()
        case 3:
            return lambda data: hashlib.blake2b(data, digest_size=32).digest()
        case _:
            raise MapUnknown(f"unknown checksum type {kind}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` bytes of logical addresses from `logical`, and where each copy starts on the device."""

    logical: int
    length: int
    type: int
    copies: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.logical + self.length


class Chunks:
    """Sorted and without overlap, in logical addresses and on the device; raises MapUnknown otherwise."""

    def __init__(self, chunks: Sequence[Chunk], *, start: int, size: int) -> None:
        self.sorted = sorted(set(chunks), key=lambda chunk: chunk.logical)
        self._starts = [chunk.logical for chunk in self.sorted]
        places = sorted((copy, copy + chunk.length) for chunk in self.sorted for copy in chunk.copies)
        apart = all(one.end <= other.logical for one, other in pairwise(self.sorted))
        if not apart or any(one[1] > other[0] for one, other in pairwise(places)):
            raise MapUnknown("its chunks overlap")
        if places and not start <= places[0][0] <= places[-1][1] <= start + size:
            raise MapUnknown("it has chunks outside the device")

    def find(self, logical: int, length: int) -> Chunk:
        """The chunk that holds all of these bytes. Raises MapUnknown where there is none."""
        at = bisect_right(self._starts, logical) - 1
        if at < 0 or logical + length > self.sorted[at].end:
            raise MapUnknown(f"logical address {logical} is in no chunk")
        return self.sorted[at]

    def places(self, logical: int, length: int) -> tuple[int, ...]:
        """Bytes of the device where the copies of it start."""
        chunk = self.find(logical, length)
        return tuple(copy + logical - chunk.logical for copy in chunk.copies)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a pointer promises of the node that it points to. `key` is a lower bound of its items."""

    logical: int
    level: int
    generation: int
    key: Key = FIRST_KEY


@dataclass(frozen=True, slots=True)
class Item:
    key: Key
    data: bytes


@dataclass(frozen=True, slots=True)
class TreeReader:
    """Reads nodes of one filesystem."""

    device: BlockDevice
    chunks: Chunks
    node_size: int
    fsid: bytes
    checksum: Callable[[bytes], bytes] | None

    def items(
        self, root: Reference, owner: int, *, first: Key = FIRST_KEY, last: Key = LAST_KEY
    ) -> Iterator[Item]:
        """Items of a tree between two keys (both included), in order.

        No node may be empty, levels only fall and keys only rise: whatever the pointers are, it ends.
        Raises MapUnknown, TransportError.
        """
        before: Key | None = None
        for raw in self._leaves([root], owner, first, last):
            if root.level and not any(raw[96:100]):
                raise MapUnknown("a leaf of a tree is empty")
            for item in _leaf_items(raw):
                if before is not None and item.key <= before:
                    raise MapUnknown("the keys of a tree are out of order")
                before = item.key
                if first <= item.key <= last:
                    yield item

    def _leaves(self, references: Sequence[Reference], owner: int, first: Key, last: Key) -> Iterator[bytes]:
        for reference, raw in zip(references, self._read(references, owner), strict=True):
            if reference.level == 0:
                yield raw
                continue
            wanted = _wanted(_children(raw, reference), first, last)
            batch = max(1, NODE_BATCH // self.node_size)
            for at in range(0, len(wanted), batch):
                yield from self._leaves(wanted[at : at + batch], owner, first, last)

    def _read(self, references: Sequence[Reference], owner: int) -> list[bytes]:
        places = [self.chunks.places(reference.logical, self.node_size) for reference in references]
        raws = read_blocks(self.device, [place[0] for place in places], self.node_size)
        return [
            raw if self._right(raw, reference, owner) else self._other_copy(reference, owner, place[1:])
            for raw, reference, place in zip(raws, references, places, strict=True)
        ]

    def _other_copy(self, reference: Reference, owner: int, places: Sequence[int]) -> bytes:
        for place in places:
            raw = self.device.read(place, self.node_size)
            if self._right(raw, reference, owner):
                return raw
        raise MapUnknown(f"a tree block at logical address {reference.logical} is damaged")

    def _right(self, raw: bytes, reference: Reference, owner: int) -> bool:
        # 0 checksum, 32 filesystem, 48 address, 56 flags, 64 chunk tree, 80 generation, 88 owner, 96 items,
        # 100 level.
        address, generation, tree = (struct.unpack_from("<Q", raw, at)[0] for at in (48, 80, 88))
        return (
            raw[32:48] == self.fsid
            and (address, generation, tree) == (reference.logical, reference.generation, owner)
            and raw[100] == reference.level
            and self._intact(raw)
        )

    def _intact(self, raw: bytes) -> bool:
        return intact(raw, self.checksum)


def intact(raw: bytes, checksum: Callable[[bytes], bytes] | None) -> bool:
    """Whether a node or superblock has the checksum that it begins with; true where none can be made."""
    if checksum is None:
        return True
    right = checksum(raw[CHECKSUM_SIZE:])
    return raw[: len(right)] == right


def _leaf_items(raw: bytes) -> Iterator[Item]:
    count = struct.unpack_from("<I", raw, 96)[0]
    if count > (len(raw) - HEADER_SIZE) // ITEM_SIZE:
        raise MapUnknown("a leaf of a tree is damaged")
    items_end = HEADER_SIZE + count * ITEM_SIZE
    for at in range(HEADER_SIZE, items_end, ITEM_SIZE):
        *key, offset, size = struct.unpack_from("<QBQII", raw, at)
        begin = HEADER_SIZE + offset
        if begin < items_end or begin + size > len(raw):
            raise MapUnknown("a leaf of a tree is damaged")
        yield Item((key[0], key[1], key[2]), raw[begin : begin + size])


def _children(raw: bytes, parent: Reference) -> list[Reference]:
    count = struct.unpack_from("<I", raw, 96)[0]
    if not 0 < count <= (len(raw) - HEADER_SIZE) // POINTER_SIZE:
        raise MapUnknown("a node of a tree is damaged")
    found = []
    for at in range(HEADER_SIZE, HEADER_SIZE + count * POINTER_SIZE, POINTER_SIZE):
        *key, logical, generation = struct.unpack_from("<QBQQQ", raw, at)
        found.append(Reference(logical, parent.level - 1, generation, (key[0], key[1], key[2])))
    if any(one.key >= other.key for one, other in pairwise(found)):
        raise MapUnknown("a node of a tree is damaged")
    return found


def _wanted(children: list[Reference], first: Key, last: Key) -> list[Reference]:
    """Those that may hold keys between the two; a child ends where the next one begins."""
    ends = [child.key for child in children[1:]] + [LAST_KEY]
    return [child for child, end in zip(children, ends, strict=True) if child.key <= last and end >= first]
