"""Btrfs on one device: the extents of the extent tree, where the chunk tree puts them.

Source: `include/uapi/linux/btrfs_tree.h` and the "On-disk format" of the Btrfs documentation. Extents are
believed chunk by chunk where they add up to the counter of their block group, and the groups to the
superblock. Trees are written to new places and the superblock last, so that a crash leaves no question but
one: what `fsync` put into a log tree is not in the extent tree yet. A log is only ever written into chunks
that the chunk tree knows already; where there is one, the chunks are copied whole. On a live device the
chunks of metadata are too, because the next superblock points to new blocks of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps.btrfs_tree import (
    LARGEST_LEVEL,
    Chunk,
    Chunks,
    ChunkType,
    Item,
    Reference,
    TreeReader,
    checksum_of,
    intact,
)
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.runs import Union
from p2v.model import Extent, GiB, KiB, MiB

SUPER_OFFSETS = (64 * KiB, 64 * MiB, 256 * GiB)
SUPER_SIZE = 4 * KiB
RESERVED = 1 * MiB
"""No chunk begins before it: boot loaders live there."""
MAGIC = b"_BHRfS_M"
FLAGS_KNOWN = 0x3
"""Written, relocation. Not error, seed, metadump, or an identity or checksum that is being changed."""
INCOMPAT_METADATA_UUID = 0x400
INCOMPAT_KNOWN = 0x10FFF
"""Everything up to raid1c34, and simple quotas. Not zoned, extent tree 2, raid stripe tree, remap tree."""
COMPAT_RO_KNOWN = 0xF
"""Free space tree (and that it is valid), verity, block group tree."""
COMPAT_RO_BLOCK_GROUP_TREE = 0x8

ROOT_TREE = 1
EXTENT_TREE = 2
CHUNK_TREE = 3
BLOCK_GROUP_TREE = 11
FIRST_CHUNK = 256
ROOT_ITEM = 132
EXTENT_ITEM = 168
METADATA_ITEM = 169
BLOCK_GROUP_ITEM = 192
CHUNK_ITEM = 228

LEAST_CHUNKS = 1024
CHUNK_AVERAGE = 16 * MiB
"""More chunks than one for so many bytes of the device (and a few) are not believed."""
LIVE_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Super:
    """What the superblock says; sizes in bytes."""

    fsid: bytes
    root: Reference
    chunk_root: Reference
    has_log: bool
    used: int
    device_id: int
    device_size: int
    sector_size: int
    node_size: int
    checksum: int
    compat_ro: int
    system_chunks: bytes


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used blocks of the filesystem at `start`, as bytes of the device. Raises MapUnknown, TransportError."""
    for _ in range(LIVE_TRIES - 1 if device.live else 0):
        try:
            return _Map(device, start, length).extents()
        except MapUnknown:
            continue  # a commit came between two reads: begin again from the new superblock
    return _Map(device, start, length).extents()


def _read_super(device: BlockDevice, start: int, length: int) -> _Super:
    if length < RESERVED:
        raise MapUnknown("the partition is smaller than what Btrfs reserves")
    raw = device.read(start + SUPER_OFFSETS[0], SUPER_SIZE)

    def number(offset: int, form: str = "<Q") -> int:
        return int(struct.unpack_from(form, raw, offset)[0])

    if raw[64:72] != MAGIC or number(48) != SUPER_OFFSETS[0]:
        raise MapUnknown("damaged superblock")
    _check_features(number(188), number(180), number(56))
    if number(136) != 1:
        raise MapUnknown(f"it stands on {number(136)} devices")
    system_size = min(number(160, "<I"), 2048)
    sb = _Super(
        fsid=raw[571:587] if number(188) & INCOMPAT_METADATA_UUID else raw[32:48],
        root=Reference(number(80), raw[198], number(72)),
        chunk_root=Reference(number(88), raw[199], number(164)),
        has_log=bool(number(96)),
        used=number(120),
        device_id=number(201),
        device_size=number(209),
        sector_size=number(144, "<I"),
        node_size=number(148, "<I"),
        checksum=number(196, "<H"),
        compat_ro=number(180),
        system_chunks=raw[811 : 811 + system_size],
    )
    _check_super(sb, raw, length)
    return sb


