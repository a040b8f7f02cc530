"""Which grade of consistency the copy of a machine may reach, and what is in the way of a better one.

Pure decisions, made for the plan and again, with what is seen then, for the capture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2v.errors import PlanRefused
from p2v.model import (
    Consistency,
    ConsistencyWish,
    LogicalVolume,
    Machine,
    MiB,
    MountedFilesystem,
    VolumeGroup,
)

CAN_FREEZE = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2", "gfs2", "ocfs2"}
)
"""Filesystems that the kernel can freeze (`freeze_fs` or `freeze_super` in their super_operations)."""

READ_TWICE = frozenset({"vfat", "msdos", "exfat"})
"""Filesystems that cannot be frozen, but are small and hardly ever written: an EFI system partition."""

BESIDE = ("/boot", "/boot/efi", "/boot/EFI", "/efi")
"""What may stand beside LVM and be frozen while LVM makes a snapshot, which needs nothing of it."""

SHADOWED = frozenset({"NTFS", "REFS"})
"""Filesystems of which Windows makes snapshots; names as Windows writes them, in capitals."""

WINDOWS_VOLUME = "\\\\?\\Volume{"
"""How the name of a volume of a Windows begins; no name that device-mapper gives does."""

SNAPSHOT_SHARE = 0.1
"""Part of a volume for which a snapshot needs room at least: what may be written while it is copied."""

SMALLEST_SNAPSHOT = 64 * MiB


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """A volume of which a snapshot is made, and the bytes for what is written to it meanwhile."""

    volume: LogicalVolume
    size: int


def choose_consistency(machine: Machine, wish: ConsistencyWish) -> tuple[Consistency, tuple[str, ...]]:
    """The best grade that may be reached with the disks of this machine, and why it is no better.

    Raises PlanRefused where the wish cannot be fulfilled.
    """
    if not machine.live or all(disk.idle for disk in machine.disks):
        return Consistency.OFFLINE, ()
    if wish is ConsistencyWish.FUZZY:
        return Consistency.FUZZY, ()
    no_snapshot, no_freeze = against_snapshots(machine), against_freezing(machine)
    match wish:
        case ConsistencyWish.SNAPSHOT if no_snapshot:
            raise _refused(f"No snapshots can be made of {machine.hostname}", no_snapshot)
        case ConsistencyWish.FREEZE if no_freeze:
            raise _refused(f"The filesystems of {machine.hostname} cannot be frozen", no_freeze)
        case ConsistencyWish.SNAPSHOT:
            return Consistency.SNAPSHOT, ()
        case ConsistencyWish.FREEZE:
            return Consistency.FROZEN, ()
    if not no_snapshot or not no_freeze:
        return Consistency.FROZEN if no_snapshot else Consistency.SNAPSHOT, ()
    # A Windows never freezes, so that what keeps it from snapshots is what is worth knowing.
    return Consistency.FUZZY, no_snapshot if has_shadows(machine) else no_freeze


def _refused(what: str, reasons: Sequence[str]) -> PlanRefused:
    return PlanRefused(
        f"{what}: {'; '.join(reasons)}", hint="To take the best that works: --consistency auto"
    )


def mounted_on(machine: Machine) -> tuple[MountedFilesystem, ...]:
    """What is mounted for writing on the disks of the machine."""
    paths = {disk.path for disk in machine.disks}
    return tuple(one for one in machine.mounted if paths & set(one.disks))


def is_steady(one: MountedFilesystem) -> bool:
    """Whether a filesystem can be frozen, or be read until two reads agree."""
    return one.kind in CAN_FREEZE or can_be_read_twice(one)


def can_be_read_twice(one: MountedFilesystem) -> bool:
    return one.kind in READ_TWICE and one.length > 0


def against_freezing(machine: Machine) -> tuple[str, ...]:
    return (
        *_against_holding(machine),
        *(f"{one.place} is {one.kind}" for one in mounted_on(machine) if not is_steady(one)),
    )


def _against_holding(machine: Machine) -> Iterator[str]:
    if machine.unguarded:
        yield machine.unguarded
    for disk in machine.disks:
        for user in disk.unknown_users:
            yield f"{user} is in use, and by no filesystem"


def has_shadows(machine: Machine) -> bool:
    """Whether snapshots of this machine are those that a Windows makes of its volumes."""
    return any(one.volume.startswith(WINDOWS_VOLUME) for one in machine.mounted)


def shadowed_on(machine: Machine) -> tuple[MountedFilesystem, ...]:
    """What is mounted on the disks of a Windows and can be read from a snapshot."""
    return tuple(one for one in mounted_on(machine) if one.kind.upper() in SHADOWED)


def _against_shadows(machine: Machine) -> Iterator[str]:
    shadowed = shadowed_on(machine)
    if not shadowed:
        yield "no volume is NTFS or ReFS"
    for one in shadowed:
        if not one.length or not one.volume:
            yield f"{one.place} is no plain partition"


def against_snapshots(machine: Machine) -> tuple[str, ...]:
    if has_shadows(machine):
        return (*_against_holding(machine), *_against_shadows(machine))
    reasons = list(_against_holding(machine))
    mounted = mounted_on(machine)
    if not any(one.volume for one in mounted):
        reasons.append("no filesystem is on a logical volume")
        return tuple(reasons)
    reasons += [reason for one in mounted for reason in _against_one(machine, one)]
    if not reasons:
        reasons += [reason for group in machine.groups for reason in _against_group(machine, group)]
    return tuple(reasons)


def _against_one(machine: Machine, one: MountedFilesystem) -> Iterable[str]:
    if one.volume:
        volume = _volume_of(machine, one)
        group = next((group for group in machine.groups if volume and group.name == volume.group), None)
        if volume is None or group is None:
            yield f"nothing is known of the volume of {one.place}"
        elif not volume.plain or not group.usable:
            yield f"the volume of {one.place} is not a plain one"
    elif one.place not in BESIDE:
        yield f"{one.place} is on no logical volume"
    elif not is_steady(one):
        yield f"{one.place} is {one.kind}"


def _volume_of(machine: Machine, one: MountedFilesystem) -> LogicalVolume | None:
    return next((volume for volume in machine.volumes if volume.mapped == one.volume), None)


def _mounted_volumes(machine: Machine, group: VolumeGroup) -> list[LogicalVolume]:
    found = [_volume_of(machine, one) for one in mounted_on(machine) if one.volume]
    return list(dict.fromkeys(volume for volume in found if volume and volume.group == group.name))


def _against_group(machine: Machine, group: VolumeGroup) -> Iterable[str]:
    needed = sum(_smallest(volume, group) for volume in _mounted_volumes(machine, group))
    if needed > group.free:
        yield (
            f"the volume group {group.name} has {group.free // MiB} MiB free, and snapshots need "
            f"{needed // MiB} MiB"
        )


def _smallest(volume: LogicalVolume, group: VolumeGroup) -> int:
    wanted = max(int(volume.size * SNAPSHOT_SHARE), SMALLEST_SNAPSHOT)
    return -(-wanted // group.extent_size) * group.extent_size


def snapshot_plans(machine: Machine) -> tuple[SnapshotPlan, ...]:
    """A snapshot of every volume that is mounted; all that is free of a group is shared by size."""
    plans = []
    for group in machine.groups:
        volumes = _mounted_volumes(machine, group)
        spare = group.free - sum(_smallest(volume, group) for volume in volumes)
        for volume in volumes:
            more = max(0, spare) * volume.size // max(1, sum(one.size for one in volumes))
            # A snapshot as large as its volume can never overflow; LVM keeps its tables in it, too.
            limit = volume.size + volume.size // 50 + 2 * group.extent_size
            size = min(_smallest(volume, group) + more, limit)
            plans.append(SnapshotPlan(volume, size // group.extent_size * group.extent_size))
    return tuple(plans)
