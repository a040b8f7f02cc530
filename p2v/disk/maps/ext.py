"""ext2, ext3, ext4: the block bitmaps, plus all metadata that the group descriptors name.

Source: `fs/ext4/ext4.h` and `Documentation/filesystems/ext4/`. A group whose bitmap contradicts its own
descriptor is copied whole; a filesystem whose journal has not been replayed is refused here, because the
bitmaps on the disk may be older than the files (the caller then copies everything) - unless it is mounted
right now and was just synced.

Left out is what the kernel and e2fsck do not read either: the bitmaps of a group that was never touched
(BLOCK_UNINIT, INODE_UNINIT), and the part of an inode table that never held an inode (`bg_itable_unused`). An
empty disk of 2 TiB has 32 GiB of them. In the copy they are zeros: where the source still had garbage there
(no INODE_ZEROED), the kernel zeroes it in the background once more, as it would have on the source. This
is believed only where all descriptors have the right checksum, as the kernel and e2fsck do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from p2v.disk.device import BlockDevice
from p2v.disk.maps import ext_checksum
from p2v.disk.maps.errors import MapUnknown
from p2v.model import Extent, MiB

COMPAT_RESIZE_INODE = 0x10
COMPAT_SPARSE_SUPER2 = 0x200
INCOMPAT_RECOVER = 0x4
INCOMPAT_JOURNAL_DEV = 0x8
INCOMPAT_META_BG = 0x10
INCOMPAT_64BIT = 0x80
INCOMPAT_CSUM_SEED = 0x2000
INCOMPAT_KNOWN = 0x3E7D6
"""filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data,
encrypt, casefold: everything that does not move blocks. Compression, journal devices and what is newer are
not in it."""
RO_SPARSE_SUPER = 0x1
RO_GDT_CSUM = 0x10
RO_BIGALLOC = 0x200
RO_METADATA_CSUM = 0x400
BG_INODE_UNINIT = 0x1
BG_BLOCK_UNINIT = 0x2
SMALLEST_GROUP = 256
"""Blocks; the least that mke2fs takes."""
BATCH_SIZE = 64 * MiB
"""Bitmaps are read in batches of about this size, so that memory does not grow with the filesystem."""


@dataclass(frozen=True, slots=True)
class _Super:
    """The fields of the superblock that say where things are. Counts are blocks unless named otherwise."""

    start: int
    block_size: int
    cluster_blocks: int
    blocks: int
    first_block: int
    blocks_per_group: int
    clusters_per_group: int
    inodes_per_group: int
    inode_size: int
    descriptor_size: int
    reserved_gdt: int
    first_meta_bg: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    seed: int

    @property
    def inode_table_blocks(self) -> int:
        return self.table_blocks(self.inodes_per_group)

    def table_blocks(self, inodes: int) -> int:
        return -(-inodes * self.inode_size // self.block_size)

    @property
    def has_unused(self) -> bool:
        """Whether its descriptors have checksums, without which nothing is said of what was never touched."""
        return bool(self.ro_compat & (RO_GDT_CSUM | RO_METADATA_CSUM))

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    @property
    def descriptors_per_block(self) -> int:
        return self.block_size // self.descriptor_size

    @property
    def descriptor_blocks(self) -> int:
        return -(-self.groups // self.descriptors_per_block)

    def group_start(self, group: int) -> int:
        return self.first_block + group * self.blocks_per_group

    def super_block(self, group: int) -> int:
        """Where the group's copy of the superblock stands, if it has one; the first is at byte 1024."""
        return max(self.group_start(group), 1024 // self.block_size)

    def group_blocks(self, group: int) -> int:
        return min(self.blocks_per_group, self.blocks - self.group_start(group))


@dataclass(frozen=True, slots=True)
class _Groups:
    """The group descriptors as columns, one entry a group: 2 TiB have 16,384 of them.

    Of `used_inodes`, so many at the start of the inode table were ever used; without any, the inode bitmap is
    not read.
    """

    block_bitmaps: Sequence[int]
    inode_bitmaps: Sequence[int]
    inode_tables: Sequence[int]
    free_clusters: Sequence[int]
    block_uninit: Sequence[int]
    used_inodes: Sequence[int]

    @property
    def with_bitmap(self) -> list[int]:
        return [number for number, uninit in enumerate(self.block_uninit) if not uninit]


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used blocks of the filesystem at `start`, as bytes of the device. Raises MapUnknown, TransportError."""
    sb = _read_super(device, start, length)
    if sb.incompat & INCOMPAT_RECOVER and not device.live:
        raise MapUnknown("its journal was not replayed (it was not unmounted cleanly)")
    groups = _read_groups(device, sb)
    blocks = list(_metadata(sb, groups))
    for batch in _batches(groups, sb):
        blocks += _data(device, sb, groups, batch)
    kept = _without(_clip(blocks, sb), _untouched(sb, groups))
    return [Extent(start + block * sb.block_size, count * sb.block_size) for block, count in kept]


def _clip(blocks: list[tuple[int, int]], sb: _Super) -> Iterator[tuple[int, int]]:
    for block, count in blocks:
        end = min(block + count, sb.blocks)
        if block < end:
            yield block, end - block


def _untouched(sb: _Super, groups: _Groups) -> Iterator[tuple[int, int]]:
    """Bitmaps and parts of inode tables that nobody reads, in blocks (first, count)."""
    table_blocks = sb.inode_table_blocks
    bitmaps = zip(groups.block_bitmaps, groups.block_uninit, strict=True)
    yield from _neighbours((bitmap for bitmap, uninit in bitmaps if uninit), 1)
    inodes = zip(groups.inode_bitmaps, groups.used_inodes, strict=True)
    yield from _neighbours((bitmap for bitmap, used in inodes if not used), 1)
    tables = zip(groups.inode_tables, groups.used_inodes, strict=True)
    yield from _neighbours((table for table, used in tables if not used), table_blocks)
    for table, inodes_used in zip(groups.inode_tables, groups.used_inodes, strict=True):
        if inodes_used and (used := sb.table_blocks(inodes_used)) < table_blocks:
            yield table + used, table_blocks - used


def _neighbours(starts: Iterable[int], count: int) -> Iterator[tuple[int, int]]:
    """Ranges of `count` from each start, those that follow each other as one."""
    first = end = -1
    for start in starts:
        if start != end:
            if end > first:
                yield first, end - first
            first = start
        end = start + count
    if end > first:
        yield first, end - first


def _without(
    blocks: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The blocks (first, count) without those of the holes; in order, overlaps may stay."""
    gaps = _joined(sorted(holes))
    at = 0
    for start, count in sorted(blocks):
        first, end = start, start + count
        # Blocks come in order of their start: a gap that ends before this one matters to none after it.
        while at < len(gaps) and sum(gaps[at]) <= first:
            at += 1
        following = at
        while following < len(gaps) and gaps[following][0] < end:
            if first < gaps[following][0]:
                yield first, gaps[following][0] - first
            first = max(first, sum(gaps[following]))
            following += 1
        if first < end:
            yield first, end - first


def _read_super(device: BlockDevice, start: int, length: int) -> _Super:
    if length < 2048:
        raise MapUnknown("the partition is smaller than a superblock")
    raw = device.read(start + 1024, 1024)

    def number(offset: int, form: str = "<I") -> int:
        return int(struct.unpack_from(form, raw, offset)[0])

    incompat = number(96)
    if raw[56:58] != b"\x53\xef" or incompat & INCOMPAT_JOURNAL_DEV or incompat & ~INCOMPAT_KNOWN:
        raise MapUnknown(f"a filesystem of the ext family with unknown features ({incompat:#x})")
    if number(24) > 6 or number(28) > 20 or not number(40):
        raise MapUnknown("damaged superblock")
    block_size = 1024 << number(24)
    wide = bool(incompat & INCOMPAT_64BIT)
    bigalloc = bool(number(100) & RO_BIGALLOC)
    sb = _Super(
        start=start,
        block_size=block_size,
        cluster_blocks=(1024 << number(28)) // block_size if bigalloc else 1,
        blocks=number(4) | (number(336) << 32 if wide else 0),
        first_block=number(20),
        blocks_per_group=number(32),
        clusters_per_group=number(36) if bigalloc else number(32),
        inodes_per_group=number(40),
        inode_size=number(88, "<H") if number(76) else 128,
        descriptor_size=max(number(254, "<H"), 32) if wide else 32,
        reserved_gdt=number(206, "<H") if number(92) & COMPAT_RESIZE_INODE else 0,
        first_meta_bg=number(260),
        compat=number(92),
        incompat=incompat,
        ro_compat=number(100),
        uuid=raw[104:120],
        seed=number(624),
    )
    _check_super(sb, length)
    return sb


def _check_super(sb: _Super, length: int) -> None:
    sane = (
        0 < sb.blocks * sb.block_size <= length
        and sb.first_block in (0, 1)
        and sb.first_block < sb.blocks
        and 0 < sb.blocks_per_group <= 8 * sb.block_size * sb.cluster_blocks
        and SMALLEST_GROUP <= sb.clusters_per_group <= 8 * sb.block_size
        and sb.cluster_blocks >= 1
        and sb.clusters_per_group * sb.cluster_blocks == sb.blocks_per_group
        and sb.descriptor_size in (32, 64, 128, 256, 512, 1024)
        and sb.inode_table_blocks <= sb.blocks_per_group
    )
    if not sane:
        raise MapUnknown("damaged superblock")


def _descriptor_locations(sb: _Super) -> Iterator[int]:
    """The block of each block of group descriptors."""
    holders = _super_groups(sb)
    for index in range(sb.descriptor_blocks):
        if sb.incompat & INCOMPAT_META_BG and index >= sb.first_meta_bg:
            group = index * sb.descriptors_per_block
            yield sb.super_block(group) + (1 if group in holders else 0)
        else:
            yield sb.super_block(0) + 1 + index


def _super_groups(sb: _Super) -> Sequence[int]:
    """The groups that hold a copy of the superblock and of the descriptors."""
    # With SPARSE_SUPER2 only two do, but counting too many costs a few blocks and loses nothing.
    if not sb.ro_compat & RO_SPARSE_SUPER or sb.compat & COMPAT_SPARSE_SUPER2:
        return range(sb.groups)
    powers = {base**power for base in (3, 5, 7) for power in range(sb.groups.bit_length())}
    return sorted(group for group in {0, *powers} if group < sb.groups)


def _read_groups(device: BlockDevice, sb: _Super) -> _Groups:
    ranges = [(sb.start + block * sb.block_size, sb.block_size) for block in _descriptor_locations(sb)]
    if any(offset + size > sb.start + sb.blocks * sb.block_size for offset, size in ranges):
        raise MapUnknown("group descriptors outside the filesystem")
    size = sb.descriptor_size
    raw = b"".join(device.read_many(_joined(ranges, limit=MiB)))[: sb.groups * size]
    # 0 block bitmap, 4 inode bitmap, 8 inode table, 12 free blocks (16 bits), 14 free inodes, 18 flags, 28
    # unused inodes; high halves from 32.
    high = f"IIIHHHH{size - 52}x" if size >= 64 else ""
    columns = list(zip(*struct.iter_unpack(f"<IIIHHHH8xH2x{high}", raw), strict=True))
    groups = _grouped(sb, columns, believed=_believed(raw, sb))
    _check_groups(sb, groups)
    return groups


def _grouped(sb: _Super, columns: list[tuple[int, ...]], *, believed: bool) -> _Groups:
    """The eight columns of the short descriptor, then the high halves of a long one."""
    bitmaps, inode_bitmaps, tables = (_wide(columns, number, 8 + number, 32) for number in range(3))
    flags = columns[6] if believed else (0,) * sb.groups
    unused = _wide(columns, 7, 14, 16) if believed else flags
    inodes = zip(flags, unused, _wide(columns, 4, 12, 16), strict=True)
    return _Groups(
        bitmaps,
        inode_bitmaps,
        tables,
        _wide(columns, 3, 11, 16),
        [flag & BG_BLOCK_UNINIT for flag in flags],
        [_used_inodes(sb.inodes_per_group, *words) for words in inodes],
    )


def _wide(columns: list[tuple[int, ...]], low: int, high: int, bits: int) -> Sequence[int]:
    """A column with its high halves, `bits` further up, where there are any."""
    if high >= len(columns) or not any(columns[high]):
        return columns[low]
    return [less | more << bits for less, more in zip(columns[low], columns[high], strict=True)]


def _used_inodes(count: int, flags: int, unused: int, free: int) -> int:
    # No more unused than what is free; and all of them where the inode bitmap was never written.
    if unused > free or (flags & BG_INODE_UNINIT and unused != count):
        return count
    return count - unused if unused < count else 0


def _check_groups(sb: _Super, groups: _Groups) -> None:
    ends = (
        max(groups.block_bitmaps, default=0) + 1,
        max(groups.inode_bitmaps, default=0) + 1,
        max(groups.inode_tables, default=0) + sb.inode_table_blocks,
    )
    if max(ends) > sb.blocks:
        raise MapUnknown("a group names metadata outside the filesystem")


def _believed(raw: bytes, sb: _Super) -> bool:
    """Whether every descriptor has the right checksum. One that has not may lie about its neighbours, too."""
    if not sb.has_unused:
        return False
    crc32c = bool(sb.ro_compat & RO_METADATA_CSUM)
    seed = sb.seed if crc32c and sb.incompat & INCOMPAT_CSUM_SEED else None
    good = ext_checksum.intact(raw, sb.descriptor_size, uuid=sb.uuid, seed=seed, crc32c=crc32c)
    return 0 not in good


def _joined(ranges: Iterable[tuple[int, int]], *, limit: int | None = None) -> list[tuple[int, int]]:
    """Neighbouring ranges (first, count) as one, of no more than `limit`."""
    joined: list[tuple[int, int]] = []
    first = count = 0
    for start, more in ranges:
        if count and first + count == start and (limit is None or count + more <= limit):
            count += more
            continue
        if count:
            joined.append((first, count))
        first, count = start, more
    if count:
        joined.append((first, count))
    return joined


def _metadata(sb: _Super, groups: _Groups) -> Iterator[tuple[int, int]]:
    """Boot block, superblocks, descriptors, bitmaps and inode tables that are read, in blocks (first,
    count).
    """
    yield 0, sb.super_block(0) + 1
    for block in _descriptor_locations(sb):
        yield block, 1
    old_descriptors = min(sb.descriptor_blocks, sb.first_meta_bg) if sb.incompat & INCOMPAT_META_BG else None
    copied = sb.descriptor_blocks + sb.reserved_gdt if old_descriptors is None else old_descriptors
    if sb.incompat & INCOMPAT_META_BG:
        yield from ((sb.super_block(number), 2) for number in range(sb.groups))
    for number in _super_groups(sb):
        yield sb.super_block(number), 1 + copied
    for number in groups.with_bitmap:
        yield groups.block_bitmaps[number], 1
    for number, used in enumerate(groups.used_inodes):
        if used:
            yield groups.inode_bitmaps[number], 1
            yield groups.inode_tables[number], sb.table_blocks(used)


def _batches(groups: _Groups, sb: _Super) -> Iterator[list[int]]:
    """The numbers of the groups whose block bitmaps are read together."""
    size = max(1, BATCH_SIZE // sb.block_size)
    numbers = groups.with_bitmap
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def _data(device: BlockDevice, sb: _Super, groups: _Groups, numbers: list[int]) -> Iterator[tuple[int, int]]:
    bitmaps = _read_bitmaps(device, sb, [groups.block_bitmaps[number] for number in numbers])
    for number, bitmap in zip(numbers, bitmaps, strict=True):
        yield from _group_data(sb, number, groups.free_clusters[number], bitmap)


def _read_bitmaps(device: BlockDevice, sb: _Super, blocks: list[int]) -> Iterator[bytes]:
    ranges = [(sb.start + block * sb.block_size, sb.block_size) for block in blocks]
    for raw in device.read_many(_joined(ranges, limit=MiB)):
        for at in range(0, len(raw), sb.block_size):
            yield raw[at : at + sb.block_size]


def _group_data(sb: _Super, number: int, free_clusters: int, bitmap: bytes) -> Iterator[tuple[int, int]]:
    first = sb.group_start(number)
    count = sb.group_blocks(number)
    clusters = -(-count // sb.cluster_blocks)
    bits = int.from_bytes(bitmap, "little") & ((1 << clusters) - 1)
    if clusters - bits.bit_count() != free_clusters:
        # Either it changed between two reads of a running machine or it is damaged: take no chance with it.
        yield first, count
        return
    for start, length in _runs(bits, clusters):
        yield first + start * sb.cluster_blocks, length * sb.cluster_blocks


@lru_cache(maxsize=16)
def _runs(bits: int, count: int) -> tuple[tuple[int, int], ...]:
    """Runs of set bits as (first, length), lowest bit first; the bitmaps of empty groups are all the same."""
    text = f"{bits:0{count}b}"[::-1]
    runs = []
    at = text.find("1")
    while at >= 0:
        end = text.find("0", at)
        end = count if end < 0 else end
        runs.append((at, end - at))
        at = text.find("1", end)
    return tuple(runs)
