"""Images made ready for metal, in overlays: nothing of the source is written.

What is finished is noted beside them, so that a restore that was ended in the middle converts once only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import conversions
from conversions.nt.disk_ids import Move, moves
from drivers.inf.index import DriverIndex
from p2v.atomic import write_atomically
from p2v.errors import TargetError
from p2v.guest import Access, Guest, GuestDisk, open_guest
from p2v.guest_resize import grow, shrink
from p2v.guest_systems import InstalledSystem, open_system
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.journal import to_json
from p2v.model import (
    CleanUp,
    Conversion,
    Firmware,
    ImageFormat,
    Machine,
    MiB,
    PlannedNic,
    Removal,
)
from p2v.restore.firmwares import change_firmware, entries_of
from p2v.restore.hardware import PHYSICAL, pack_of
from p2v.restore.images import make_overlay, open_overlay
from p2v.restore.model import DiskMove, FirmwareEntry, Prepared, PreparedDisk, Resize, RestorePlan
from p2v.restore.moving import move_contents
from p2v.restore.relayout import Relayout, relayout
from p2v.restore.tables import new_table
from p2v.run import free_space

NOTE = "prepared.json"
BY_PLACE = ("/boot/extlinux/ldlinux.sys", "/boot/ldlinux.sys", "/extlinux/ldlinux.sys", "/etc/lilo.conf")
WORDS = ("the virtual machine", "the new machine")
OVERLAY_SIZE = 512 * MiB
"""What the conversion of a system writes at the most: an initramfs for each kernel, and journals."""


@dataclass(frozen=True, slots=True)
class _Note:
    """`plan` is the SHA-256 of the plan that the images were made for, and of what they were made from."""

    plan: str
    prepared: Prepared


_NOTE = TypeAdapter(_Note)
_PLAN = TypeAdapter(RestorePlan)


def prepare(
    plan: RestorePlan, folder: Path, house: House, keys: Keys, index: DriverIndex | None = None
) -> Prepared:
    """The images of `plan` in `folder`, as they are to be written; made once, found there afterwards, and
    made anew where an image of the source is not what it was then.

    `index` holds the drivers that the user gave for a Windows.

    Raises GuestError, TargetError, TransportError.
    """
    digest = _digest(plan)
    done = _read_note(folder / NOTE, digest)
    if done:
        return done
    if plan.convert:
        prepared = _prepare(plan, folder, house, keys, index)
    else:
        prepared = _as_they_are(plan, folder, house)
    write_atomically(folder / NOTE, to_json(_NOTE, _Note(digest, prepared)))
    return prepared


def is_prepared(plan: RestorePlan, folder: Path) -> bool:
    """Whether `prepare` has nothing left to do."""
    return _read_note(folder / NOTE, _digest(plan)) is not None


def _digest(plan: RestorePlan) -> str:
    """An overlay on an image that has changed would be neither the one nor the other."""
    found = hashlib.sha256(to_json(_PLAN, replace(plan, findings=(), warnings=())))
    for move in plan.moves:
        found.update(_state(move.source.path))
    return found.hexdigest()


def _state(path: Path) -> bytes:
    """Differs once somebody wrote to the image; of a block device, nothing says that nobody did."""
    try:
        found = path.stat()
    except OSError as error:
        raise TargetError(
            f"{path} cannot be read: {error.strerror}",
            hint="Put it back where it was: it is needed until the restore is finished",
        ) from error
    if stat.S_ISBLK(found.st_mode):
        return os.urandom(16)
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}".encode()


def _read_note(path: Path, digest: str) -> Prepared | None:
    with suppress(OSError, ValidationError):
        note = _NOTE.validate_json(path.read_bytes())
        if note.plan == digest and all(disk.path.exists() for disk in note.prepared.disks):
            return note.prepared
    return None


@dataclass(frozen=True, slots=True)
class _Work:
    """One disk on its way."""

    move: DiskMove
    layout: Relayout
    overlay: Path

    @property
    def longer(self) -> bool:
        """Whether the table comes first: a filesystem grows into what is there, and leaves before it goes."""
        return self.move.target.size > self.move.source.disk.size

    @property
    def result(self) -> PreparedDisk:
        return PreparedDisk(self.overlay, ImageFormat.QCOW2, self.move.target.size)


def _work(move: DiskMove, folder: Path) -> _Work:
    return _Work(move, relayout(move), folder / f"disk{move.index}.qcow2")


def _prepare(
    plan: RestorePlan, folder: Path, house: House, keys: Keys, index: DriverIndex | None
) -> Prepared:
    works = [_work(move, folder) for move in plan.moves]
    _check_space(works, folder)
    for work in works:
        make_overlay(work.move.source, work.overlay, work.move.target.size)
    _reshape([work for work in works if work.longer], house)
    with house.ui.phase("Converting the system for the machine"):
        conversion, entries, warnings = _convert(plan, works, house, keys, index)
    _reshape([work for work in works if not work.longer], house)
    return Prepared(
        tuple(work.result for work in works), conversion, entries, (*warnings, *conversion.warnings)
    )


def _as_they_are(plan: RestorePlan, folder: Path, house: House) -> Prepared:
    """Disks that nothing is changed on but their size, where that was asked for. Raises PlanRefused."""
    found = [_work(move, folder) for move in plan.moves]
    works = {work.move.index: work for work in found if work.move.resize is not Resize.KEEP}
    _check_space(list(works.values()), folder)
    for work in works.values():
        make_overlay(work.move.source, work.overlay, work.move.target.size)
    _reshape([work for work in works.values() if work.longer], house)
    resized = [work for work in works.values() if work.layout.changed]
    warnings = _resize_all(resized, house) if resized else ()
    _reshape([work for work in works.values() if not work.longer], house)
    disks = (
        works[move.index].result
        if move.index in works
        else PreparedDisk(move.source.path, move.source.format, move.source.disk.size)
        for move in plan.moves
    )
    return Prepared(tuple(disks), None, warnings=warnings)


def _resize_all(works: Sequence[_Work], house: House) -> tuple[str, ...]:
    disks = [GuestDisk(work.overlay, ImageFormat.QCOW2) for work in works]
    accelerator = house.accelerator().accelerator
    with (
        house.ui.phase("Resizing filesystems"),
        open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest,
    ):
        done = [_resize(guest, number, work, "") for number, work in enumerate(works)]
    return tuple(warning for warnings in done for warning in warnings)


def _check_space(works: Sequence[_Work], folder: Path) -> None:
    needed = sum(work.layout.moved_size for work in works) + len(works) * OVERLAY_SIZE
    free = free_space(folder)
    if free < needed:
        raise TargetError(
            f"{folder} has {free // MiB} MiB free; {needed // MiB} MiB are needed for the conversion and to"
            " move their partitions",
            hint="Make space there, or choose the last partition to take the difference in size",
        )


def _reshape(works: Sequence[_Work], house: House) -> None:
    """The partition table of the new size, and what moves with its partition."""
    for work in works:
        if work.layout.size == work.move.source.disk.size:
            continue
        disk = work.move.source.disk
        with (
            house.ui.phase(f"Moving partitions of {disk.path}"),
            open_overlay(work.overlay, disk.sector_size) as device,
        ):
            patches = new_table(device, disk, work.layout)
            move_contents(device, work.layout)
            for offset, content in patches:
                device.write(offset, content)


def _convert(
    plan: RestorePlan, works: Sequence[_Work], house: House, keys: Keys, index: DriverIndex | None
) -> tuple[Conversion, tuple[FirmwareEntry, ...], tuple[str, ...]]:
    disks = [GuestDisk(work.overlay, ImageFormat.QCOW2) for work in works]
    accelerator = house.accelerator().accelerator
    with open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest:
        inside = open_system(guest, machine=_machine(plan), keys=keys)
        machine = _seen(plan, inside)
        changed = () if inside.hives else _change_firmware(guest, machine, plan)
        conversion = _convert_system(inside, plan, machine, index, _renamed(plan, works))
        entries = _entries(guest, machine, plan, inside)
        changed = (*changed, *(() if inside.hives else _by_place(guest, works)))
        root = guest.mounted().get("/", "")
        guest.unmount_all()
        grown = [_resize(guest, number, work, root) for number, work in enumerate(works)]
    warnings = (*inside.warnings, *changed, *(warning for each in grown for warning in each))
    return conversion, entries, warnings


def _by_place(guest: Guest, works: Sequence[_Work]) -> tuple[str, ...]:
    """Boot loaders that know the sectors of their own files, where these may not be the same any more."""
    found = next((path for path in BY_PLACE if guest.exists(path)), "")
    if not found or all(work.layout.difference >= 0 and not work.layout.moved_size for work in works):
        return ()
    return (
        f"{found}: its boot loader finds its files by their sectors; if it does not start, install it anew",
    )


def _seen(plan: RestorePlan, inside: InstalledSystem) -> Machine:
    """A rescue system, or an image, could not say which system is on the disks."""
    machine = inside.machine or _machine(plan)
    return machine if machine.os else replace(machine, os=inside.look().os)


def _change_firmware(guest: Guest, machine: Machine, plan: RestorePlan) -> tuple[str, ...]:
    return change_firmware(guest, machine, plan.guest.firmware, plan.metal.firmware)


def _entries(
    guest: Guest, machine: Machine, plan: RestorePlan, inside: InstalledSystem
) -> tuple[FirmwareEntry, ...]:
    """A Windows writes its own entry as it starts."""
    if plan.metal.firmware is Firmware.BIOS or inside.hives:
        return ()
    return tuple(replace(one, disk=plan.moves[one.disk].index) for one in entries_of(guest, machine))


def _resize(guest: Guest, index: int, work: _Work, root: str) -> tuple[str, ...]:
    changed = work.layout.changed
    if changed is None or changed.partition.filesystem is None:
        return ()
    device, kind = guest.partition_device(index, changed.number), changed.partition.filesystem.kind
    if work.longer:
        return grow(guest, device, kind, root)
    shrink(guest, device, kind, changed.length, root)
    return ()


def _machine(plan: RestorePlan) -> Machine:
    """The guest with the disks that are restored. What the metal's firmware needs must be mounted."""
    firmware = Firmware.UEFI if Firmware.UEFI in (plan.guest.firmware, plan.metal.firmware) else Firmware.BIOS
    return replace(plan.guest, disks=tuple(move.source.disk for move in plan.moves), firmware=firmware)


