"""Which image goes onto which disk, and every refusal of that. Pure: nothing is read and nothing written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from p2v.errors import PlanRefused, UsageError
from p2v.model import Disk, Finding, Firmware, Machine, Nic, Plan, Severity, TableKind
from p2v.restore.firmwares import firmware_finding
from p2v.restore.job import DiskChoice, GrowChoice
from p2v.restore.model import DiskMove, Metal, NicMove, Resize, RestorePlan, SourceDisk
from p2v.restore.relayout import fits

UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
PREFIXES = ("0x", "naa.", "eui.", "wwn-0x", "wwn-")
"""How tools write the same WWN."""


@dataclass(frozen=True, slots=True)
class RestoreWishes:
    """What the user asks for, parsed. `source` and `destination` are only shown."""

    source: str
    destination: str
    name: str = ""
    disks: tuple[DiskChoice, ...] = ()
    nics: tuple[NicMove, ...] = ()
    grow: tuple[GrowChoice, ...] = ()
    shrink: bool = False
    convert: bool = True


def make_restore_plan(
    guest: Machine, images: Sequence[SourceDisk], metal: Metal, wishes: RestoreWishes, *, units: int
) -> RestorePlan:
    """Raises PlanRefused with everything that stands in the way, UsageError for choices of what is not
    there.
    """
    moves = tuple(_moves(images, metal, wishes))
    guest, nics = _joined_nics(wishes.nics, guest, metal)
    findings = tuple(_findings(guest, moves, metal, convert=wishes.convert))
    _refuse(findings)
    return RestorePlan(
        name=wishes.name or _name(guest),
        source=wishes.source,
        destination=wishes.destination,
        guest=guest,
        metal=metal,
        moves=moves,
        nics=nics,
        convert=wishes.convert,
        units=units,
        findings=findings,
        warnings=tuple(one.message for one in findings if one.severity is Severity.WARNING),
    )


def make_rollback_plan(
    captured: Plan, images: Sequence[SourceDisk], metal: Metal, wishes: RestoreWishes, *, guest: Machine
) -> RestorePlan:
    """The machine of a run gets its own disks back. Raises PlanRefused, for any other machine above all."""
    _require_own_machine(captured.machine, metal.machine)
    # In the virtual machine the cards have the names that they had, and the addresses that were planned.
    cards = tuple(Nic(nic.source_name, nic.mac) for nic in captured.nics if nic.source_name)
    guest = replace(guest, nics=cards or guest.nics)
    if len(images) != len(captured.disks):
        raise PlanRefused(
            f"{captured.name} was captured from {len(captured.disks)} disks, not from {len(images)}",
            hint="Name the disks of the virtual machine in their order: --from sda=FIRST,sdb=SECOND",
        )
    moves = tuple(
        DiskMove(
            planned.index,
            image,
            own_disk(planned.disk, metal.machine.disks),
            _own_resize(image, planned.disk),
        )
        for planned, image in zip(captured.disks, images, strict=True)
    )
    findings = tuple(_findings(guest, moves, metal, convert=wishes.convert))
    _refuse(findings)
    return RestorePlan(
        name=wishes.name or f"{captured.name}-rollback",
        source=wishes.source,
        destination=wishes.destination,
        guest=guest,
        metal=metal,
        moves=moves,
        nics=_own_nics(captured),
        convert=wishes.convert,
        units=0,
        findings=findings,
        warnings=tuple(one.message for one in findings if one.severity is Severity.WARNING),
    )


def _own_resize(image: SourceDisk, own: Disk) -> Resize:
    return Resize.SHRINK if image.disk.size > own.size else Resize.KEEP


def _own_nics(captured: Plan) -> tuple[NicMove, ...]:
    """The cards of the virtual machine, each back to the one that it stood for."""
    own = {nic.name: nic.mac for nic in captured.machine.nics}
    pairs = ((nic.mac.lower(), own.get(nic.source_name, nic.mac).lower()) for nic in captured.nics)
    return tuple(NicMove(old, new) for old, new in pairs if old and new)


def _require_own_machine(captured: Machine, now: Machine) -> None:
    if captured.uuid and now.uuid and captured.uuid != now.uuid:
        raise PlanRefused(
            f"This is not the machine that was captured ({captured.hostname}, {captured.uuid}): it says that "
            f"it is {now.uuid}",
            hint="Onto another machine: p2v restore RUN --to ssh://RESCUE --disk 0=SERIAL",
        )


def own_disk(captured: Disk, disks: Iterable[Disk]) -> Disk:
    """The disk of the machine that was captured then. Raises PlanRefused where it is not there any more."""
    for disk in disks:
        if disk.size == captured.size and _is_same(disk, captured):
            return disk
    raise PlanRefused(
        f"The machine has no disk any more that is {captured.path} ({disk_names(captured)}, {captured.size} "
        "bytes)",
        hint="Onto another disk: p2v restore RUN --to ssh://RESCUE --disk 0=SERIAL",
    )


def _is_same(disk: Disk, captured: Disk) -> bool:
    """All names that both have must be equal; a disk that had any is not known by its contents."""
    names = ((_bare(disk.wwn), _bare(captured.wwn)), (_own_serial(disk), _own_serial(captured)))
    if known := [(here, there) for here, there in names if here and there]:
        return all(here == there for here, there in known)
    if captured.serial or captured.wwn:
        return False
    return bool(captured.table_id) and disk.table_id == captured.table_id


def _own_serial(disk: Disk) -> str:
    """Empty where a system shows the WWN in its place, as older ones do for SCSI disks."""
    serial = _bare(disk.serial)
    return "" if serial == _bare(disk.wwn) else serial


def _moves(images: Sequence[SourceDisk], metal: Metal, wishes: RestoreWishes) -> Iterator[DiskMove]:
    chosen = {choice.index: choice.name for choice in wishes.disks}
    unknown = sorted(set(chosen) - set(range(len(images))))
    if unknown:
        raise UsageError(f"--disk {unknown[0]}=…: there are {len(images)} images, counted from 0")
    missing = sorted(set(range(len(images))) - set(chosen))
    if missing:
        raise UsageError(
            f"Onto which disk does image {missing[0]} ({images[missing[0]].path.name}) go?\n"
            + "\n".join(f"  {line}" for line in disk_lines(metal.machine.disks)),
            hint=f"Try: --disk {missing[0]}=SERIAL",
        )
    grow = {choice.index: choice.partition for choice in wishes.grow}
    for index, image in enumerate(images):
        target = find_disk(chosen[index], metal.machine.disks)
        yield DiskMove(
            index, image, target, _resize(image, target, index in grow, wishes), grow.get(index, 0)
        )


def _resize(image: SourceDisk, target: Disk, grows: bool, wishes: RestoreWishes) -> Resize:
    if grows:
        return Resize.GROW
    return Resize.SHRINK if wishes.shrink and target.size < image.disk.size else Resize.KEEP


def find_disk(name: str, disks: Sequence[Disk]) -> Disk:
    """The one disk of this serial or WWN. Raises PlanRefused where there is none, or more than one."""
    found = [disk for disk in disks if is_called(disk, name)]
    if len(found) == 1:
        return found[0]
    what = "No disk of the machine has" if not found else f"{len(found)} disks of the machine have"
    raise PlanRefused(
        f"{what} the serial or WWN {name}:\n" + "\n".join(f"  {line}" for line in disk_lines(disks)),
        hint="Name it by its WWN, or take the others out"
        if found
        else "Try: --disk 0=SERIAL, with one of these",
    )


def is_called(disk: Disk, name: str) -> bool:
    """Whether the name is the disk's serial or WWN; never where it was seen."""
    wanted = _bare(name)
    return bool(wanted) and wanted in {_bare(disk.serial), _bare(disk.wwn)}


