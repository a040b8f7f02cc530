"""The first room: everything that can be known of the source before a byte of it is copied."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from p2v.accelerator import Accelerator
from p2v.disk.device import BlockDevice, open_file_device
from p2v.disk.extents import block_requests
from p2v.disk.used import DiskMap, disk_map, inspect_disk
from p2v.errors import GuestError
from p2v.guest import Access, GuestDisk, open_guest
from p2v.guest_systems import open_system, with_seen
from p2v.guest_unlock import Keys
from p2v.model import Disk, Finding, Goal, Machine, Severity
from p2v.transports import Mount, Transport
from p2v.ui import UI
from p2v.windows_findings import VolumeState, read_states
from p2v.windows_findings import findings as windows_findings

SAMPLE_BLOCKS = 8
"""Blocks read to estimate the rate: 32 MiB at the most."""
CONVERT_SECONDS = 120.0
"""What follows the capture on a machine with hardware virtualisation, roughly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a capture would take: bytes to read, bytes a second measured just now, seconds in all."""

    data_size: int
    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Scan:
    """The answer of `p2v scan`. `estimate` is None where there is nothing to copy."""

    source: str
    machine: Machine
    findings: tuple[Finding, ...]
    estimate: Estimate | None


def probe(transport: Transport, ui: UI, goal: Goal = Goal.CONVERT) -> Machine:
    """The machine with its disks looked at. Raises TransportError.

    What is on its volumes blocks a conversion, and no capture.
    """
    with ui.phase("Looking at the source"):
        survey = transport.survey()
        findings: list[Finding] = list(survey.machine.findings)
        disks = []
        volumes: list[VolumeState] = []
        for disk in survey.machine.disks:
            with transport.open_disk(disk) as device:
                found, used = _look(device, disk, survey.mounts)
                volumes += read_states(device, found)
            disks.append(found)
            findings += [Finding(Severity.WARNING, warning) for warning in used.warnings]
            findings += _about_disk(found)
        findings += _for_goal(windows_findings(disks, volumes), goal)
    return replace(survey.machine, disks=tuple(disks), findings=tuple(findings))


def _for_goal(findings: Iterable[Finding], goal: Goal) -> list[Finding]:
    if goal is Goal.CONVERT:
        return list(findings)
    return [replace(finding, severity=Severity.WARNING) for finding in findings]


def look_at_images(machine: Machine, images: Sequence[GuestDisk]) -> Machine:
    """The machine of a capture with what its raw images tell of a Windows that a capture did not ask for."""
    states: list[VolumeState] = []
    for disk, image in zip(machine.disks, images, strict=True):
        with open_file_device(image.path, sector_size=disk.sector_size) as device:
            states += read_states(device, disk)
    return replace(machine, findings=(*machine.findings, *windows_findings(machine.disks, states)))


def _look(device: BlockDevice, disk: Disk, mounts: Sequence[Mount]) -> tuple[Disk, DiskMap]:
    seen = inspect_disk(device, disk)
    used = disk_map(device, seen)
    places = {mount.partition: mount.place for mount in mounts if mount.disk == disk.path}
    partitions = tuple(
        replace(partition, mountpoint=places.get(partition.number, "")) for partition in seen.partitions
    )
    return replace(seen, partitions=partitions, data_size=used.data_size), used


def _about_disk(disk: Disk) -> list[Finding]:
    findings = []
    for partition in disk.partitions:
        kind = partition.filesystem.kind if partition.filesystem else ""
        name = f"{disk.path} partition {partition.number}"
        if kind == "crypto_LUKS":
            findings.append(
                Finding(
                    Severity.WARNING,
                    f"{name} is encrypted (LUKS): if the system is on it, its conversion needs a key",
                    "Put it into the first line of a file: --luks-key-file FILE",
                )
            )
        if kind == "swsuspend":
            findings.append(
                Finding(
                    Severity.WARNING, f"{name} holds a hibernated system", "Wake the source and shut it down"
                )
            )
    return findings


def look_into_image(
    machine: Machine,
    images: Sequence[GuestDisk],
    accelerator: Accelerator,
    keys: Keys | None = None,
) -> Machine:
    """What images say of the system on them. A finding takes the place of a system that cannot be read."""
    try:
        with open_guest(images, access=Access.READ_ONLY, accelerator=accelerator) as guest:
            return with_seen(machine, open_system(guest, machine=machine, keys=keys))
    except GuestError as error:
        if any(found.severity is Severity.BLOCKER for found in machine.findings):
            return machine  # what was seen on the disks says why, and better
        finding = Finding(Severity.BLOCKER, error.message, error.hint)
        return replace(machine, findings=(*machine.findings, finding))


def estimate(transport: Transport, machine: Machine) -> Estimate | None:
    """Read a few used blocks of the largest disk and see how fast they come."""
    if not machine.disks:
        return None
    disk = max(machine.disks, key=lambda disk: disk.data_size)
    with transport.open_disk(disk) as device:
        requests = list(block_requests(disk_map(device, disk).extents, size=device.size))
        sample = requests[:: max(1, len(requests) // SAMPLE_BLOCKS)][:SAMPLE_BLOCKS]
        started = time.monotonic()
        size = sum(len(block.data) for block in device.fetch(sample))
        rate = size / max(time.monotonic() - started, 0.001)
    data_size = sum(disk.data_size for disk in machine.disks)
    return Estimate(data_size, rate, data_size / max(rate, 1.0) + CONVERT_SECONDS)
