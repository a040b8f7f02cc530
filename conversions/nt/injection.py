"""A driver that Windows does not have, put in so that it starts from a disk behind it.

Services, files and the binding to the devices: what Windows' own installation would do, for the drivers that
it needs before it can install any.
"""

from __future__ import annotations

from conversions.nt import critical_devices, driver_database
from conversions.nt.driver_database import value_of
from conversions.nt.registry import Value, dword, expand_sz, multi_sz, sz
from conversions.nt.services import BOOT_START, service_key
from conversions.nt.staging import content, copy_package
from conversions.nt.work import WindowsWork
from drivers.inf.index import DriverIndex
from drivers.inf.model import DriverPackage, RegistryAction, RegistryValue, Service
from p2v.errors import GuestError

CATALOGS = "System32/CatRoot/{F750E6C3-38EE-11D1-85E5-00C04FC295EE}"
"""The folder of the catalogues of drivers (DRIVER_ACTION_VERIFY, softpub.h)."""


def inject(work: WindowsWork, index: DriverIndex, package: DriverPackage, reason: str) -> None:
    """Put a package in, to be started at boot.

    Raises GuestError where it has no driver that could be.
    """
    services = boot_services(package)
    if not services:
        raise GuestError(f"{package.inf} has no driver that could be started at boot")
    work.changes.warn_all(package.warnings)
    _copy_drivers(work, index, package, reason)
    if critical_devices.is_used(work):
        owner = package.name.lower()
        _write_services(work, services, owner, reason)
        for service in services:
            devices = critical_devices.devices_of(package, service.name)
            critical_devices.bind(work, devices, reason)
        return
    published = driver_database.published_name(work, package)
    _publish(work, index, package, published, reason)
    _write_services(work, services, published, reason)
    driver_database.write_package(work, package, published, reason)


def boot_services(package: DriverPackage) -> tuple[Service, ...]:
    """The drivers of a package's devices, each once."""
    found = {
        service.name.lower(): service
        for section in package.installs
        for service in section.services
        if service.function_driver and service.binary.windows_path
    }
    return tuple(found.values())


def _copy_drivers(work: WindowsWork, index: DriverIndex, package: DriverPackage, reason: str) -> None:
    """Every file that the INF copies below the folder of Windows, to its place."""
    for section in package.installs:
        for file in section.files:
            path = file.place.windows_path
            if path:
                work.changes.write_bytes(work.in_windows(path), content(index, file.source), reason)


def _publish(
    work: WindowsWork, index: DriverIndex, package: DriverPackage, published: str, reason: str
) -> None:
    """The INF and its catalogue under the name that Windows gives them, and the package in the store."""
    work.changes.write_bytes(work.in_windows("inf", published), content(index, package.inf), reason)
    if package.catalog:
        name = f"{published.rsplit('.', 1)[0]}.cat"
        work.changes.write_bytes(work.in_windows(CATALOGS, name), content(index, package.catalog), reason)
    store = f"System32/DriverStore/FileRepository/{driver_database.label_of(package)}"
    copy_package(work, index, package, store, reason)


def _write_services(work: WindowsWork, services: tuple[Service, ...], owner: str, reason: str) -> None:
    for control_set in work.control_sets:
        for service in services:
            _write_service(work, control_set, service, owner, reason)


def _write_service(work: WindowsWork, control_set: str, service: Service, owner: str, reason: str) -> None:
    key = service_key(control_set, service.name)
    for value in _service_values(service, owner):
        work.system.set(key, value, reason)
    work.system.remove_key(f"{key}\\StartOverride", reason)
    for line in service.values:
        _apply(work, key, line, reason)
    for line in service.events:
        _apply(work, f"{control_set}\\Services\\EventLog\\System\\{service.name}", line, reason)


def _service_values(service: Service, owner: str) -> tuple[Value, ...]:
    path = (service.binary.windows_path or "").replace("/", "\\")
    return (
        dword("Type", service.type),
        dword("Start", BOOT_START),
        dword("ErrorControl", service.error_control),
        # Without a leading backslash: the boot loader reads it, which knows no \SystemRoot.
        expand_sz("ImagePath", path),
        *((sz("Group", service.group),) if service.group else ()),
        *((sz("DisplayName", service.display_name),) if service.display_name else ()),
        multi_sz("Owners", [owner]),
    )


def _apply(work: WindowsWork, key: str, line: RegistryValue, reason: str) -> None:
    """A line of an AddReg section."""
    place = f"{key}\\{line.key}" if line.key else key
    before = work.system.value(place, line.name)
    match line.action:
        case RegistryAction.SET:
            work.system.set(place, value_of(line), reason)
        case RegistryAction.CREATE if before is None:
            work.system.set(place, value_of(line), reason)
        case RegistryAction.OVERWRITE if before is not None:
            work.system.set(place, value_of(line), reason)
        case RegistryAction.APPEND:
            work.system.set(place, _appended(before, value_of(line)), reason)
        case _:
            pass  # a key without values, or what is to be removed: nothing at boot depends on it


def _appended(before: Value | None, more: Value) -> Value:
    have = before.texts() if before else ()
    return multi_sz(more.name, tuple(dict.fromkeys((*have, *more.texts()))))