def _bare(name: str) -> str:
    name = name.strip().lower()
    prefix = next((one for one in PREFIXES if name.startswith(one)), "")
    return name.removeprefix(prefix)


def disk_names(disk: Disk) -> str:
    """Serial and WWN of a disk, for a person."""
    names = [*([f"serial {disk.serial}"] if disk.serial else []), *([f"WWN {disk.wwn}"] if disk.wwn else [])]
    return ", ".join(names) or "neither serial nor WWN"


def disk_lines(disks: Iterable[Disk]) -> Iterator[str]:
    for disk in disks:
        yield f"{disk.path}: {disk_names(disk)}, {disk.size} bytes, {disk.model or 'unknown model'}"


def _findings(guest: Machine, moves: Sequence[DiskMove], metal: Metal, *, convert: bool) -> Iterator[Finding]:
    yield from _about_targets(moves)
    for move in moves:
        yield from _about_size(move) if not convert else [one for one in [fits(move)] if one]
    if convert:
        disks = tuple(move.source.disk for move in moves)
        found = firmware_finding(disks, guest.firmware, metal.firmware, guest.os)
        yield from [found] if found else []
    elif guest.firmware is not metal.firmware:
        yield _blocked(
            f"The image starts by {_shown(guest.firmware)}, and the machine by {_shown(metal.firmware)}",
            "Switch the machine's firmware, or let the system be converted: leave out --as-is",
        )


def _about_targets(moves: Sequence[DiskMove]) -> Iterator[Finding]:
    targets = [move.target.path for move in moves]
    for move in moves:
        disk = move.target
        if targets.count(disk.path) > 1:
            yield _blocked(
                f"{disk.path} ({disk_names(disk)}) is named for two images",
                "Name another disk for one of them",
            )
        if not disk.idle:
            places = [part.mountpoint for part in disk.partitions if part.mountpoint]
            users = ", ".join([*places, *disk.unknown_users]) or "mounted, swap, or part of a volume"
            yield _blocked(
                f"{disk.path} ({disk_names(disk)}) is in use on the machine: {users}",
                "Is it started from the rescue system? Else unmount the disk there, or: p2v rescue build",
            )


