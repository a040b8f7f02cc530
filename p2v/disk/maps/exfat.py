"""exFAT: the allocation bitmap, found through the root directory.

Source: Microsoft "exFAT file system specification"; offsets are bytes. Both boot regions and the table
stand in front of the cluster heap, and all of that is copied. A volume that was not unmounted cleanly is
refused: without a journal, directories may name clusters that the bitmap does not yet. So is TexFAT, which
has two bitmaps and two tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.runs import Union, bit_runs, gap_units, in_pieces, read_all
from p2v.model import Extent, MiB

FIRST_CLUSTER = 2
MAX_CLUSTERS = 0xFFFFFFF5
END_OF_CHAIN = 0xFFFFFFFF
CHECKED_SECTORS = 11
"""The sectors of a boot region that the checksum in its twelfth sector covers."""
VOLUME_DIRTY = 0x0002
BITMAP_ENTRY = 0x81
END_OF_DIRECTORY = 0x00
MAX_ROOT_SIZE = 16 * MiB
"""The bitmap's entry is among the first three in practice; a root directory without one so far is damaged."""
MAX_ROOT_CLUSTERS = 4096
MAX_JUMPS = 256
"""Breaks in the chain of the bitmap, which formatting tools write in one piece."""


@dataclass(frozen=True, slots=True)
class _Boot:
    """Geometry in bytes of the device."""

    start: int
    table: int
    heap: int
    clusters: int
    cluster_size: int
    root: int

    @property
    def heap_end(self) -> int:
        return self.heap + self.clusters * self.cluster_size

    def offset(self, cluster: int) -> int:
        if not FIRST_CLUSTER <= cluster < self.clusters + FIRST_CLUSTER:
            raise MapUnknown("a cluster outside the filesystem")
        return self.heap + (cluster - FIRST_CLUSTER) * self.cluster_size


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used clusters of the filesystem at `start`, as bytes of the device. Raises MapUnknown,
    TransportError.
    """
    boot = _read_boot(device, start, length)
    pieces = _bitmap_pieces(device, boot)
    used = Union()
    used.add(start, boot.heap - start)
    for offset, size in _used_ranges(device, boot, pieces):
        used.add(offset, size)
    used.add(boot.heap_end, start + length - boot.heap_end)
    own = [*pieces, (boot.offset(boot.root), boot.cluster_size)]
    if not used.covers(own):
        raise MapUnknown("the bitmap calls itself or the root directory free")
    return used.extents()


def _read_boot(device: BlockDevice, start: int, length: int) -> _Boot:
    if length < 24 * 512:
        raise MapUnknown("the partition is smaller than the boot regions")
    raw = device.read(start, 512)
    volume, fat, fat_size, heap, clusters, root, _, revision, flags, shift, cluster_shift, fats = (
        struct.unpack_from("<QIIIIIIHHBBB", raw, 72)
    )
    if not 9 <= shift <= 12 or cluster_shift > 25 - shift or (24 << shift) > length:
        raise MapUnknown("damaged boot sector")
    _check_sum(device.read(start, 12 << shift), 1 << shift)
    if fats != 1:
        raise MapUnknown("TexFAT: there are two tables")
    if flags & VOLUME_DIRTY and not device.live:
        raise MapUnknown("it was not unmounted cleanly")
    sane = (
        revision >> 8 == 1
        and volume << shift <= length
        and fat >= 24
        and fat + fat_size <= heap < volume
        and 0 < clusters <= min(MAX_CLUSTERS, (volume - heap) >> cluster_shift)
        and (clusters + FIRST_CLUSTER) * 4 <= fat_size << shift
        and FIRST_CLUSTER <= root < clusters + FIRST_CLUSTER
    )
    if not sane:
        raise MapUnknown("damaged boot sector")
    return _Boot(
        start, start + (fat << shift), start + (heap << shift), clusters, 1 << (shift + cluster_shift), root
    )


def _check_sum(region: bytes, sector: int) -> None:
    checksum = 0
    for at, byte in enumerate(region[: CHECKED_SECTORS * sector]):
        if at not in (106, 107, 112):  # volume flags and percentage in use change without it
            checksum = ((checksum & 1) << 31 | checksum >> 1) + byte & 0xFFFFFFFF
    if region[CHECKED_SECTORS * sector :] != struct.pack("<I", checksum) * (sector // 4):
        raise MapUnknown("the checksum of the boot region is wrong")


def _next_cluster(device: BlockDevice, boot: _Boot, cluster: int) -> int:
    return int(struct.unpack("<I", device.read(boot.table + 4 * cluster, 4))[0])


def _bitmap_pieces(device: BlockDevice, boot: _Boot) -> list[tuple[int, int]]:
    """Where the bitmap stands: (offset, length) in order, its needed part only."""
    first, size = _bitmap_entry(device, boot)
    needed = -(-boot.clusters // 8)
    if size < needed:
        raise MapUnknown("the bitmap is too short")
    pieces = []
    for cluster, count in _bitmap_chain(device, boot, first, -(-needed // boot.cluster_size)):
        last = boot.offset(cluster + count - 1) + boot.cluster_size
        length = min(last - boot.offset(cluster), needed)
        pieces.append((boot.offset(cluster), length))
        needed -= length
    return pieces


def _bitmap_entry(device: BlockDevice, boot: _Boot) -> tuple[int, int]:
    """First cluster and size of the allocation bitmap."""
    cluster = boot.root
    for _ in range(min(MAX_ROOT_CLUSTERS, max(1, MAX_ROOT_SIZE // boot.cluster_size))):
        raw = device.read(boot.offset(cluster), min(boot.cluster_size, MiB))
        for at in range(0, len(raw), 32):
            if raw[at] == BITMAP_ENTRY and not raw[at + 1] & 1:
                # 20 first cluster, 24 length.
                first, size = struct.unpack_from("<IQ", raw, at + 20)
                return first, size
            if raw[at] == END_OF_DIRECTORY:
                raise MapUnknown("the root directory names no bitmap")
        cluster = _next_cluster(device, boot, cluster)
    raise MapUnknown("the root directory names no bitmap")


def _bitmap_chain(device: BlockDevice, boot: _Boot, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Runs (first cluster, count) of the bitmap's chain in the table, `count` clusters in all."""
    cluster = first
    for _ in range(MAX_JUMPS):
        boot.offset(cluster)
        run, following = _contiguous(device, boot, cluster, count)
        yield cluster, run
        count -= run
        if count <= 0:
            return
        cluster = following
    raise MapUnknown("the chain of the bitmap is broken")


def _contiguous(device: BlockDevice, boot: _Boot, cluster: int, count: int) -> tuple[int, int]:
    """How many clusters from `cluster` follow one another, at most `count`, and what comes after them."""
    step = min(count, boot.clusters + FIRST_CLUSTER - cluster, MiB // 4)
    raw = device.read(boot.table + 4 * cluster, 4 * step)
    for run, (following,) in enumerate(struct.iter_unpack("<I", raw), start=1):
        if following != cluster + run or run == step:
            return run, following
    raise MapUnknown("the chain of the bitmap is broken")


def _used_ranges(
    device: BlockDevice, boot: _Boot, pieces: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    gap = gap_units(boot.cluster_size)
    first = FIRST_CLUSTER
    end = boot.clusters + FIRST_CLUSTER
    for piece in pieces:
        for batch in in_pieces(*piece):
            for raw in read_all(device, batch):
                for at, count in bit_runs(raw, min(len(raw) * 8, end - first), gap=gap):
                    yield boot.offset(first + at), count * boot.cluster_size
                first += len(raw) * 8