def _check_features(incompat: int, compat_ro: int, flags: int) -> None:
    if incompat & ~INCOMPAT_KNOWN or compat_ro & ~COMPAT_RO_KNOWN or flags & ~FLAGS_KNOWN:
        raise MapUnknown(f"Btrfs with unknown features ({incompat:#x}, {compat_ro:#x}, {flags:#x})")


def _check_super(sb: _Super, raw: bytes, length: int) -> None:
    sane = (
        sb.node_size in (4096, 8192, 16384, 32768, 65536)
        and sb.sector_size in (2048, 4096, 8192, 16384, 32768, 65536)
        and RESERVED <= sb.device_size <= length
        and max(sb.root.level, sb.chunk_root.level) <= LARGEST_LEVEL
        and intact(raw, checksum_of(sb.checksum))
    )
    if not sane:
        raise MapUnknown("damaged superblock")


class _Map:
    """One look at one filesystem. Everything in it raises MapUnknown and TransportError."""

    def __init__(self, device: BlockDevice, start: int, length: int) -> None:
        self._device = device
        self._start = start
        self._sb = _read_super(device, start, length)
        self._tree = self._reader(_system_chunks(self._sb, start))
        self._tree = self._reader(self._all_chunks())

    def extents(self) -> list[Extent]:
        used = Union()
        used.add(self._start, RESERVED)
        if self._sb.has_log:
            for chunk in self._tree.chunks.sorted:
                _add_whole(chunk, used)
        else:
            self._add_extents(used)
        for offset in SUPER_OFFSETS:
            if offset + SUPER_SIZE <= self._sb.device_size:
                used.add(self._start + offset, SUPER_SIZE)
        return used.extents()

    def _reader(self, chunks: list[Chunk]) -> TreeReader:
        return TreeReader(
            device=self._device,
            chunks=Chunks(chunks, start=self._start, size=self._sb.device_size),
            node_size=self._sb.node_size,
            fsid=self._sb.fsid,
            checksum=checksum_of(self._sb.checksum),
        )

    def _all_chunks(self) -> list[Chunk]:
        items = self._tree.items(
            self._sb.chunk_root,
            CHUNK_TREE,
            first=(FIRST_CHUNK, CHUNK_ITEM, 0),
            last=(FIRST_CHUNK, CHUNK_ITEM, 2**64 - 1),
        )
        most = LEAST_CHUNKS + self._sb.device_size // CHUNK_AVERAGE
        chunks: list[Chunk] = []
        for item in items:
            chunks.append(_chunk(item.key[2], item.data, self._sb, self._start))
            if len(chunks) > most:
                raise MapUnknown("it has too many chunks")
        return chunks

    def _root_of(self, tree: int) -> Reference:
        """The newest root of a tree, from the tree of roots."""
        items = self._tree.items(
            self._sb.root, ROOT_TREE, first=(tree, ROOT_ITEM, 0), last=(tree, ROOT_ITEM, 2**64 - 1)
        )
        for item in items:
            # 160 generation, 176 address of the root node, 238 its level; an inode comes first.
            if len(item.data) < 239 or item.data[238] > LARGEST_LEVEL:
                break
            generation, logical = (struct.unpack_from("<Q", item.data, at)[0] for at in (160, 176))
            return Reference(logical, item.data[238], generation)
        raise MapUnknown(f"it has no root of tree {tree}")

    def _add_extents(self, used: Union) -> None:
        """Chunk by chunk in the order of the extent tree, which is that of logical addresses."""
        counters = self._counters()
        undone = {chunk.logical: chunk for chunk in self._tree.chunks.sorted}
        part: _Part | None = None
        for item in self._tree.items(self._root_of(EXTENT_TREE), EXTENT_TREE):
            length = self._length(item)
            if length is None:
                continue
            chunk = self._tree.chunks.find(item.key[0], length)
            if part is None or part.chunk is not chunk:
                self._finish(part, counters, used)
                part = _Part(undone.pop(chunk.logical))
            if item.key[1] == BLOCK_GROUP_ITEM:
                counters[chunk.logical] = _group_counter(chunk, item)
            else:
                part.add(item.key[0], length)
        self._finish(part, counters, used)
        for chunk in undone.values():
            self._finish(_Part(chunk), counters, used)
        if sum(counters.values()) != self._sb.used and not self._device.live:
            raise MapUnknown(f"its block groups count other than the {self._sb.used} bytes of its superblock")

    def _counters(self) -> dict[int, int]:
        """Used bytes by logical address of block groups, where they have a tree of their own."""
        if not self._sb.compat_ro & COMPAT_RO_BLOCK_GROUP_TREE:
            return {}
        counters: dict[int, int] = {}
        for item in self._tree.items(self._root_of(BLOCK_GROUP_TREE), BLOCK_GROUP_TREE):
            if item.key[1] == BLOCK_GROUP_ITEM:
                chunk = self._tree.chunks.find(item.key[0], 1)
                counters[chunk.logical] = _group_counter(chunk, item)
        return counters

    def _length(self, item: Item) -> int | None:
        """Bytes of what an item of the extent tree describes; None for references to extents."""
        match item.key[1]:
            case kind if kind in (EXTENT_ITEM, BLOCK_GROUP_ITEM):
                return item.key[2]
            case kind if kind == METADATA_ITEM:
                return self._sb.node_size
            case _:
                return None

    def _finish(self, part: _Part | None, counters: dict[int, int], used: Union) -> None:
        """Adds what a chunk uses: its extents if they add up, or all of it where that may be so."""
        if part is None:
            return
        agrees = part.size == counters.get(part.chunk.logical)
        if not agrees and not self._device.live:
            raise MapUnknown(f"block group {part.chunk.logical} contradicts itself")
        if not agrees or (self._device.live and not part.chunk.type & ChunkType.DATA):
            _add_whole(part.chunk, used)
            return
        for copy in part.chunk.copies:
            for extent in part.used.extents():
                used.add(copy + extent.start, extent.length)


