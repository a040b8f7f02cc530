"""Where the partitions of an image lie on a disk of another size: pure decisions, on what was seen of both.

One partition takes the whole difference; what lies behind it moves by as much. Everything keeps its number,
its type and its identifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from p2v.errors import PlanRefused
from p2v.model import Disk, Filesystem, Finding, KiB, MiB, Partition, Severity, TableKind
from p2v.restore.model import DiskMove, Resize

EXT = frozenset({"ext2", "ext3", "ext4"})
LVM = "LVM2_member"
LUKS = "crypto_LUKS"
ARRAY = "linux_raid_member"
XFS = "xfs"
SHRINKABLE = EXT | {"btrfs", "ntfs", LVM}
GROWABLE = SHRINKABLE | {XFS, LUKS}
RECOVERY = ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "27")
"""Windows' own recovery: an NTFS that nobody wants larger."""
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
BACKUP_SIZE = 32 * KiB
"""What the end of a disk keeps for the backup of a GPT: 128 entries of 128 bytes and a header in a sector."""
MBR_SECTORS = 0xFFFF_FFFF
SLACK = 64 * MiB
"""What a filesystem needs beyond its used bytes: a journal, metadata that follows the size."""
LEAST_BTRFS = 256 * MiB
LARGEST_EXTENT = 32 * MiB
"""Of LVM, commonly; the size of a volume is a whole number of them."""
OVERHEAD = {"btrfs": 1.25, "ntfs": 1.15}
USUAL_OVERHEAD = 1.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition goes. Number 0 stands for a filesystem on a disk without partitions."""

    partition: Partition
    start: int
    length: int

    @property
    def number(self) -> int:
        return self.partition.number

    @property
    def moved(self) -> int:
        """Bytes that it moves by, down where negative."""
        return self.start - self.partition.start


@dataclass(frozen=True, slots=True)
class Relayout:
    """The disk in its new size. `changed` is the place that got another length, None where none did."""

    size: int
    places: tuple[Place, ...]
    changed: Place | None = None

    @property
    def moved_size(self) -> int:
        """Bytes that have to be written to move what moves; the most that it can be."""
        moved = (place.partition for place in self.places if place.moved)
        return sum(_used_of(partition) for partition in moved)

    @property
    def difference(self) -> int:
        return self.changed.length - self.changed.partition.length if self.changed else 0


def _used_of(partition: Partition) -> int:
    used = partition.filesystem.used if partition.filesystem else None
    return partition.length if used is None else used


def fits(move: DiskMove) -> Finding | None:
    """Why the image cannot go onto its disk as it is asked to, with numbers; None where it can."""
    try:
        relayout(move)
    except PlanRefused as refused:
        return Finding(Severity.BLOCKER, refused.message, refused.hint)
    return None


def relayout(move: DiskMove) -> Relayout:
    """The new places of everything. Raises PlanRefused where there is none."""
    source, target = move.source.disk, move.target
    _check_sectors(source, target)
    _check_array(source, target)
    places = tuple(Place(one, one.start, one.length) for one in _partitions(source))
    difference = _usable_end(source, target) - max((place.partition.end for place in places), default=0)
    match move.resize:
        case Resize.GROW if difference >= MiB:
            chosen = _to_grow(places, move.partition)
            return (
                _changed(target.size, places, chosen, difference // MiB * MiB)
                if chosen
                else _kept(target, places)
            )
        case Resize.SHRINK if difference < 0:
            needed = -difference + difference % MiB
            return _changed(target.size, places, _to_shrink(move, places, needed), -needed)
        case _ if difference < 0:
            raise _too_small(move, -difference)
        case _:
            return _kept(target, places)


def _check_sectors(source: Disk, target: Disk) -> None:
    if source.sector_size != target.sector_size:
        raise PlanRefused(
            f"{source.path} was laid out in sectors of {source.sector_size} bytes, and {_title(target)} has"
            f" sectors of {target.sector_size}: its partition table, boot loader and filesystems count in the"
            " old ones",
            hint=f"Choose a disk with (emulated) sectors of {source.sector_size} bytes, or set it to them",
        )


def _check_array(source: Disk, target: Disk) -> None:
    if source.size != target.size and source.filesystem and source.filesystem.kind == ARRAY:
        raise PlanRefused(
            f"All of {source.path} belongs to a RAID array, whose metadata may stand at its end, and"
            f" {_title(target)} has another size",
            hint="Choose a disk of the same size",
        )


def _title(disk: Disk) -> str:
    return f"{disk.path} ({disk.serial})" if disk.serial else disk.path


def _partitions(disk: Disk) -> tuple[Partition, ...]:
    """In the order of the disk; a disk without a table is one."""
    if disk.table is TableKind.NONE:
        return (Partition(0, 0, disk.size, "", filesystem=disk.filesystem),)
    return tuple(sorted(disk.partitions, key=lambda one: one.start))


def _usable_end(source: Disk, target: Disk) -> int:
    match source.table:
        case TableKind.GPT:
            return (target.size - BACKUP_SIZE) // target.sector_size * target.sector_size
        case TableKind.MBR:
            return min(target.size, MBR_SECTORS * target.sector_size)
        case TableKind.NONE:
            return target.size


def _kept(target: Disk, places: tuple[Place, ...]) -> Relayout:
    return Relayout(target.size, places)


def _changed(size: int, places: Sequence[Place], chosen: Place, difference: int) -> Relayout:
    """`chosen` with another length, and all behind it moved."""
    changed = replace(chosen, length=chosen.length + difference)
    moved = tuple(
        replace(place, start=place.start + difference) if place.start > chosen.start else place
        for place in places
    )
    for place in moved:
        if place.moved and place.partition.type_id == BIOS_BOOT:
            raise PlanRefused(
                f"Partition {place.number} holds the second stage of a boot loader, which is found by its"
                f" place, and would have to move: it stands behind partition {chosen.number}",
                hint="Choose a partition behind it",
            )
    return Relayout(
        size, tuple(changed if place.start == chosen.start else place for place in moved), changed
    )


def _kind(place: Place) -> str:
    return place.partition.filesystem.kind if place.partition.filesystem else ""


def _to_grow(places: Sequence[Place], number: int) -> Place | None:
    """The chosen partition, else the last that holds something that can grow, None where there is none."""
    if number:
        chosen = _chosen(places, number)
        if _kind(chosen) not in GROWABLE:
            raise PlanRefused(
                f"Partition {number} holds {_kind(chosen) or 'nothing known'}, which cannot be made larger",
                hint=_choices(places, GROWABLE),
            )
        return chosen
    return next((place for place in reversed(places) if _is_worth_it(place, places)), None)


def _is_worth_it(place: Place, places: Sequence[Place]) -> bool:
    """Whether to grow a partition unasked: not where more has to move than is in it (swap hardly moves)."""
    if _kind(place) not in GROWABLE or place.partition.type_id in RECOVERY:
        return False
    behind = (one for one in places if one.start > place.start and _kind(one) != "swap")
    return sum(one.length for one in behind) <= place.length


def _chosen(places: Sequence[Place], number: int) -> Place:
    found = next((place for place in places if place.number == number), None)
    if found is None:
        raise PlanRefused(f"There is no partition {number} on the image")
    return found


def _choices(places: Sequence[Place], kinds: frozenset[str]) -> str:
    found = ", ".join(f"{place.number} ({_kind(place)})" for place in places if _kind(place) in kinds)
    return f"Partitions that can: {found}" if found else "No partition of this image can"


def _to_shrink(move: DiskMove, places: Sequence[Place], needed: int) -> Place:
    """The chosen partition, else the last with enough free space in it."""
    candidates = [_chosen(places, move.partition)] if move.partition else list(reversed(places))
    for place in candidates:
        if place.length - needed >= least_size(place.partition) > 0:
            return place
    raise _does_not_fit(move, places, candidates, needed)


def least_size(partition: Partition) -> int:
    """Bytes that a partition can be made smaller to, on the safe side; 0 where it cannot, or nobody knows."""
    return least_of(partition.filesystem) if partition.filesystem else 0


def least_of(filesystem: Filesystem) -> int:
    """As `least_size`, of a filesystem; of a physical volume `used` is what cannot go."""
    if filesystem.kind not in SHRINKABLE or filesystem.used is None:
        return 0
    if filesystem.kind == LVM:
        return filesystem.used + 2 * LARGEST_EXTENT
    least = int(filesystem.used * OVERHEAD.get(filesystem.kind, USUAL_OVERHEAD)) + SLACK
    return max(least, LEAST_BTRFS if filesystem.kind == "btrfs" else 0)


def _too_small(move: DiskMove, missing: int) -> PlanRefused:
    return PlanRefused(
        f"{_title(move.target)} is too small: it has {move.target.size} bytes, and what is on"
        f" {move.source.disk.path} ends {missing} bytes behind that",
        hint="Choose a larger disk, or allow it with --shrink",
    )


def _does_not_fit(
    move: DiskMove, places: Sequence[Place], candidates: Sequence[Place], needed: int
) -> PlanRefused:
    reasons = "; ".join(_why(place) for place in sorted(candidates, key=lambda place: place.start))
    return PlanRefused(
        f"{move.source.disk.path} does not fit on {_title(move.target)}: {-(-needed // MiB)} MiB must go, and"
        f" nothing can spare them ({reasons})",
        hint=_choices(places, SHRINKABLE) if move.partition else "Choose a larger disk",
    )


def _why(place: Place) -> str:
    kind, least = _kind(place), least_size(place.partition)
    title = f"partition {place.number}" if place.number else "the disk"
    if kind == XFS:
        return f"{title}: XFS cannot be made smaller"
    if least:
        spare = max(0, place.length - least) // MiB
        return f"{title}: {kind} needs {-(-least // MiB)} of {place.length // MiB} MiB and can spare {spare}"
    if kind in SHRINKABLE:
        return f"{title}: how much is used of its {kind} is not known"
    return f"{title}: {kind or 'unknown content'} cannot be made smaller"


def overlapping(places: Sequence[Place]) -> bool:
    """Whether two places share a byte."""
    ordered = sorted(places, key=lambda place: place.start)
    return any(one.start + one.length > other.start for one, other in pairwise(ordered))
