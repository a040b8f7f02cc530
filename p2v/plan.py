"""Decisions, and every refusal of a request: from what was seen and what was asked to a `Plan`. Pure
functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from p2v import guest_wishes
from p2v.errors import PlanRefused
from p2v.grades import choose_consistency, has_shadows
from p2v.model import (
    FREEZE_SECONDS,
    Choice,
    CleanUp,
    Consistency,
    ConsistencyWish,
    Disk,
    Finding,
    Goal,
    Machine,
    Partition,
    Plan,
    PlannedDisk,
    Platform,
    Severity,
)

NAME_LIMIT = 64
ARCHITECTURES = ("x86_64",)
WINDOWS_ARCHITECTURES = ("x86_64", "i686")
"""Of a 32-bit Windows nothing is run here, and every hypervisor starts it."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for. Empty or None means: as the machine is.

    `memory` is bytes, `freeze_limit` how many seconds filesystems may be frozen.
    """

    source: str
    name: str = ""
    disks: tuple[str, ...] = ()
    cpus: int | None = None
    memory: int | None = None
    prove: bool = False
    consistency: ConsistencyWish = ConsistencyWish.AUTO
    freeze_limit: float = FREEZE_SECONDS
    clean_up: CleanUp = field(default_factory=CleanUp)
    macs: Choice = Choice.KEEP


@dataclass(frozen=True, slots=True)
class Offer:
    """A platform, and the target's own look at a plan for it."""

    platform: Platform
    check: Callable[[Plan], tuple[Finding, ...]]


def make_plan(
    machine: Machine, wishes: Wishes, offers: Sequence[Offer], *, units: int, goal: Goal = Goal.CONVERT
) -> Plan:
    """Decide everything, for one guest that is made for every platform that is offered.

    Raises PlanRefused with every reason at once, before anything was touched.
    """
    disks = choose_disks(machine, wishes.disks)
    captured = replace(machine, disks=disks)
    if is_rescue(captured):
        # What runs there is not what is on the disks: that is looked at once they are here.
        captured = replace(captured, os=None)
    plan = _decide(machine, captured, wishes, offers[0].platform, units)
    plan = replace(plan, goal=goal, also=tuple(offer.platform for offer in offers[1:]))
    _refuse_blockers(machine.findings if goal is Goal.CAPTURE else _misfits(plan, offers))
    return plan


def plan_for_others(plan: Plan, wishes: Wishes, offers: Sequence[Offer], *, units: int) -> Plan:
    """A plan that makes machines for other platforms out of what was captured for this one.

    Processors, memory and the proof are as wished now, all else as it was. Raises PlanRefused.
    """
    plan = replace(
        plan,
        goal=Goal.CONVERT,
        platform=offers[0].platform,
        also=tuple(offer.platform for offer in offers[1:]),
        cpus=wishes.cpus or plan.cpus,
        memory=wishes.memory or plan.memory,
        prove=wishes.prove,
        units=units,
    )
    _refuse_blockers(_misfits(plan, offers))
    return plan


def _misfits(plan: Plan, offers: Sequence[Offer]) -> list[Finding]:
    found = [*findings(plan.machine), *guest_wishes.findings(plan.machine, plan.clean_up)]
    for one, offer in zip(plan.each(), offers, strict=True):
        found += offer.check(one)
    return found


def findings(machine: Machine) -> tuple[Finding, ...]:
    """All that blocks a conversion of the machine to anywhere, or deserves a warning."""
    return (*machine.findings, *_about_system(machine))


def is_rescue(machine: Machine) -> bool:
    """Whether a system runs there that is on none of the machine's disks, nor uses any of them."""
    at_home = any(one.place == "/" for one in machine.mounted)
    return machine.live and not at_home and all(disk.idle for disk in machine.disks)


def _decide(machine: Machine, captured: Machine, wishes: Wishes, platform: Platform, units: int) -> Plan:
    grade, reasons = choose_consistency(captured, wishes.consistency)
    return Plan(
        name=wishes.name or name_of(machine),
        source=wishes.source,
        machine=captured,
        disks=tuple(PlannedDisk(index, disk, disk.data_size) for index, disk in enumerate(captured.disks)),
        nics=guest_wishes.planned_nics(machine, wishes.macs),
        platform=platform,
        cpus=wishes.cpus or machine.cpus,
        memory=wishes.memory or machine.memory,
        firmware=machine.firmware,
        prove=wishes.prove,
        units=units,
        consistency=grade,
        warnings=(
            *_warnings(machine, captured),
            *guest_wishes.nic_warnings(machine, wishes.macs),
            *_about_grade(grade, reasons),
        ),
        consistency_wish=wishes.consistency,
        freeze_limit=wishes.freeze_limit,
        clean_up=wishes.clean_up,
    )


def _about_grade(grade: Consistency, reasons: tuple[str, ...]) -> Iterable[str]:
    if grade is not Consistency.FUZZY:
        return
    yield (
        "The machine runs while it is captured: files that change meanwhile may be in the copy as they "
        "were at different moments, as after a power cut (consistency: fuzzy)"
    )
    if reasons:
        yield f"The source cannot be held still: {'; '.join(reasons)}"