class _Part:
    """What is used of one chunk, in bytes from its start; extents come in order."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.used = Union()
        self.size = 0
        self._end = chunk.logical

    def add(self, logical: int, length: int) -> None:
        if logical < self._end:
            raise MapUnknown("its extents overlap")
        self.used.add(logical - self.chunk.logical, length)
        self.size += length
        self._end = logical + length


def _add_whole(chunk: Chunk, used: Union) -> None:
    for copy in chunk.copies:
        used.add(copy, chunk.length)


def _group_counter(chunk: Chunk, item: Item) -> int:
    """Used bytes of the block group of a chunk; both must be of one place, size and type."""
    if len(item.data) < 24:
        raise MapUnknown("a block group is damaged")
    used, _, flags = struct.unpack_from("<QQQ", item.data)
    if (item.key[0], item.key[2], flags) != (chunk.logical, chunk.length, chunk.type):
        raise MapUnknown(f"block group {chunk.logical} is not like its chunk")
    return int(used)


def _system_chunks(sb: _Super, start: int) -> list[Chunk]:
    """The chunks that the superblock names: those that hold the chunk tree."""
    chunks = []
    at = 0
    while at < len(sb.system_chunks):
        if at + 17 + 48 > len(sb.system_chunks):
            raise MapUnknown("damaged superblock")
        _, kind, logical = struct.unpack_from("<QBQ", sb.system_chunks, at)
        copies = struct.unpack_from("<H", sb.system_chunks, at + 17 + 44)[0]
        size = 48 + 32 * copies
        if kind != CHUNK_ITEM:
            raise MapUnknown("damaged superblock")
        chunks.append(_chunk(logical, sb.system_chunks[at + 17 : at + 17 + size], sb, start))
        at += 17 + size
    return chunks


def _chunk(logical: int, raw: bytes, sb: _Super, start: int) -> Chunk:
    # 0 length, 8 owner, 16 stripe length, 24 type, 44 stripes, 48 the stripes: device, offset, UUID.
    if len(raw) < 48:
        raise MapUnknown("a chunk is damaged")
    length, _, _, kind = struct.unpack_from("<QQQQ", raw)
    count = struct.unpack_from("<H", raw, 44)[0]
    profile = kind & ~(ChunkType.DATA | ChunkType.SYSTEM | ChunkType.METADATA)
    if (profile, count) not in ((0, 1), (ChunkType.DUP, 2), (ChunkType.RAID0, 1)):
        raise MapUnknown(f"a chunk of a type ({kind:#x}) that one device does not have")
    if not length or logical + length >= 2**64 or len(raw) != 48 + 32 * count:
        raise MapUnknown("a chunk is damaged")
    stripes = [struct.unpack_from("<QQ", raw, 48 + 32 * number) for number in range(count)]
    if any(device != sb.device_id for device, _ in stripes):
        raise MapUnknown("a chunk is on another device")
    return Chunk(logical, length, kind, tuple(start + offset for _, offset in stripes))
