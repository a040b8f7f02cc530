"""NTFS: the file $Bitmap, found through the boot sector and the runs of the master file table itself.

Source: `include/ntfs-3g/layout.h`, `libntfs-3g/{bootsect,volume,logfile}.c` of ntfs-3g; offsets are bytes.
The bitmap is longer than the volume and its padding bits are set; the backup boot sector stands behind the
last cluster, in the last sector of the partition, and no bit stands for it. There is no counter of free
clusters on the disk, so what is checked is that the bitmap knows of the system files themselves. A volume
that is marked dirty, or whose log holds changes that are not in its files yet, is refused: the bitmap may
be older than the files. Windows' fast startup leaves it so.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from p2v.disk.device import BlockDevice
from p2v.disk.maps import ntfs_record
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.ntfs_record import ATTRIBUTE_LIST, DATA, MAX_RUNS, VOLUME_INFORMATION, Attribute, Run
from p2v.disk.maps.runs import Union, bit_runs, gap_units, in_pieces, read_all
from p2v.model import Extent, KiB

MFT, MIRROR, LOG_FILE, VOLUME, BITMAP = 0, 1, 2, 3, 6
BOOT_SIZE = 8 * KiB
MAX_CLUSTER = 2048 * KiB
MAX_LIST = 256 * KiB
"""The largest attribute list that Windows writes."""
MAX_EXTENSIONS = 4096
VOLUME_DIRTY = 0x0001
LOG_CLEAN = 0x0002
NO_CLIENT = 0xFFFF
LOG_HEAD = 128 * KiB
"""Two restart pages of the largest size."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Geometry: sizes in bytes, `mft` and `mirror` in clusters."""

    start: int
    cluster_size: int
    clusters: int
    record_size: int
    mft: int
    mirror: int

    @property
    def end(self) -> int:
        return self.start + self.clusters * self.cluster_size


def used_extents(device: BlockDevice, start: int, length: int) -> list[Extent]:
    """Used clusters of the volume at `start`, as bytes of the device. Raises MapUnknown, TransportError."""
    volume = read_boot(device, start, length)
    table = master_table(device, volume)
    if not device.live:
        _check_clean(device, volume, table)
    bitmap = find_attribute(device, volume, table, BITMAP, DATA)
    used = Union()
    used.add(start, min(BOOT_SIZE, length))
    for offset, size in _used_ranges(device, volume, bitmap):
        used.add(offset, size)
    _check_own(used, volume, [*table, *bitmap.runs], device)
    used.add(volume.end, start + length - volume.end)
    return used.extents()


