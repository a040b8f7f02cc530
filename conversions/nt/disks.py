"""Which disks a Windows gets on a platform: the first bus that it has a driver for, or can be given one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conversions.nt import critical_devices, inbox, injection, staging
from conversions.nt.work import WindowsWork
from drivers.inf.model import DeviceIds, DriverPackage, Match, NoMatch, Windows
from drivers.pack import DiskChoice
from drivers.windows import (
    BUSES_BELOW,
    DISK_DEVICES,
    STORAGE,
    Inbox,
    buses,
    device_of,
    find_packages,
    inbox_for,
)
from p2v.errors import GuestError
from p2v.model import DiskBus

HINT = "Give its drivers with --drivers DIR, or take another --to: p2v targets"


@dataclass(frozen=True, slots=True)
class Provision:
    """How a bus can be used: Windows' own drivers, packages to put in, services that are bound to it."""

    inbox: Inbox | None = None
    packages: tuple[DriverPackage, ...] = ()
    bound: tuple[str, ...] = ()


def provide_disk_bus(work: WindowsWork, windows: Windows) -> DiskBus:
    """Make the guest start from the first bus of the platform that it can; nothing else is touched.

    Raises GuestError where there is none, with the reasons.
    """
    if any(choice.bus is DiskBus.METAL for choice in work.request.pack.disks):
        return _provide_metal(work, windows)
    reasons: list[str] = []
    for bus in buses(work.request.pack, work.request.platform):
        found = _provision(work, windows, bus)
        if isinstance(found, Provision):
            for reason in reasons:
                work.warn(f"{reason}; the disks are on {bus}")
            _use(work, found, f"start from {bus} disks")
            return bus
        reasons.append(f"No {bus} disks: {found}")
    raise GuestError("; ".join(reasons), hint=HINT)


def _provision(work: WindowsWork, windows: Windows, bus: DiskBus) -> Provision | str:
    """How to use a bus, or why it cannot be."""
    known = inbox_for(bus, work.windows.version)
    if known:
        lacking = inbox.lacking(work, known)
        if not lacking:
            return Provision(inbox=known)
    else:
        lacking = f"Windows {windows.major}.{windows.minor} brings no driver for it"
    devices = DISK_DEVICES.get(bus, ())
    if devices and (bound := _bound(work, devices)):
        return Provision(bound=bound)
    found = find_packages(devices, windows, work.request.index)
    if isinstance(found, NoMatch):
        return f"{lacking}, and {found.reasons[0]}"
    return Provision(packages=_packages(found)) if found else lacking


def _bound(work: WindowsWork, devices: Sequence[DeviceIds]) -> tuple[str, ...]:
    """The drivers that the guest has bound to all of the devices already; none if it lacks one."""
    if critical_devices.is_used(work):
        return ()
    services = [inbox.bound_service(work, device) for device in devices]
    return tuple(dict.fromkeys(services)) if all(services) else ()


def _packages(matches: Sequence[Match]) -> tuple[DriverPackage, ...]:
    return tuple({match.package.inf: match.package for match in matches}.values())


def _use(work: WindowsWork, provision: Provision, reason: str) -> None:
    below = [name for start, names in BUSES_BELOW.items() if _is_on(work, start) for name in names]
    if provision.inbox:
        inbox.enable(work, provision.inbox, below, reason)
    if provision.bound or provision.packages:
        # The drive for CDs and a second disk are on what the platform emulates.
        inbox.enable(work, Inbox((), companions=provision.bound), below, reason)
    index = work.request.index
    for package in provision.packages if index else ():
        assert index is not None
        injection.inject(work, index, package, reason)


def _is_on(work: WindowsWork, start: str) -> bool:
    return work.request.pack.name.startswith(start)


def _provide_metal(work: WindowsWork, windows: Windows) -> DiskBus:
    """All of Windows' own drivers are started; a controller that it does not know gets one of the pack's."""
    reason = "start on this machine"
    inbox.enable(work, Inbox((), companions=STORAGE), (), reason)
    for choice in work.request.pack.disks:
        for device in _controllers(choice):
            _serve_controller(work, windows, device, reason)
    return DiskBus.METAL


def _controllers(choice: DiskChoice) -> Iterator[DeviceIds]:
    for known in choice.devices:
        device = device_of(known)
        if device is not None:
            yield device


def _serve_controller(work: WindowsWork, windows: Windows, device: DeviceIds, reason: str) -> None:
    if _bound(work, [device]) or _known_by_class(work, windows, device):
        return
    index = work.request.index
    found = find_packages([device], windows, index)
    if isinstance(found, NoMatch) or index is None:
        why = found.reasons[0] if isinstance(found, NoMatch) else "no drivers were given"
        raise GuestError(
            f"Windows has no driver for the disk controller {device.hardware[0]}: {why}", hint=HINT
        )
    for package in _packages(found):
        injection.inject(work, index, package, reason)


def _known_by_class(work: WindowsWork, windows: Windows, device: DeviceIds) -> bool:
    """Before Windows 8 there is no list of devices: AHCI and IDE are known by their class alone."""
    if not critical_devices.is_used(work):
        return False
    for bus, code in ((DiskBus.SATA, "PCI\\CC_0106"), (DiskBus.IDE, "PCI\\CC_0101")):
        known = inbox_for(bus, (windows.major, windows.minor))
        if known and code in device.compatible and not inbox.lacking(work, known):
            inbox.enable(work, known, (), f"start from {bus} disks")
            return True
    return False


def staged_packages(work: WindowsWork, windows: Windows, cards: Sequence[Match]) -> tuple[DriverPackage, ...]:
    """What Windows installs by itself: the driver of the card, and what the platform has else."""
    index = work.request.index
    if index is None:
        return ()
    found = (*_packages(cards), *staging.further_packages(work, index, windows))
    return tuple({package.name.lower(): package for package in reversed(found)}.values())[::-1]
