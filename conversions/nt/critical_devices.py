"""CriticalDeviceDatabase, by which Windows up to 7 binds a device to its driver before any INF is read.

One key for each id, with `#` for `\\`; a hardware id or a compatible id of the device. Windows 8 and later
have DriverDatabase instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from conversions.nt.identify import text_of
from conversions.nt.registry import sz
from conversions.nt.services import has_file, service_key
from conversions.nt.work import WindowsWork
from drivers.inf.model import DriverPackage
from drivers.windows import CriticalDevice

DRIVER_DATABASE = "DriverDatabase"


def is_used(work: WindowsWork) -> bool:
    """Whether this Windows binds its disks this way."""
    return not work.system.has(DRIVER_DATABASE)


def bind(work: WindowsWork, devices: Iterable[CriticalDevice], reason: str) -> None:
    """Bind devices in every set of controls that has their service, with its file."""
    wanted = tuple(devices)
    for control_set in work.control_sets:
        for device in wanted:
            key = service_key(control_set, device.service)
            if work.system.has(key) and has_file(work, key, device.service):
                _bind(work, control_set, device, reason)


def _bind(work: WindowsWork, control_set: str, device: CriticalDevice, reason: str) -> None:
    key = f"{control_set}\\Control\\CriticalDeviceDatabase\\{device.device}"
    for name, text in (("Service", device.service), ("ClassGUID", device.class_guid)):
        if text_of(work.system, key, name).lower() != text.lower():
            work.system.set(key, sz(name, text), reason)


def devices_of(package: DriverPackage, service: str) -> Iterator[CriticalDevice]:
    """Every id of a package whose driver is `service`."""
    for descriptor in package.descriptors:
        driver = package.install(descriptor.section).function_driver
        if driver is not None and driver.name.lower() == service.lower():
            device = descriptor.device_id.lower().replace("\\", "#")
            yield CriticalDevice(device, driver.name, package.class_guid.upper())