def read_boot(device: BlockDevice, start: int, length: int) -> Volume:
    if length < BOOT_SIZE:
        raise MapUnknown("the partition is smaller than a boot sector")
    raw = device.read(start, 512)
    # 11 bytes in a sector, 13 sectors in a cluster, 40 sectors, 48 clusters of $MFT and $MFTMirr, 64
    # clusters in a record.
    sector, per_cluster = struct.unpack_from("<HB", raw, 11)
    sectors, mft, mirror, per_record = struct.unpack_from("<QQQb", raw, 40)
    cluster = sector * (per_cluster if per_cluster <= 128 else 1 << 256 - per_cluster)
    if sector not in (256, 512, 1024, 2048, 4096) or cluster.bit_count() != 1 or cluster > MAX_CLUSTER:
        raise MapUnknown("damaged boot sector")
    record = per_record * cluster if per_record > 0 else 1 << min(-per_record, 63)
    clusters = sectors * sector // cluster
    sane = (
        raw[3:11] == b"NTFS    "
        and record in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
        and 0 < sectors * sector <= length
        and mft + -(-4 * record // cluster) <= clusters
        and mirror + -(-record // cluster) <= clusters
    )
    if not sane:
        raise MapUnknown("damaged boot sector")
    return Volume(start, cluster, clusters, record, mft, mirror)


def master_table(device: BlockDevice, volume: Volume) -> tuple[Run, ...]:
    """The runs of the master file table, as its first record gives them. Its mirror must say the same."""
    copies = [volume.start + lcn * volume.cluster_size for lcn in (volume.mft, volume.mirror)]
    own, mirrored = (
        ntfs_record.with_fixups(raw, b"FILE")
        for raw in read_all(device, [(place, volume.record_size) for place in copies])
    )
    first, second = (one_attribute(list(ntfs_record.attributes(record)), DATA) for record in (own, mirrored))
    if first.resident or not first.runs or first.runs[0] != Run(0, volume.mft, first.runs[0].count):
        raise MapUnknown("the master file table is not where the boot sector says")
    if first.runs != second.runs and not device.live:
        raise MapUnknown("the master file table and its mirror differ")
    _check_runs(volume, first.runs)
    return find_attribute(device, volume, first.runs, MFT, DATA).runs


def _check_runs(volume: Volume, runs: Sequence[Run], vcn: int = 0) -> None:
    """They follow one another from cluster `vcn` of their file."""
    for run in runs:
        if run.vcn != vcn or run.lcn + run.count > volume.clusters:
            raise MapUnknown("a system file with clusters outside the volume, or with a gap")
        vcn += run.count


def one_attribute(found: list[Attribute], kind: int, name_length: int = 0) -> Attribute:
    """The one attribute of a type in a record whose name is so long; by default the one without a name."""
    match [
        attribute for attribute in found if (attribute.type, attribute.name_length) == (kind, name_length)
    ]:
        case [attribute]:
            return attribute
        case _:
            raise MapUnknown("a system file without its content")


def find_attribute(
    device: BlockDevice, volume: Volume, table: Sequence[Run], number: int, kind: int, *, name_length: int = 0
) -> Attribute:
    """An attribute whose name is so long, with all of its runs, joined over the records that an attribute
    list names.

    The table's own runs are found the same way: each piece says where the next record is.
    """
    base = read_record(device, volume, table, number)
    found = list(ntfs_record.attributes(base))
    lists = [attribute for attribute in found if attribute.type == ATTRIBUTE_LIST]
    if not lists:
        attribute = one_attribute(found, kind, name_length)
        _check_runs(volume, attribute.runs)
        return attribute
    listed = ntfs_record.listed_records(_list_content(device, volume, lists[0]), kind, name_length)
    if not listed or len(listed) > MAX_EXTENSIONS:
        raise MapUnknown("an attribute list without the content of a system file")
    pieces: list[Attribute] = []
    runs: list[Run] = []
    for record in listed:
        known = runs if number == MFT and runs else table
        raw = base if record == number else read_record(device, volume, known, record)
        pieces.append(one_attribute(list(ntfs_record.attributes(raw)), kind, name_length))
        _check_runs(volume, pieces[-1].runs, runs[-1].vcn + runs[-1].count if runs else 0)
        runs += pieces[-1].runs
        if len(runs) > MAX_RUNS:
            raise MapUnknown("a system file in too many pieces")
    return replace(pieces[0], runs=tuple(runs))


def _list_content(device: BlockDevice, volume: Volume, attribute: Attribute) -> bytes:
    if attribute.resident:
        return attribute.content
    _check_runs(volume, attribute.runs)
    if attribute.size > MAX_LIST:
        raise MapUnknown("an attribute list of impossible size")
    return b"".join(read_all(device, places(volume, attribute.runs, 0, attribute.size)))


def read_record(device: BlockDevice, volume: Volume, table: Sequence[Run], number: int) -> bytes:
    ranges = places(volume, table, number * volume.record_size, volume.record_size)
    return ntfs_record.with_fixups(b"".join(read_all(device, ranges)), b"FILE")


def places(volume: Volume, runs: Sequence[Run], offset: int, length: int) -> list[tuple[int, int]]:
    """Where `length` bytes of a file from `offset` stand on the device."""
    ranges = []
    at = bisect_right(runs, offset // volume.cluster_size, key=lambda run: run.vcn)
    for run in islice(runs, max(at - 1, 0), None):
        if run.vcn * volume.cluster_size >= offset + length:
            break
        first, last = run.vcn * volume.cluster_size, (run.vcn + run.count) * volume.cluster_size
        start, end = max(offset, first), min(offset + length, last)
        if start < end:
            ranges.append((volume.start + run.lcn * volume.cluster_size + start - first, end - start))
    if sum(size for _, size in ranges) != length:
        raise MapUnknown("a system file is shorter than it must be")
    return ranges


def _check_clean(device: BlockDevice, volume: Volume, table: tuple[Run, ...]) -> None:
    if is_dirty(device, volume, table):
        raise MapUnknown("it is marked dirty: Windows wants to check it")
    if not has_clean_log(device, volume, table):
        raise MapUnknown("its log holds changes that its files do not (hibernated, or not shut down cleanly)")


def is_dirty(device: BlockDevice, volume: Volume, table: tuple[Run, ...]) -> bool:
    """Whether Windows wants to check the volume before anything else is done with it."""
    information = one_attribute(
        list(ntfs_record.attributes(read_record(device, volume, table, VOLUME))), VOLUME_INFORMATION
    )
    # 8 version, 10 flags.
    content = information.content
    return len(content) < 12 or bool(struct.unpack_from("<H", content, 10)[0] & VOLUME_DIRTY)


def has_clean_log(device: BlockDevice, volume: Volume, table: tuple[Run, ...]) -> bool:
    """Whether every change that the log holds is in the files too."""
    log = find_attribute(device, volume, table, LOG_FILE, DATA)
    head = min(LOG_HEAD, log.size)
    return _log_is_clean(b"".join(read_all(device, places(volume, log.runs, 0, head))))


def _log_is_clean(raw: bytes) -> bool:
    """The newer of the two restart pages says so, or the log is empty (all ones)."""
    if not raw.strip(b"\xff"):
        return True
    pages = [page for page in _restart_pages(raw) if page]
    if not pages:
        return False
    # Of the restart area: 0 current sequence number, 12 first client in use, 14 flags.
    newest = max(pages, key=lambda page: int(struct.unpack_from("<Q", page)[0]))
    client, flags = struct.unpack_from("<HH", newest, 12)
    return client == NO_CLIENT or bool(flags & LOG_CLEAN)


def _restart_pages(raw: bytes) -> Iterator[bytes]:
    """The restart areas of the pages that are intact; the second page stands one page behind the first."""
    sizes = [512 << shift for shift in range(8)]
    for at in (0, *sizes):
        if raw[at : at + 4] not in (b"RSTR", b"CHKD") or at + 32 > len(raw):
            continue
        # 16 size of a page, 24 offset of the restart area.
        size, offset = struct.unpack_from("<I4xH", raw, at + 16)
        if size not in sizes or (at and at != size) or at + size > len(raw) or offset + 16 > size:
            continue
        try:
            page = ntfs_record.with_fixups(raw[at : at + size], raw[at : at + 4])
        except MapUnknown:
            continue
        yield page[offset:]


def _used_ranges(device: BlockDevice, volume: Volume, bitmap: Attribute) -> Iterator[tuple[int, int]]:
    """Used clusters as bytes of the device; padding bits behind the last cluster say nothing."""
    gap = gap_units(volume.cluster_size)
    first = 0
    for raw in _bitmap_pieces(device, volume, bitmap):
        for at, count in bit_runs(raw, min(len(raw) * 8, volume.clusters - first), gap=gap):
            yield volume.start + (first + at) * volume.cluster_size, count * volume.cluster_size
        first += len(raw) * 8


def _bitmap_pieces(device: BlockDevice, volume: Volume, bitmap: Attribute) -> Iterator[bytes]:
    needed = -(-volume.clusters // 8)
    if min(bitmap.size, bitmap.initialised) < needed:
        raise MapUnknown("the bitmap is too short")
    if bitmap.resident:
        yield bitmap.content[:needed]
        return
    for piece in places(volume, bitmap.runs, 0, needed):
        for batch in in_pieces(*piece):
            yield from read_all(device, batch)


def _check_own(used: Union, volume: Volume, runs: Sequence[Run], device: BlockDevice) -> None:
    """The bitmap must know of the table and of itself; on a running machine it may lag behind them."""
    own = [
        (volume.start + run.lcn * volume.cluster_size, run.count * volume.cluster_size)
        for run in (*runs, Run(0, volume.mirror, -(-4 * volume.record_size // volume.cluster_size)))
    ]
    if device.live:
        for start, size in own:
            used.add(start, size)
    elif not used.covers(own):
        raise MapUnknown("the bitmap calls system files free")
