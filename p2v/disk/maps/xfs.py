"""XFS: everything but what the free-space B-tree of each allocation group (AG) lists.

Source: `fs/xfs/libxfs/xfs_format.h`; all numbers are big-endian, checksums little-endian. Headers, B-trees,
the internal log and the reserve of free blocks that a group keeps for its own trees (AGFL) are not in that
B-tree and so are copied. The free-space trees are believed where their records add up to the counter of
their group, the groups to the superblock, and the log was closed by an unmount. On a live device the log is
read instead: a group that a transaction in it has changed may be older on the disk than the files, and is
copied whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps import xfs_log
from p2v.disk.maps.crc32c import crc32c
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.reads import read_blocks
from p2v.disk.maps.runs import Union
from p2v.model import Extent, MiB

VERSION_5 = 5
FEATURES2_KNOWN = 0x29A
"""Version 4: lazy superblock counters, attr2, parent pointers, 32-bit project ids, file types in folders."""
LAZY_COUNTERS = 0x2
MORE_FEATURES = 0x8000
RO_COMPAT_KNOWN = 0xF
"""finobt, rmapbt, reflink, inobtcount."""
INCOMPAT_KNOWN = 0xEF
"""ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchange-range, parent pointers. Not needs-repair, not
metadata directories, not zoned: those know space that is kept elsewhere."""
SMALLEST_AG = 16 * MiB
LARGEST_LEVELS = 9
AG_BATCH = 64
NODE_BATCH = 2 * MiB
"""Bytes of tree blocks in memory for each level of one tree."""


@dataclass(frozen=True, slots=True)
class _Super:
    """What the superblock says. Counts are filesystem blocks; `start` and the sizes are bytes."""

    start: int
    version: int
    block_size: int
    sector_size: int
    blocks: int
    ag_blocks: int
    ag_count: int
    ag_log: int
    log_start: int
    log_blocks: int
    free: int
    lazy: bool

    def ag_start(self, number: int) -> int:
        return self.start + number * self.ag_blocks * self.block_size

    def ag_length(self, number: int) -> int:
        """In blocks; only the last group may be shorter."""
        return min(self.ag_blocks, self.blocks - number * self.ag_blocks)

    def byte(self, number: int, block: int) -> int:
        return self.ag_start(number) + block * self.block_size


@dataclass(frozen=True, slots=True)
class _Group:
    """The free-space header of an allocation group (AGF). Counts and `root` are blocks of the group."""

    number: int
    length: int
    root: int
    levels: int
    free: int
    reserve: int
    tree_blocks: int


class _Disagrees(Exception):
    """A group contradicts itself: damaged, or changed between two reads."""


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used blocks of the filesystem at `start`, as bytes of the device. Raises MapUnknown, TransportError."""
    sb = _read_super(device, start, length)
    stale = _stale_groups(device, sb)
    used = Union()
    free = trees = 0
    for first in range(0, sb.ag_count, AG_BATCH):
        numbers = range(first, min(first + AG_BATCH, sb.ag_count))
        groups = _map_groups(device, sb, numbers, stale, used)
        free += sum(group.free + group.reserve for group in groups)
        trees += sum(group.tree_blocks for group in groups)
    if not device.live:
        _check_total(sb, free, trees)
    return used.extents()