def _renamed(plan: RestorePlan, works: Sequence[_Work]) -> tuple[Move, ...]:
    """Partitions that Windows knows by where they begin, and that begin elsewhere now."""
    before = [move.source.disk for move in plan.moves]
    after = [
        replace(
            disk,
            partitions=tuple(replace(place.partition, start=place.start) for place in work.layout.places),
        )
        for disk, work in zip(before, works, strict=True)
    ]
    return moves(before, after)


def _convert_system(
    inside: InstalledSystem,
    plan: RestorePlan,
    machine: Machine,
    index: DriverIndex | None,
    renamed: Sequence[Move],
) -> Conversion:
    tools = CleanUp() if inside.hives else CleanUp(remove=(Removal.GUEST_TOOLS,))
    return _worded(
        conversions.convert(
            inside.files,
            machine,
            nics=_nics(plan),
            firmware=plan.metal.firmware,
            platform=PHYSICAL,
            pack=pack_of(plan.metal, [move.target for move in plan.moves]),
            clean_up=tools,
            hives=inside.hives,
            index=index,
            moves=renamed,
        )
    )


def _worded(conversion: Conversion) -> Conversion:
    """Conversions speak of the virtual machine that they are usually for."""
    changes = tuple(replace(one, reason=one.reason.replace(*WORDS)) for one in conversion.changes)
    registry = tuple(replace(one, reason=one.reason.replace(*WORDS)) for one in conversion.registry)
    warnings = tuple(warning.replace(*WORDS) for warning in conversion.warnings)
    return replace(conversion, changes=changes, registry=registry, warnings=warnings)


def _nics(plan: RestorePlan) -> tuple[PlannedNic, ...]:
    """The cards of the machine that take over the addresses of the guest's, by the guest's names for them."""
    names = {nic.mac.lower(): nic.name for nic in plan.guest.nics if nic.mac}
    return tuple(PlannedNic(move.new.lower(), names.get(move.old.lower(), "")) for move in plan.nics)