def name_of(machine: Machine) -> str:
    """A name for the run and the virtual machine out of the host's: letters, digits, dots and dashes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", machine.hostname).strip("-._")[:NAME_LIMIT]
    return name or "machine"


def choose_disks(machine: Machine, wanted: Sequence[str]) -> tuple[Disk, ...]:
    """All disks, or those named by path, serial, WWN or by-id name. Raises PlanRefused for one not there."""
    if not machine.disks:
        raise PlanRefused(f"{machine.hostname} has no disk to capture")
    if not wanted:
        return machine.disks
    chosen = [disk for disk in machine.disks if any(_is_named(disk, name) for name in wanted)]
    missing = [name for name in wanted if not any(_is_named(disk, name) for disk in machine.disks)]
    if missing:
        there = "; ".join(_title(disk) for disk in machine.disks)
        raise PlanRefused(
            f"{machine.hostname} has no disk {', '.join(missing)}", hint=f"Its disks are: {there}"
        )
    return tuple(chosen)


def _is_named(disk: Disk, name: str) -> bool:
    known = {disk.path, disk.path.removeprefix("/dev/"), disk.serial, disk.wwn, *disk.names}
    return bool(name) and name in known


def _title(disk: Disk) -> str:
    return " ".join(filter(None, (disk.path, disk.model, disk.serial and f"(serial {disk.serial})")))


def _refuse_blockers(found: Iterable[Finding]) -> None:
    blockers = [finding for finding in found if finding.severity is Severity.BLOCKER]
    if blockers:
        reasons = [finding.message for finding in blockers]
        message = reasons[0] if len(reasons) == 1 else "\n".join(f"- {reason}" for reason in reasons)
        raise PlanRefused(message, hint=" ".join(filter(None, (finding.hint for finding in blockers))))


def _about_system(machine: Machine) -> list[Finding]:
    system = machine.os
    if is_rescue(machine):
        return []
    if system is None:
        known = any(finding.severity is Severity.BLOCKER for finding in machine.findings)
        none = Finding(
            Severity.BLOCKER,
            f"No operating system was found on {machine.hostname}",
            "Was a disk left out? p2v scan shows what is on each",
        )
        return [] if known else [none]
    if not system.family:
        return [Finding(Severity.BLOCKER, f"{system.name} is not a system that p2v can convert")]
    served = WINDOWS_ARCHITECTURES if system.windows else ARCHITECTURES
    if system.architecture not in served:
        message = f"{machine.hostname} is a {system.architecture} machine, not {' or '.join(served)}"
        return [Finding(Severity.BLOCKER, message)]
    return _about_root(machine)


def _about_root(machine: Machine) -> list[Finding]:
    """On a running machine the root must be on a disk that is captured, or behind something on one."""
    if not machine.live:
        return []
    root = _root_place(machine)
    behind = {"LVM2_member", "linux_raid_member", "crypto_LUKS", "btrfs", "bcache"}
    for disk in machine.disks:
        parts = disk.partitions or (Partition(0, 0, disk.size, "", filesystem=disk.filesystem),)
        for part in parts:
            if part.mountpoint == root or (part.filesystem and part.filesystem.kind in behind):
                return []
    message = f"The root filesystem of {machine.hostname} is on none of the chosen disks"
    return [Finding(Severity.BLOCKER, message, "Choose its disk too with --disk")]


def _root_place(machine: Machine) -> str:
    """Where a running system has what it starts from."""
    windows = machine.os.windows if machine.os else None
    return f"{windows.drive}\\" if windows and windows.drive else "/"


def _warnings(machine: Machine, captured: Machine) -> Iterable[str]:
    for finding in machine.findings:
        if finding.severity is Severity.WARNING:
            yield f"{finding.message} ({finding.hint})" if finding.hint else finding.message
    if machine.os and machine.os.family == "generic":
        yield f"{machine.os.name} is not a system that p2v knows: it is converted by what is found on it"
    if is_rescue(captured):
        yield (
            f"{machine.hostname} runs a rescue system{f' ({machine.os.name})' if machine.os else ''}: which "
            "system is on its disks, and whether it can be converted, is seen after the capture"
        )
    for disk in machine.disks:
        if disk not in captured.disks:
            used = [part.mountpoint for part in disk.partitions if part.mountpoint]
            at = f", mounted at {', '.join(used)}" if used else ""
            yield f"{disk.path} is not captured{at}"


def _grade_words(plan: Plan) -> str:
    match plan.consistency:
        case Consistency.OFFLINE:
            return "offline: nobody uses the disks"
        case Consistency.SNAPSHOT:
            what = "NTFS and ReFS volume (VSS)" if has_shadows(plan.machine) else "mounted logical volume"
            return f"snapshot: of every {what}, removed afterwards"
        case Consistency.FROZEN:
            return f"frozen: filesystems stand still at the end, for {plan.freeze_limit:g} s at the most"
        case grade:
            return str(grade)


def describe(plan: Plan, *, size: str) -> str:
    """The plan for a person; `size` is the human form of `plan.data_size`."""
    machine = plan.machine
    system = machine.os.name if machine.os else "no operating system"
    verb = "Capture" if plan.goal is Goal.CAPTURE else "Convert"
    platforms = [one.platform for one in plan.each()]
    lines = [
        f"{verb} {machine.hostname} ({system}) from {plan.source}",
        *(
            f"  to      {one.title}: {one.disk_bus} disks, {one.nic_model} network,"
            f" {plan.firmware.upper()} firmware, {one.image_format} images"
            for one in platforms
        ),
        f"  as      {plan.name}: {plan.cpus} CPU, {plan.memory // 2**20} MiB memory",
        f"  reads   {size} of used blocks, consistency {_grade_words(plan)}",
        *(f"  disk {disk.index}  {_title(disk.disk)}, {disk.disk.size} bytes" for disk in plan.disks),
        *(f"  nic     {nic.mac} {nic.source_name}".rstrip() for nic in plan.nics),
        *([f"  imports {plan.place}"] if plan.place else ()),
        *(f"  guest   {line}" for line in guest_wishes.words(plan.clean_up)),
        f"  proof   {'boots the result in isolation' if plan.prove else 'not asked for (--prove)'}",
        f"  license {plan.units} unit{'' if plan.units == 1 else 's'}",
        *(f"  warning {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)
