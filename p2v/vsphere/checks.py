"""Refusals before the first byte: name, room on the datastore, what the host offers."""

from __future__ import annotations

import contextlib

from p2v.errors import PlanRefused, TargetError
from p2v.ui import human_size
from p2v.vsphere.api import asking, printable
from p2v.vsphere.inventory import find_machine, same, shown_names
from p2v.vsphere.placement import Place, children
from p2v.vsphere.session import Session
from p2v.vsphere.settings import Location, Needs, Placement, Provisioning, Wire

NAME_LIMIT = 80
"""Characters of a machine's name in vSphere."""


def check(session: Session, place: Place, needs: Needs, wished: Placement) -> Location:
    """The place as names, with warnings. Raises PlanRefused where the machine cannot be put there."""
    hardware = hardware_versions(place)
    _check_hardware(hardware, needs, place)
    _check_host(place, needs, wished)
    _check_name(session, place, needs)
    warnings = _check_room(place, needs, wished)
    return Location(
        product=session.product,
        datacenter=place.datacenter.name,
        folder=place.folder_path,
        host=place.host.name,
        resource_pool=place.pool.name,
        datastore=place.datastore.name,
        free_space=int(place.datastore.get("summary.freeSpace", 0)),
        networks=tuple(Wire(link.source, link.network.name) for link in place.links),
        hardware=hardware,
        warnings=tuple(warnings),
    )


def _check_name(session: Session, place: Place, needs: Needs) -> None:
    name = needs.name
    if not name or len(name) > NAME_LIMIT:
        raise PlanRefused(
            f"vSphere takes names of up to {NAME_LIMIT} characters, not {name!r}", hint="Try: --name"
        )
    present = children(session, place.folder)
    own = find_machine(session, needs.own)
    if any(row.name == name and not same(own, row.ref) for row in present):
        raise PlanRefused(
            f"There is already a {name!r} in the folder {place.folder_path}",
            hint=f"Try: --name with another one; there are: {shown_names(present)}",
        )


def _check_host(place: Place, needs: Needs, wished: Placement) -> None:
    """A host need not have as many threads to hold a machine, but to run it."""
    threads = int(place.host.get("summary.hardware.numCpuThreads", 0))
    if wished.power_on and 0 < threads < needs.cpus:
        raise PlanRefused(
            f"{place.host.name} has {threads} CPU threads and cannot run a machine with {needs.cpus} CPUs",
            hint="Try: --host with a larger one, or without --power-on",
        )


def _check_room(place: Place, needs: Needs, wished: Placement) -> list[str]:
    store, name = place.datastore, printable(place.datastore.name)
    if not store.get("summary.accessible", True):
        raise PlanRefused(f"The datastore {name!r} is not accessible")
    if str(store.get("summary.maintenanceMode", "normal")) != "normal":
        raise PlanRefused(f"The datastore {name!r} is in maintenance")
    _check_largest(int(store.get("info.maxFileSize", 0)), needs, name)
    free = int(store.get("summary.freeSpace", 0))
    capacity = sum(disk.capacity for disk in needs.disks)
    stored = sum(disk.stored for disk in needs.disks)
    # A running machine has a swap file as large as its memory beside its disks.
    swap = needs.memory if wished.power_on else 0
    wanted = (stored if wished.provisioning is Provisioning.THIN else capacity) + swap
    if wanted > free:
        raise PlanRefused(
            f"The datastore {name!r} has {human_size(free)} free; {needs.name} needs {human_size(wanted)}",
            hint="Try: --datastore with another one" + _or_thin(wished.provisioning, stored + swap, free),
        )
    if capacity + swap > free:
        return [
            f"the datastore {name!r} has {human_size(free)} free: the thin disks can grow to "
            f"{human_size(capacity)} and fill it"
        ]
    return []


def _or_thin(provisioning: Provisioning, thin: int, free: int) -> str:
    return ", or --provisioning thin" if provisioning is not Provisioning.THIN and thin <= free else ""


def _check_largest(limit: int, needs: Needs, name: str) -> None:
    largest = max((disk.capacity for disk in needs.disks), default=0)
    if 0 < limit < largest:
        raise PlanRefused(
            f"The datastore {name!r} holds files of at most {human_size(limit)}; a disk of {needs.name} has "
            f"{human_size(largest)}",
            hint="Try: --datastore with one of VMFS 5 or newer",
        )


def hardware_versions(place: Place) -> tuple[str, ...]:
    """`vmx-08` and so on, as the host offers them, oldest first; empty where it does not say."""
    found: set[str] = set()
    browser = place.compute.get("environmentBrowser")
    with contextlib.suppress(TargetError), asking("show its hardware versions"):
        options = browser.QueryConfigOptionDescriptor() if browser is not None else []
        found = {str(option.key) for option in options if _usable(option, place)}
    return tuple(sorted(found, key=_number))


def _usable(option: object, place: Place) -> bool:
    hosts = getattr(option, "host", None) or []
    return bool(getattr(option, "createSupported", True)) and (not hosts or place.host.ref in hosts)


def _number(version: str) -> int:
    digits = version.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _check_hardware(offered: tuple[str, ...], needs: Needs, place: Place) -> None:
    wanted = [word for word in needs.hardware.split() if word.startswith("vmx-")]
    if offered and wanted and not set(wanted) & set(offered):
        raise PlanRefused(
            f"{place.host.name} has virtual hardware up to {offered[-1]}, not {' '.join(wanted)}",
            hint=_older(offered, needs),
        )


def _older(offered: tuple[str, ...], needs: Needs) -> str:
    """The newest product that could be asked for instead."""
    fitting = [(number, name) for name, number in needs.products if f"vmx-{number:02}" in offered]
    return f"Try: --to vsphere:{max(fitting)[1]}" if fitting else ""
