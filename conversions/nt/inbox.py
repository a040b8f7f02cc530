"""Windows' own drivers for the devices of a platform, started at boot."""

from __future__ import annotations

from collections.abc import Iterable

from conversions.nt import critical_devices
from conversions.nt.identify import number_of, text_of
from conversions.nt.registry import dword, expand_sz, sz
from conversions.nt.services import (
    BOOT_START,
    KERNEL_DRIVER,
    driver_file,
    has_service,
    service_key,
    start_at_boot,
)
from conversions.nt.work import WindowsWork
from drivers.inf.model import DeviceIds
from drivers.windows import VISTA, Inbox

GROUPS = {
    "intelide": "System Bus Extender",
    "pciide": "System Bus Extender",
    "atapi": "SCSI miniport",
    "symmpi": "SCSI miniport",
}
"""Drivers that XP has a file for but no service until it needs one, with the group that they load in."""


def lacking(work: WindowsWork, inbox: Inbox) -> str:
    """Why the guest cannot use a bus by its own drivers; empty where it can."""
    for name in inbox.services:
        if not has_service(work, name) and not _can_be_made(work, name):
            return f"it has no {driver_name(work, name)}{_where(work)}"
    return ""


def driver_name(work: WindowsWork, name: str) -> str:
    return driver_file(work, service_key(work.control_sets[0], name), name).rsplit("/", 1)[-1]


def enable(work: WindowsWork, inbox: Inbox, companions: Iterable[str], reason: str) -> None:
    """Start the drivers of a bus, and the companions that are there, in every set of controls."""
    for name in inbox.services:
        _make_missing(work, name, reason)
        start_at_boot(work, name, reason)
    for name in (*inbox.companions, *companions):
        start_at_boot(work, name, reason)
    if critical_devices.is_used(work):
        critical_devices.bind(work, inbox.critical, reason)


def bound_service(work: WindowsWork, device: DeviceIds) -> str:
    """The driver that Windows 8 and later have bound to a device, as its DriverDatabase says; else empty.

    A package that is only staged has no configurations: Windows would not start from it.
    """
    for identifier in (*device.hardware, *device.compatible):
        key = f"DriverDatabase\\DeviceIds\\{identifier}"
        for value in work.system.values(key):
            service = _service_of(work, value.name, identifier)
            if service and has_service(work, service):
                return service
    return ""


def _service_of(work: WindowsWork, inf: str, identifier: str) -> str:
    label = text_of(work.system, f"DriverDatabase\\DriverInfFiles\\{inf}", "Active")
    package = f"DriverDatabase\\DriverPackages\\{label}"
    section = label and text_of(work.system, f"{package}\\Descriptors\\{identifier}", "Configuration")
    return section and text_of(work.system, f"{package}\\Configurations\\{section}", "Service")


def _can_be_made(work: WindowsWork, name: str) -> bool:
    known = work.windows.version < VISTA and name in GROUPS
    return known and work.guest.exists(work.in_windows("System32", "drivers", f"{name}.sys"))


def _make_missing(work: WindowsWork, name: str, reason: str) -> None:
    """A service of XP, as its INF would make it; where there is one, its Start alone counts."""
    if not _can_be_made(work, name):
        return
    for control_set in work.control_sets:
        key = service_key(control_set, name)
        if number_of(work.system, key, "Type") is None:
            for value in (
                dword("Type", KERNEL_DRIVER),
                dword("Start", BOOT_START),
                dword("ErrorControl", 1),
                sz("Group", GROUPS[name]),
                expand_sz("ImagePath", f"system32\\drivers\\{name}.sys"),
            ):
                work.system.set(key, value, reason)


def _where(work: WindowsWork) -> str:
    return ", which XP keeps in driver.cab until it needs it" if work.windows.version < VISTA else ""
