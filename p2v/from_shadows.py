"""The copy of a running Windows: its volumes from snapshots, everything beside them as it is on the disks.

    a snapshot of each volume ─► one pass: volumes from them, all else raw ─► removed

Windows makes them one after the other, so that two volumes are seconds apart; the receipt says how many. What
is used of a volume is what its own bitmap says and what Windows says, both read from the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2v.disk.bitlocker import is_bitlocker
from p2v.errors import ConnectionLost, TransportError
from p2v.grades import against_snapshots, mounted_on, shadowed_on
from p2v.model import Consistency, Extent, MountedFilesystem, PassKind, Plan, Reached
from p2v.passes import Open, Passes
from p2v.transports import Piece, SnapshotKeeper, Snapshots, SnapshotSize
from p2v.transports.windows import WindowsDisk
from p2v.window import NotReached

BOOT_SECTOR = 512
MORE_ROOM = "More room for them, on the source: vssadmin resize shadowstorage /for=C: /on=C: /maxsize=20%"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A volume and the device of its snapshot."""

    volume: MountedFilesystem
    device: str


def copy_shadows(plan: Plan, passes: Passes) -> Reached:
    """Everything as it was when the snapshots were made, which are gone afterwards.

    Raises NotReached, TransportError.
    """
    with passes.snapshots() as keeper:
        # The readers hold the snapshots open, so that they end before these are removed.
        with passes.opened() as lanes, passes.guard() as guard:
            machine = passes.seen_by(guard, plan.machine)
            against = against_snapshots(machine)
            if against:
                raise NotReached("; ".join(against))
            guard.flush()
            volumes = shadowed_on(machine)
            made = _create(keeper, volumes)
            shadows = [Shadow(volume, path) for volume, path in zip(volumes, made.devices, strict=True)]
            unsure: list[str] = []
            composed = [[_compose(passes, one, shadows, unsure) for one in lane] for lane in lanes]
            passes.run_on(PassKind.SNAPSHOT, composed)
        removed = keeper.remove()
    if removed.overflown:
        raise NotReached("Windows gave up snapshots while they were read", MORE_ROOM)
    warnings = (
        *unsure,
        *_about_others(mounted_on(machine), volumes),
        *(
            f"A snapshot could not be removed: vssadmin delete shadows /shadow={name}"
            for name in removed.left
        ),
    )
    return Reached(Consistency.SNAPSHOT, tuple(passes.done), 0.0, made.span, warnings)


def _create(keeper: SnapshotKeeper, volumes: Sequence[MountedFilesystem]) -> Snapshots:
    """Raises NotReached where Windows makes none, ConnectionLost."""
    try:
        return keeper.create([SnapshotSize("", one.volume, 0) for one in volumes])
    except ConnectionLost:
        raise
    except TransportError as error:
        places = {one.volume: one.place for one in volumes}
        said = error.message
        for name, place in places.items():
            said = said.replace(name, place)
        raise NotReached(said, error.hint) from error


def _compose(passes: Passes, one: Open, shadows: Sequence[Shadow], unsure: list[str]) -> Open:
    """A disk with its volumes read from their snapshots. Raises NotReached, TransportError."""
    if not isinstance(one.raw, WindowsDisk):
        raise TransportError(f"{one.work.disk.path} cannot be read together with its snapshots")
    own = [shadow for shadow in shadows if shadow.volume.disks == (one.raw.path,)]
    pieces = {shadow: Piece(shadow.volume.start, shadow.volume.length, shadow.device, 0) for shadow in own}
    device = one.raw.composed(list(pieces.values()))
    extra: list[Extent] = []
    for shadow, piece in pieces.items():
        _require_plain(one.raw, shadow)
        if shadow.volume.kind.upper() == "NTFS":
            extra += _used(device, shadow, piece, unsure)
    one.work.extra = tuple(extra)
    return passes.open(one.work, device)


def _require_plain(raw: WindowsDisk, shadow: Shadow) -> None:
    """A snapshot of an encrypted volume is plaintext, for which its loader is not prepared."""
    if is_bitlocker(raw.read(shadow.volume.start, BOOT_SECTOR)):
        place = shadow.volume.place
        raise TransportError(
            f"{place} is encrypted with BitLocker",
            hint=f"On the source: manage-bde -off {place.rstrip(chr(92))}",
        )


def _used(device: WindowsDisk, shadow: Shadow, piece: Piece, unsure: list[str]) -> tuple[Extent, ...]:
    try:
        return device.used_of(piece)
    except ConnectionLost:
        raise
    except TransportError as error:
        unsure.append(
            f"{shadow.volume.place}: Windows does not say what is used ({error.message}); the map on "
            "the volume decided alone"
        )
        return ()


def _about_others(
    mounted: Sequence[MountedFilesystem], shadowed: Sequence[MountedFilesystem]
) -> tuple[str, ...]:
    """What has a letter or a folder and was read while it may have been written."""
    return tuple(
        f"{one.place} is {one.kind}, of which Windows makes no snapshots: it was read as it was at the moment"
        for one in mounted
        if one not in shadowed and one.place != one.volume
    )
