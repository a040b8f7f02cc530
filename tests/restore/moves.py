"""Disks as values: an image of which nothing exists, and the disk that it goes to."""

from __future__ import annotations

from pathlib import Path

from p2v.model import Disk, Filesystem, GiB, ImageFormat, MiB, Partition, TableKind
from p2v.restore.model import DiskMove, Resize, SourceDisk


def partition(
    number: int, start: int, length: int, kind: str = "ext4", *, used: int | None = 0, type_id: str = "83"
) -> Partition:
    """MiB."""
    space = Filesystem(kind, length * MiB, None if used is None else used * MiB) if kind else None
    return Partition(number, start * MiB, length * MiB, type_id, f"id-{number}", space)


def move(
    *partitions: Partition,
    size: int = GiB,
    target: int = 2 * GiB,
    resize: Resize = Resize.GROW,
    number: int = 0,
    table: TableKind = TableKind.MBR,
    sectors: int = 512,
) -> DiskMove:
    source = Disk("disk0.raw", size, table=table, partitions=partitions)
    metal = Disk("/dev/sda", target, serial="S1", sector_size=sectors)
    return DiskMove(0, SourceDisk(Path("disk0.raw"), ImageFormat.RAW, source), metal, resize, number)
