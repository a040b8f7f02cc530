"""Partition tables of another shape, made by libparted on a stub: a sparse file that has the table alone.

Only what libparted changed there is taken over, so that boot code, gaps and everything that it does not know
stays byte for byte. The result is read again with our own reader before anything relies on it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2v.disk.device import BlockDevice, open_file_device
from p2v.disk.layout import Table, TableDamaged, read_table
from p2v.errors import GuestError, TargetError
from p2v.model import Disk, MiB, TableKind
from p2v.restore.gpt import Patch, rehome
from p2v.restore.relayout import Place, Relayout

SECTOR_VARIABLE = "PARTED_SECTOR_SIZE"
"""What libparted takes for the sectors of a file (init_file in libparted/arch/linux.c)."""
MBR_ENTRIES = (446, 510)
MAX_HEAD = 64 * MiB
MAX_GPT_HEAD = 2 * MiB
"""Headers and the most entries that our reader takes: 1024 of 1 KiB."""


def new_table(device: BlockDevice, disk: Disk, layout: Relayout) -> list[Patch]:
    """What must be written on a copy of `disk` so that its table says what `layout` does.

    `device` is the copy; it may be longer than the disk. Raises GuestError where the table is damaged,
    TargetError where libparted does not make what was planned.
    """
    if disk.table is TableKind.NONE:
        return []
    table = _read(device, disk)
    try:
        return _made(device, disk, layout, table)
    except OSError as error:
        raise TargetError(
            f"The partition table of {disk.path} cannot be made anew: {error.strerror}",
            hint="TMPDIR must be on a filesystem that takes sparse files as long as the disk",
        ) from error


def _made(device: BlockDevice, disk: Disk, layout: Relayout, table: Table) -> list[Patch]:
    with _stub(device, table, max(device.size, layout.size)) as stub:
        if disk.table is TableKind.GPT:
            _rehome(stub, disk.sector_size, stub.stat().st_size)
        if layout.changed:
            with _boot_code(stub):
                _edit(stub, layout, disk.sector_size)
        if disk.table is TableKind.GPT:
            _rehome(stub, disk.sector_size, layout.size)
        os.truncate(stub, layout.size)
        with open_file_device(stub, sector_size=disk.sector_size) as edited:
            made = _checked(edited, disk, layout)
            return list(_changes(edited, device, disk, made))


def _read(device: BlockDevice, disk: Disk) -> Table:
    try:
        table = read_table(device)
    except TableDamaged as damaged:
        raise GuestError(f"The partition table of {disk.path} is damaged: {damaged}") from damaged
    if table.kind is not disk.table or any(length > MAX_HEAD for _, length in table.metadata[:1]):
        raise GuestError(f"The partition table of {disk.path} is not the one that was planned with")
    return table


def _places(table: Table) -> tuple[tuple[int, int], ...]:
    """What the table itself occupies; of a GPT the front, from which the backup is made."""
    return table.metadata[:1] if table.kind is TableKind.GPT else table.metadata


@contextmanager
def _stub(device: BlockDevice, table: Table, size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p2v-table-") as folder:
        stub = Path(folder) / "disk"
        with stub.open("wb") as file:
            file.truncate(size)
            for start, length in _places(table):
                file.seek(start)
                file.write(device.read(start, length))
        yield stub


@contextmanager
def _boot_code(stub: Path) -> Iterator[None]:
    """What stands before the entries is as it was afterwards.

    libparted puts boot code of its own, and a signature, onto a disk that seems to have no boot code.
    """
    with stub.open("r+b") as file:
        before = file.read(MBR_ENTRIES[0])
        file.seek(0)
        file.write(b"\xeb")
    yield
    with stub.open("r+b") as file:
        file.write(before)


def _rehome(stub: Path, sector: int, size: int) -> None:
    with stub.open("r+b") as file:
        head = file.read(MAX_GPT_HEAD)
        for offset, content in rehome(head, sector, size):
            file.seek(offset)
            file.write(content)


def _changes(edited: BlockDevice, device: BlockDevice, disk: Disk, made: Table) -> Iterator[Patch]:
    """Sectors that differ; of the first one of an MBR the entries alone."""
    sector = disk.sector_size
    for start, length in made.metadata:
        for offset in range(start, start + length, sector):
            new = edited.read(offset, sector)
            old = device.read(offset, sector) if offset + sector <= device.size else b""
            if offset == 0 and disk.table is TableKind.MBR:
                yield MBR_ENTRIES[0], new[slice(*MBR_ENTRIES)]
            elif new != old:
                yield offset, new


def _checked(edited: BlockDevice, disk: Disk, layout: Relayout) -> Table:
    """The table that was made. Raises TargetError where it is not the planned one."""
    try:
        made = read_table(edited)
    except TableDamaged as damaged:
        raise TargetError(f"libparted made a damaged table for {disk.path}: {damaged}") from damaged
    expected = {
        (place.number, place.start, place.length, place.partition.type_id, place.partition.uuid)
        for place in layout.places
    }
    found = {(one.number, one.start, one.length, one.type_id, one.uuid) for one in made.partitions}
    if made.kind is not disk.table or made.id != disk.table_id or found != expected:
        raise TargetError(
            f"libparted did not make the table that was planned for {disk.path}",
            hint="Choose a disk of the same size as the old one, then grow the partition there",
        )
    return made


# libparted


def _edit(stub: Path, layout: Relayout, sector: int) -> None:
    """Give every partition its new place, in an order in which none ever overlaps another."""
    parted = _parted()
    with _sectors_of(sector):
        try:
            disk = parted.newDisk(parted.getDevice(str(stub)))
            _Editor(parted, disk, layout, sector).run()
            disk.commitToDevice()
        except (parted.PartedException, OSError, ValueError) as error:
            raise TargetError(f"libparted cannot change the partition table: {error}") from error


def _parted() -> Any:
    try:
        import parted
    except ImportError as error:
        raise TargetError(
            "pyparted is needed to change partition tables", hint="Try: sudo apt install python3-parted"
        ) from error
    return parted


@contextmanager
def _sectors_of(size: int) -> Iterator[None]:
    before = os.environ.get(SECTOR_VARIABLE)
    os.environ[SECTOR_VARIABLE] = str(size)
    try:
        yield
    finally:
        os.environ.pop(SECTOR_VARIABLE)
        if before is not None:
            os.environ[SECTOR_VARIABLE] = before


class _Editor:
    """One disk of libparted; numbers and places there are in sectors."""

    def __init__(self, parted: Any, disk: Any, layout: Relayout, sector: int) -> None:
        self._parted = parted
        self._disk = disk
        self._layout = layout
        self._sector = sector
        self._extended: Any = disk.getExtendedPartition() if disk.type == "msdos" else None

    def run(self) -> None:
        growing = self._layout.difference > 0
        places = sorted(self._layout.places, key=lambda place: place.start, reverse=growing)
        if self._extended is None:
            self._move_all(places)
            return
        start, end = self._extended_place()
        logical = [place for place in places if place.number > 4]
        primary = [place for place in places if place.number <= 4]
        # The container is as wide as both its places while what is in it moves.
        now = self._extended.geometry
        if growing:
            self._move_all([place for place in primary if place.partition.start > now.end * self._sector])
            self._set(self._extended, now.start, end)
            self._move_all(logical)
            self._set(self._extended, start, end)
            self._move_all(primary)
        else:
            self._move_all([place for place in primary if place.partition.start < now.start * self._sector])
            self._set(self._extended, start, now.end)
            self._move_all(logical)
            self._set(self._extended, start, end)
            self._move_all(primary)

    def _extended_place(self) -> tuple[int, int]:
        """Where the container of the logical partitions ends up, first and last sector."""
        now, changed = self._extended.geometry, self._layout.changed
        difference = self._layout.difference // self._sector
        at = changed.partition.start // self._sector if changed else 0
        if now.end < at or not changed:
            return now.start, now.end
        inside = changed.number > 4
        return now.start + (0 if inside else difference), now.end + difference

    def _move_all(self, places: Sequence[Place]) -> None:
        known = {one.number: one for one in self._disk.partitions}
        for place in places:
            start = place.start // self._sector
            self._set(known[place.number], start, start + place.length // self._sector - 1)

    def _set(self, partition: Any, start: int, end: int) -> None:
        if (partition.geometry.start, partition.geometry.end) == (start, end):
            return
        exact = self._parted.Geometry(device=self._disk.device, start=start, end=end)
        constraint = self._parted.Constraint(exactGeom=exact)
        self._disk.setPartitionGeometry(partition=partition, constraint=constraint, start=start, end=end)
