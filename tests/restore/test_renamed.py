"""What Windows calls the partitions of a disk whose restored copy is of another size."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

from conversions.nt.disk_ids import MbrPlace, Move
from p2v.model import GiB, MiB, Partition, TableKind
from p2v.restore.prepare import _renamed
from p2v.restore.relayout import relayout
from tests.restore.moves import move, partition


def renamed(table: TableKind, name: str) -> tuple[Move, ...]:
    """Of an NTFS that grows by a GiB, with a small partition behind it."""
    parts: tuple[Partition, ...] = (
        partition(1, 1, 900, "ntfs", type_id="07"),
        partition(2, 901, 50, "ntfs", type_id="27"),
    )
    if table is TableKind.GPT:
        parts = tuple(replace(part, uuid=str(UUID(int=part.number))) for part in parts)
    one = move(*parts, table=table, number=1)
    disk = replace(one.source.disk, table_id=name)
    one = replace(one, source=replace(one.source, disk=disk))
    plan = SimpleNamespace(moves=(one,))
    return _renamed(plan, [SimpleNamespace(layout=relayout(one))])  # type: ignore[arg-type, list-item]


def test_with_an_mbr_windows_counts_bytes_from_the_start() -> None:
    (found,) = renamed(TableKind.MBR, "b3eba8f1")
    assert found.old == MbrPlace(0xB3EBA8F1, 901 * MiB)
    assert isinstance(found.new, MbrPlace)
    assert found.new.offset > 901 * MiB + GiB - 2 * MiB


def test_with_a_gpt_names_stay() -> None:
    assert renamed(TableKind.GPT, str(UUID(int=99))) == ()