def _check_total(sb: _Super, free: int, trees: int) -> None:
    """The superblock counts blocks of the free-space trees as free; groups of old ones do not know them."""
    least, most = (free + trees, free + trees) if sb.lazy else (free, free + sb.blocks // 64)
    if not least <= sb.free <= most:
        raise MapUnknown(f"its groups count {least} free blocks, its superblock {sb.free}")


def _read_super(device: BlockDevice, start: int, length: int) -> _Super:
    if length < SMALLEST_AG:
        raise MapUnknown("the partition is smaller than an allocation group")
    raw = device.read(start, 4096)

    def number(offset: int, form: str = ">I") -> int:
        return int(struct.unpack_from(form, raw, offset)[0])

    sb = _Super(
        start=start,
        version=number(100, ">H") & 0xF,
        block_size=number(4),
        sector_size=number(102, ">H"),
        blocks=number(8, ">Q"),
        ag_blocks=number(84),
        ag_count=number(88),
        ag_log=raw[124],
        log_start=number(48, ">Q"),
        log_blocks=number(96),
        free=number(144, ">Q"),
        lazy=number(100, ">H") & 0xF == VERSION_5 or bool(number(200) & LAZY_COUNTERS),
    )
    _check_super(sb, raw, length)
    _check_features(sb, raw)
    return sb


def _check_super(sb: _Super, raw: bytes, length: int) -> None:
    sizes = [1 << bits for bits in range(9, 17)]
    sane = (
        raw[:4] == b"XFSB"
        and not raw[126]  # mkfs was not interrupted
        and sb.block_size in sizes
        and sb.sector_size in sizes
        and sb.sector_size <= sb.block_size
        and 0 < sb.blocks <= length // sb.block_size
        and sb.ag_blocks * sb.block_size >= SMALLEST_AG
        and sb.ag_blocks <= 1 << min(sb.ag_log, 32)
        and sb.ag_count == -(-sb.blocks // sb.ag_blocks)
        and sb.ag_length(sb.ag_count - 1) * sb.block_size >= 4 * sb.sector_size
    )
    if not sane:
        raise MapUnknown("damaged superblock")


def _check_features(sb: _Super, raw: bytes) -> None:
    versions, features2 = (struct.unpack_from(form, raw, at)[0] for form, at in ((">H", 100), (">I", 200)))
    ro_compat, incompat = struct.unpack_from(">II", raw, 212)
    match sb.version:
        case 4:
            known = not versions & MORE_FEATURES or not features2 & ~FEATURES2_KNOWN
        case 5:
            known = not ro_compat & ~RO_COMPAT_KNOWN and not incompat & ~INCOMPAT_KNOWN
        case _:
            known = False
    if not known:
        raise MapUnknown(f"XFS version {sb.version} with unknown features ({ro_compat:#x}, {incompat:#x})")
    if struct.unpack_from(">Q", raw, 16)[0]:
        raise MapUnknown("a part of it is on a real-time device")
    if not sb.log_start:
        raise MapUnknown("its log is on another device")
    if sb.version == VERSION_5 and len(raw) >= sb.sector_size and not _intact(raw[: sb.sector_size], 224):
        raise MapUnknown("damaged superblock (checksum)")


def _intact(raw: bytes, at: int) -> bool:
    """Whether the checksum at `at` is that of the rest, itself taken as zero."""
    said = struct.unpack_from("<I", raw, at)[0]
    return crc32c(raw[:at] + bytes(4) + raw[at + 4 :]) == int(said)


def _log_of(sb: _Super) -> tuple[int, xfs_log.Log]:
    """The group that holds the log, and where the log is."""
    number, block = sb.log_start >> sb.ag_log, sb.log_start & ((1 << sb.ag_log) - 1)
    if number >= sb.ag_count or not sb.log_blocks or block + sb.log_blocks > sb.ag_length(number):
        raise MapUnknown("its log is outside the filesystem")
    return number, xfs_log.Log(sb.byte(number, block), sb.log_blocks * sb.block_size)


def _stale_groups(device: BlockDevice, sb: _Super) -> frozenset[int]:
    """Groups whose free space may be older on the disk than what the log says. Read before the groups are."""
    _, log = _log_of(sb)
    end = xfs_log.find_end(device, log)
    if end.clean:
        return frozenset()
    if not device.live:
        raise MapUnknown("its log was not replayed (it was not unmounted cleanly)")
    stride = sb.ag_blocks * sb.block_size // xfs_log.BLOCK
    header = sb.sector_size // xfs_log.BLOCK
    waiting = xfs_log.waiting_buffers(device, log, end, lambda sector: sector % stride == header)
    return frozenset(sector // stride for sector in waiting)


def _map_groups(
    device: BlockDevice, sb: _Super, numbers: range, stale: frozenset[int], used: Union
) -> list[_Group]:
    """Adds what these groups use; returns their headers."""
    headers = read_blocks(
        device, [sb.ag_start(number) + sb.sector_size for number in numbers], sb.sector_size
    )
    groups = [_header(sb, number, raw) for number, raw in zip(numbers, headers, strict=True)]
    known = [group for group in groups if group is not None and group.number not in stale]
    roots = read_blocks(device, [sb.byte(group.number, group.root) for group in known], sb.block_size)
    root_of = {group.number: raw for group, raw in zip(known, roots, strict=True)}
    for number, group in zip(numbers, groups, strict=True):
        if group is None or number not in root_of:
            _whole(device, sb, number, used, reason="header" if group is None else "")
            continue
        part = Union()
        try:
            _map_group(device, sb, group, root_of[number], part)
        except _Disagrees as error:
            _whole(device, sb, number, used, reason=str(error))
            continue
        for extent in part.extents():
            used.add(extent.start, extent.length)
    return [group for group in groups if group is not None]


def _whole(device: BlockDevice, sb: _Super, number: int, used: Union, *, reason: str) -> None:
    if reason and not device.live:
        raise MapUnknown(f"allocation group {number} contradicts itself ({reason})")
    used.add(sb.ag_start(number), sb.ag_length(number) * sb.block_size)


def _header(sb: _Super, number: int, raw: bytes) -> _Group | None:
    # 0 magic, 4 version, 8 number, 12 length, 16 three roots, 28 three levels, 40 first, last and count of
    # the reserve, 52 free blocks, 56 longest, 60 blocks of the free-space trees, 216 checksum.
    word = struct.unpack_from(">4s15I", raw)
    group = _Group(
        number=number,
        length=word[3],
        root=word[4],
        levels=word[7],
        free=word[13],
        reserve=word[12],
        tree_blocks=word[15],
    )
    sane = (
        word[:3] == (b"XAGF", 1, number)
        and group.length == sb.ag_length(number)
        and group.root < group.length
        and 1 <= group.levels <= LARGEST_LEVELS
        and group.free <= group.length
        and (sb.version != VERSION_5 or _intact(raw, 216))
    )
    return group if sane else None


def _map_group(device: BlockDevice, sb: _Super, group: _Group, root: bytes, used: Union) -> None:
    """What lies between the free extents of a group. Raises _Disagrees."""
    end = free = 0
    for first, count in _free_extents(device, sb, group, [root], group.levels - 1):
        if not count or first < end or first + count > group.length:
            raise _Disagrees(f"free blocks {first}+{count}")
        used.add(sb.byte(group.number, end), (first - end) * sb.block_size)
        end, free = first + count, free + count
    used.add(sb.byte(group.number, end), (group.length - end) * sb.block_size)
    if free != group.free:
        raise _Disagrees(f"{free} free blocks of {group.free}")


def _free_extents(
    device: BlockDevice, sb: _Super, group: _Group, nodes: list[bytes], level: int
) -> Iterator[tuple[int, int]]:
    """(first block, count) of the leaves below these nodes, in order.

    Levels only fall, no node is empty and the caller wants extents that only rise: a loop ends at once.
    """
    for raw in nodes:
        values = _node(sb, group, raw, level)
        if level == 0:
            yield from zip(values[::2], values[1::2], strict=True)
            continue
        batch = max(1, NODE_BATCH // sb.block_size)
        for at in range(0, len(values), batch):
            offsets = [sb.byte(group.number, block) for block in values[at : at + batch]]
            below = read_blocks(device, offsets, sb.block_size)
            yield from _free_extents(device, sb, group, below, level - 1)


def _node(sb: _Super, group: _Group, raw: bytes, level: int) -> tuple[int, ...]:
    """The records of a leaf, or the blocks that an inner node points to. Raises _Disagrees.

    Header: 0 magic, 4 level, 6 count, 8 siblings; version 5 adds 16 sector, 48 group, 52 checksum.
    """
    five = sb.version == VERSION_5
    magic, found, count = struct.unpack_from(">4sHH", raw)
    head = 56 if five else 16
    room = (len(raw) - head) // (12 if level else 8)
    least = 0 if group.levels == 1 else 1
    if magic != (b"AB3B" if five else b"ABTB") or found != level or not least <= count <= room:
        raise _Disagrees("its free-space tree has a damaged block")
    if five and (struct.unpack_from(">I", raw, 48)[0] != group.number or not _intact(raw, 52)):
        raise _Disagrees("its free-space tree has a block with a wrong checksum")
    if not level:
        return struct.unpack_from(f">{2 * count}I", raw, head)
    blocks = struct.unpack_from(f">{count}I", raw, head + 8 * room)
    if max(blocks) >= group.length:
        raise _Disagrees("its free-space tree points outside of it")
    return blocks
