"""Images made ready for metal, in overlays: nothing of the source is written.

What is finished is noted beside them, so that a restore that was ended in the middle converts once only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import conversions
from p2v.atomic import write_atomically
from p2v.errors import UsageError
from p2v.guest import Access, Guest, GuestDisk, open_guest
from p2v.guest_inspect import mount_root, operating_system
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.journal import to_json
from p2v.model import (
    CleanUp,
    Conversion,
    Firmware,
    ImageFormat,
    Machine,
    PlannedNic,
    Removal,
)
from p2v.restore.hardware import PHYSICAL, pack_of
from p2v.restore.images import make_overlay
from p2v.restore.model import DiskMove, FirmwareEntry, Prepared, PreparedDisk, RestorePlan

NOTE = "prepared.json"


@dataclass(frozen=True, slots=True)
class _Note:
    """`plan` is the SHA-256 of the plan that the images were made for."""

    plan: str
    prepared: Prepared


_NOTE = TypeAdapter(_Note)
_PLAN = TypeAdapter(RestorePlan)


def prepare(plan: RestorePlan, folder: Path, house: House, keys: Keys) -> Prepared:
    """The images of `plan` in `folder`, as they are to be written; made once, found there afterwards.

    Raises GuestError, TargetError, TransportError.
    """
    digest = hashlib.sha256(to_json(_PLAN, replace(plan, findings=(), warnings=()))).hexdigest()
    done = _read_note(folder / NOTE, digest)
    if done:
        return done
    prepared = _prepare(plan, folder, house, keys) if plan.convert else _as_they_are(plan)
    write_atomically(folder / NOTE, to_json(_NOTE, _Note(digest, prepared)))
    return prepared


def _read_note(path: Path, digest: str) -> Prepared | None:
    with suppress(OSError, ValidationError):
        note = _NOTE.validate_json(path.read_bytes())
        if note.plan == digest and all(disk.path.exists() for disk in note.prepared.disks):
            return note.prepared
    return None


def _as_they_are(plan: RestorePlan) -> Prepared:
    """Disks that go back to where they came from."""
    if any(move.source.disk.size > move.target.size for move in plan.moves):
        raise UsageError("An image that is not converted must fit on its disk")
    disks = (PreparedDisk(move.source.path, move.source.format, move.source.disk.size) for move in plan.moves)
    return Prepared(tuple(disks), None)


def _prepare(plan: RestorePlan, folder: Path, house: House, keys: Keys) -> Prepared:
    overlays = [folder / f"disk{move.index}.qcow2" for move in plan.moves]
    for move, overlay in zip(plan.moves, overlays, strict=True):
        make_overlay(move.source, overlay, move.target.size)
    with house.ui.phase("Converting the system for the machine"):
        conversion, entries = _convert(plan, overlays, house, keys)
    disks = tuple(
        PreparedDisk(overlay, ImageFormat.QCOW2, move.target.size)
        for move, overlay in zip(plan.moves, overlays, strict=True)
    )
    return Prepared(disks, conversion, entries, conversion.warnings)


def _convert(
    plan: RestorePlan, overlays: Sequence[Path], house: House, keys: Keys
) -> tuple[Conversion, tuple[FirmwareEntry, ...]]:
    disks = [GuestDisk(overlay, ImageFormat.QCOW2) for overlay in overlays]
    accelerator = house.accelerator().accelerator
    with open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest:
        machine = _machine(plan)
        root = mount_root(guest, machine=machine, keys=keys)
        machine = replace(machine, os=machine.os or operating_system(guest))
        conversion = _convert_system(guest, plan, machine)
    return replace(conversion, warnings=(*root.warnings, *conversion.warnings)), ()


def _machine(plan: RestorePlan) -> Machine:
    """The guest with the disks that are restored. What the metal's firmware needs must be mounted."""
    firmware = Firmware.UEFI if Firmware.UEFI in (plan.guest.firmware, plan.metal.firmware) else Firmware.BIOS
    return replace(plan.guest, disks=tuple(move.source.disk for move in plan.moves), firmware=firmware)


def _convert_system(guest: Guest, plan: RestorePlan, machine: Machine) -> Conversion:
    return conversions.convert(
        guest,
        machine,
        nics=_nics(plan),
        firmware=plan.metal.firmware,
        platform=PHYSICAL,
        pack=pack_of(plan.metal, [move.target for move in plan.moves]),
        clean_up=CleanUp(remove=(Removal.GUEST_TOOLS,)),
    )


def _nics(plan: RestorePlan) -> tuple[PlannedNic, ...]:
    """The cards of the machine that take over the addresses of the guest's, by the guest's names for them."""
    names = {nic.mac.lower(): nic.name for nic in plan.guest.nics if nic.mac}
    return tuple(PlannedNic(move.new.lower(), names.get(move.old.lower(), "")) for move in plan.nics)


def boot_disk(moves: Sequence[DiskMove]) -> DiskMove:
    """The disk that a firmware starts: the first one."""
    return min(moves, key=lambda move: move.index)
