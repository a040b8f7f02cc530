"""The copy of a machine on LVM: from snapshots, while the machine goes on.

    /boot, ESP   pass ─► freeze ─► the last pass over it ─► thaw
    volumes                     └► snapshots ─────────────────► the pass over them ─► removed

What LVM writes about the snapshots must not be in the copy, so its metadata is what was read before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2v.disk.maps.errors import MapUnknown
from p2v.disk.patched import Patch
from p2v.disk.volumes import PhysicalVolume, physical_volumes
from p2v.errors import TransportError
from p2v.grades import SnapshotPlan, against_snapshots, mounted_on, snapshot_plans
from p2v.model import Consistency, Machine, MountedFilesystem, PassKind, Plan, Reached
from p2v.passes import Lanes, Open, Passes
from p2v.transports import Composable, Guard, Piece, SnapshotKeeper, Snapshots, SnapshotSize
from p2v.window import NotReached, check_frozen, check_time, last_pass, places_of


@dataclass(frozen=True, slots=True)
class Origin:
    """A disk before the snapshots: its physical volumes, and what LVM itself keeps on them."""

    one: Open
    volumes: tuple[PhysicalVolume, ...]
    own: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """The machine before the moment: what stands beside LVM, and the disks, by their lines."""

    machine: Machine
    beside: tuple[MountedFilesystem, ...]
    origins: Sequence[Sequence[Origin]]


@dataclass(frozen=True, slots=True)
class Moment:
    """The disks as they were at one moment; seconds frozen for it, and between the snapshots."""

    lanes: Lanes
    frozen_seconds: float
    span_seconds: float


def copy_snapshots(plan: Plan, passes: Passes) -> Reached:
    """Everything as it was when the snapshots were made, which are gone afterwards.

    Raises NotReached, TransportError.
    """
    with passes.snapshots() as keeper:
        cleaned = keeper.clean()
        # The guard last, so that it is the first to go; the readers before the snapshots that they hold open.
        with passes.opened() as lanes, passes.guard() as guard:
            machine = _machine_now(plan, passes, guard, keeper)
            beside = tuple(one for one in mounted_on(machine) if not one.volume)
            within = passes.blocks_of(beside)
            if within:
                passes.run_on(PassKind.FULL, lanes, within=within)
                passes.run_on(PassKind.DELTA, lanes, within=within)
                check_time(plan, passes.last.seconds)
            scene = Scene(machine, beside, [[_look(one) for one in lane] for lane in lanes])
            moment = _freeze_moment(plan, passes, guard, keeper, scene)
            passes.run_on(PassKind.SNAPSHOT, moment.lanes, within=passes.all_but(within))
        removed = keeper.remove()
    if removed.overflown:
        raise NotReached(
            f"more was written than the snapshots could hold ({', '.join(removed.overflown)})",
            "Free space in the volume group gives them more room",
            seconds=moment.frozen_seconds,
        )
    warnings = [f"The snapshot {name} could not be removed: lvremove -f {name}" for name in removed.left]
    if cleaned:
        warnings.append(f"Removed snapshots that an earlier run left behind: {', '.join(cleaned)}")
    return Reached(
        Consistency.SNAPSHOT,
        tuple(passes.done),
        moment.frozen_seconds,
        moment.span_seconds,
        tuple(warnings),
    )


def _machine_now(plan: Plan, passes: Passes, guard: Guard, keeper: SnapshotKeeper) -> Machine:
    """Who uses the disks at this moment, and what LVM has. Raises NotReached."""
    found = keeper.facts()
    machine = passes.seen_by(guard, plan.machine, volumes=found)
    against = against_snapshots(machine)
    if against:
        raise NotReached("; ".join(against))
    return machine


def _look(one: Open) -> Origin:
    """Raises NotReached where the metadata of LVM on the disk cannot be relied on."""
    try:
        volumes = physical_volumes(one.device)
    except MapUnknown as error:
        raise NotReached(f"{one.work.disk.path}: {error}") from error
    own = [extent for volume in volumes for extent in volume.own if extent.length]
    return Origin(one, volumes, tuple((part.start, one.device.read(part.start, part.length)) for part in own))


def _freeze_moment(plan: Plan, passes: Passes, guard: Guard, keeper: SnapshotKeeper, scene: Scene) -> Moment:
    """Snapshots, made while what stands beside them is frozen and copied. Raises NotReached."""
    plans = snapshot_plans(scene.machine)
    frozen = guard.freeze(passes.paths, plan.freeze_limit, only=places_of(scene.beside))
    check_frozen(frozen, guard)
    made = keeper.create([SnapshotSize(one.volume.group, one.volume.name, one.size) for one in plans])
    _check_revisions(scene, made)
    pieces = _Pieces(scene.machine, plans, made)
    lanes = [[pieces.compose(passes, origin) for origin in lane] for lane in scene.origins]
    seconds = last_pass(plan, passes, guard, lanes, frozen, within=passes.blocks_of(scene.beside))
    return Moment(lanes, seconds if frozen.frozen else 0.0, made.span)


def _check_revisions(scene: Scene, made: Snapshots) -> None:
    """What was read of LVM must be what held when the snapshots were made. Raises NotReached."""
    current = {group.uuid: made.revisions.get(group.name) for group in scene.machine.groups}
    for volume in (volume for lane in scene.origins for origin in lane for volume in origin.volumes):
        if current.get(volume.group, volume.revision) != volume.revision:
            raise NotReached("the volume group was changed meanwhile", "Try again")


class _Pieces:
    """Which parts of the disks come from which snapshot."""

    def __init__(self, machine: Machine, plans: Sequence[SnapshotPlan], made: Snapshots) -> None:
        groups = {group.name: group.uuid for group in machine.groups}
        self._devices: Mapping[tuple[str, str], str] = {
            (groups[one.volume.group], one.volume.name): device
            for one, device in zip(plans, made.devices, strict=True)
        }

    def compose(self, passes: Passes, origin: Origin) -> Open:
        raw = origin.one.raw
        if not isinstance(raw, Composable):
            raise TransportError(f"{origin.one.work.disk.path} cannot be read together with its snapshots")
        return passes.open(origin.one.work, raw.composed(self._of(origin)), patches=origin.own)

    def _of(self, origin: Origin) -> list[Piece]:
        return [
            Piece(part.start, part.length, self._devices[volume.group, part.volume], part.offset)
            for volume in origin.volumes
            for part in volume.parts
            if (volume.group, part.volume) in self._devices
        ]