def require_idle(moves: Sequence[DiskMove]) -> None:
    """Raises PlanRefused where somebody uses a disk that is to be written."""
    _refuse(_about_targets(moves))


def _about_size(move: DiskMove) -> Iterator[Finding]:
    """Of an image that goes as it is: nothing can be made to fit."""
    image, target = move.source.disk, move.target
    if image.size > target.size:
        yield _blocked(
            f"{target.path} ({disk_names(target)}) has {target.size} bytes, too small for the "
            f"{image.size} of image {move.index}",
            "Choose a larger disk",
        )
    if image.sector_size != target.sector_size and image.table is not TableKind.NONE:
        yield _blocked(
            f"{target.path} has sectors of {target.sector_size} bytes, the image is laid out in "
            f"{image.sector_size}",
            f"Choose a disk with sectors of {image.sector_size} bytes",
        )
    if image.size < target.size and image.table is TableKind.GPT:
        yield Finding(
            Severity.WARNING,
            f"{target.path} is larger than image {move.index}: its backup GPT is not at the end",
            "On the machine: sgdisk -e, or restore without --as-is",
        )


def _blocked(message: str, hint: str) -> Finding:
    return Finding(Severity.BLOCKER, message, hint)


def _shown(firmware: Firmware) -> str:
    return firmware.upper()


def _refuse(findings: Iterable[Finding]) -> None:
    blockers = [one for one in findings if one.severity is Severity.BLOCKER]
    if blockers:
        hint = next((one.hint for one in blockers if one.hint), "")
        raise PlanRefused("\n".join(one.message for one in blockers), hint=hint)


def _joined_nics(
    chosen: Sequence[NicMove], guest: Machine, metal: Metal
) -> tuple[Machine, tuple[NicMove, ...]]:
    """Which card takes over which, and the guest with a MAC for each of these. One card alone takes over the
    only one. Raises UsageError for cards that are not there.
    """
    there = _macs(metal.machine.nics)
    if not chosen and len(guest.nics) == 1 and len(there) == 1:
        only = guest.nics[0]
        chosen = (NicMove(only.mac.lower() or only.name, there[0]),)
    nics, moves = list(guest.nics), []
    for move in chosen:
        if move.new not in there:
            raise UsageError(f"--nic …={move.new}: the machine has {', '.join(there) or 'no network card'}")
        old = _index_of(move.old, nics)
        # An image tells the names of its cards and not always their addresses.
        nics[old] = replace(nics[old], mac=nics[old].mac or move.new)
        moves.append(NicMove(nics[old].mac.lower(), move.new))
    return replace(guest, nics=tuple(nics)), tuple(moves)


def _index_of(old: str, nics: Sequence[Nic]) -> int:
    for index, nic in enumerate(nics):
        if old in (nic.mac.lower(), nic.name):
            return index
    known = ", ".join(nic.mac or nic.name for nic in nics) or "no network card"
    raise UsageError(f"--nic {old}=…: the image has {known}")


def _macs(nics: Sequence[Nic]) -> list[str]:
    return [nic.mac.lower() for nic in nics if nic.mac]


def _name(guest: Machine) -> str:
    name = UNFIT.sub("-", guest.hostname).strip("-.") or "machine"
    return f"{name[:50]}-restore"


def require_erase(plan: RestorePlan, erased: Iterable[str]) -> None:
    """Raises PlanRefused unless each disk that is written was named once more, by serial or WWN."""
    names = tuple(erased)
    for move in plan.moves:
        if not any(is_called(move.target, name) for name in names):
            raise PlanRefused(
                f"Everything on {move.target.path} ({disk_names(move.target)}) will be lost, and nobody has "
                "confirmed that",
                hint=f"Add: --erase {move.target.serial or move.target.wwn}",
            )


def with_targets(plan: RestorePlan, disks: Iterable[Disk]) -> RestorePlan:
    """The plan with its disks where they are now: another boot of the rescue system may have swapped two."""
    now = tuple(disks)
    moves = tuple(replace(move, target=_now(move.target, now)) for move in plan.moves)
    return replace(plan, moves=moves)


def _now(planned: Disk, disks: Sequence[Disk]) -> Disk:
    found = [
        disk
        for disk in disks
        if disk.size == planned.size
        and (
            (disk.serial, disk.wwn) == (planned.serial, planned.wwn)
            if planned.serial or planned.wwn
            else disk.path == planned.path
        )
    ]
    if len(found) != 1:
        raise PlanRefused(
            f"The machine has no disk any more that is {planned.path} ({disk_names(planned)})",
            hint="Look at what it has: p2v scan ssh://RESCUE",
        )
    return replace(planned, path=found[0].path, idle=found[0].idle, unknown_users=found[0].unknown_users)
