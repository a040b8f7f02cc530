"""FAT12, FAT16, FAT32: every entry of the file allocation table that is not zero, bad clusters included.

Source: Microsoft "FAT: General Overview of On-Disk Format" 1.03; offsets are bytes in the boot sector. The
boot sector and its backup, FSInfo, all tables and the root directory of FAT12/16 stand before the first
cluster, and all of that is copied. The counters in FSInfo are hints that may legally be wrong: nothing here
believes them. A volume that was not unmounted cleanly is refused, because directories may name clusters
that the table does not yet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.runs import Union, digit_runs, entry_digits, gap_units, in_pieces, read_all
from p2v.model import Extent

FIRST_CLUSTER = 2
MAX_CLUSTERS_12 = 4084
MAX_CLUSTERS_16 = 65524
MAX_CLUSTERS_32 = 0x0FFFFFF4
DIRTY_STATE = 0x01
"""In the byte of the boot sector that Windows NT and Linux set while the volume is mounted."""


@dataclass(frozen=True, slots=True)
class _Boot:
    """Geometry in bytes of the device. `tables` are the tables that count: all, or the active one."""

    start: int
    bits: int
    media: int
    state: int
    cluster_size: int
    clusters: int
    data: int
    tables: tuple[int, ...]
    table_size: int
    root_cluster: int

    @property
    def data_end(self) -> int:
        return self.data + self.clusters * self.cluster_size

    @property
    def entries(self) -> int:
        return self.clusters + FIRST_CLUSTER

    @property
    def needed(self) -> int:
        """Bytes of a table that say something about a cluster."""
        return -(-self.entries * self.bits // 8)


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used clusters of the filesystem at `start`, as bytes of the device. Raises MapUnknown,
    TransportError.
    """
    boot = _read_boot(device, start, length)
    _check_state(device, boot)
    used = Union()
    used.add(start, boot.data - start)
    for cluster, count in _used_clusters(device, boot):
        used.add(boot.data + (cluster - FIRST_CLUSTER) * boot.cluster_size, count * boot.cluster_size)
    used.add(boot.data_end, start + length - boot.data_end)
    if boot.bits == 32 and not used.covers([(_offset(boot, boot.root_cluster), boot.cluster_size)]):
        raise MapUnknown("the root directory stands in a cluster that the table calls free")
    return used.extents()


def _offset(boot: _Boot, cluster: int) -> int:
    return boot.data + (cluster - FIRST_CLUSTER) * boot.cluster_size


def _read_boot(device: BlockDevice, start: int, length: int) -> _Boot:
    if length < 512:
        raise MapUnknown("the partition is smaller than a boot sector")
    raw = device.read(start, 512)
    sector, per_cluster, reserved, fats, root_entries, total_16, media, fat_size_16 = struct.unpack_from(
        "<HBHBHHBH", raw, 11
    )
    total_32, fat_size_32, flags, version, root_cluster = struct.unpack_from("<IIHHI", raw, 32)
    wide = not fat_size_16
    fat_size = (fat_size_32 if wide else fat_size_16) * sector
    sane = (
        sector in (512, 1024, 2048, 4096)
        and per_cluster.bit_count() == 1
        and reserved
        and 1 <= fats <= 4
        and fat_size
        and (not wide or (version == 0 and not root_entries and (flags & 0xF) < fats))
    )
    if not sane:
        raise MapUnknown("damaged boot sector")
    first_fat = start + reserved * sector
    root_size = -(-root_entries * 32 // sector) * sector
    data = first_fat + fats * fat_size + root_size
    total = total_16 or total_32
    clusters = (start + total * sector - data) // (per_cluster * sector)
    boot = _Boot(
        start=start,
        bits=32 if wide else 12 if clusters <= MAX_CLUSTERS_12 else 16,
        media=media,
        state=raw[0x41 if wide else 0x25],
        cluster_size=per_cluster * sector,
        clusters=clusters,
        data=data,
        tables=_tables(first_fat, fat_size, fats, flags if wide else 0),
        table_size=fat_size,
        root_cluster=root_cluster,
    )
    _check_boot(boot, start + length, start + total * sector)
    return boot


def _tables(first: int, size: int, count: int, flags: int) -> tuple[int, ...]:
    """Mirrored tables all count: a cluster is used if one of them says so. Otherwise only the active one is
    kept up to date.
    """
    tables = tuple(first + number * size for number in range(count))
    return tables[flags & 0xF :][:1] if flags & 0x80 else tables


def _check_boot(boot: _Boot, end: int, total_end: int) -> None:
    limit = {12: MAX_CLUSTERS_12, 16: MAX_CLUSTERS_16, 32: MAX_CLUSTERS_32}[boot.bits]
    if not 0 < boot.clusters <= limit or total_end > end or boot.needed > boot.table_size:
        raise MapUnknown("damaged boot sector")
    if boot.bits == 32 and not FIRST_CLUSTER <= boot.root_cluster < boot.entries:
        raise MapUnknown("the root directory is outside the filesystem")


def _check_state(device: BlockDevice, boot: _Boot) -> None:
    """The first two entries: the media byte again, and on FAT16/32 the bits "clean" and "no disk error"."""
    width = {12: 3, 16: 4, 32: 8}[boot.bits]
    head = device.read(boot.tables[0], width)
    if head[0] != boot.media:
        raise MapUnknown("the table does not begin with the media byte of the boot sector")
    clean = not boot.state & DIRTY_STATE
    if boot.bits == 16:
        clean = clean and bool(head[3] & 0x80)
    if boot.bits == 32:
        clean = clean and bool(head[7] & 0x08)
    if not clean and not device.live:
        raise MapUnknown("it was not unmounted cleanly")


def _used_clusters(device: BlockDevice, boot: _Boot) -> Iterator[tuple[int, int]]:
    """Runs (first cluster, count); the two entries in front of the first cluster are not clusters."""
    gap = gap_units(boot.cluster_size)
    first = 0
    for raw in _table_pieces(device, boot):
        digits = _digits_12(raw, boot.entries) if boot.bits == 12 else _digits(raw, boot.bits)
        for at, count in digit_runs(digits, gap=gap):
            cluster = max(first + at, FIRST_CLUSTER)
            end = min(first + at + count, boot.entries)
            if cluster < end:
                yield cluster, end - cluster
        first += len(digits)


def _digits(raw: bytes, bits: int) -> str:
    return entry_digits(raw, bits // 8, 0x0F if bits == 32 else 0xFF)


def _digits_12(raw: bytes, entries: int) -> str:
    """Two entries share three bytes. The whole table is a few KiB."""
    bits = int.from_bytes(raw, "little")
    return "".join("1" if bits >> (12 * number) & 0xFFF else "0" for number in range(entries))


def _table_pieces(device: BlockDevice, boot: _Boot) -> Iterator[bytes]:
    """The table piece by piece, copies of it joined by OR."""
    for batch in in_pieces(0, boot.needed):
        ranges = [(table + at, size) for at, size in batch for table in boot.tables]
        pieces = read_all(device, ranges)
        for number, (_, size) in enumerate(batch):
            copies = pieces[number * len(boot.tables) : (number + 1) * len(boot.tables)]
            yield _joined(copies, size)


def _joined(copies: list[bytes], size: int) -> bytes:
    if all(copy == copies[0] for copy in copies):
        return copies[0]
    bits = 0
    for copy in copies:
        bits |= int.from_bytes(copy, "little")
    return bits.to_bytes(size, "little")
