"""The boot configuration of Vista and newer (BCD): a hive beside the boot manager, with the partitions to
start.

A copied disk keeps the names of its partitions, and the file stays as it is, but for what is known to stop a
boot. `repair` is for disks that were renamed, and for those of another table. Formats: Microsoft, "BCD
reference" (BcdElementType), and `conversions.nt.disk_ids`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from conversions.nt import mounted_devices
from conversions.nt.disk_ids import Move, Place, located, places, relocated
from conversions.nt.edits import RegistryEdits
from conversions.nt.identify import text_of
from conversions.nt.places import BOOT, ESP, ROOT
from conversions.nt.registry import Readable, Value
from conversions.nt.work import WindowsWork
from p2v.errors import GuestError
from p2v.model import Firmware

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
DEFAULT = "23000003"
PATH = "12000002"
SYSTEM_DEVICE = "21000001"
NO_GRAPHICS = "16000046"
DEVICE_FORMAT = "1"
"""The second digit of an element's number says what it holds; 1 is a device."""
ELEMENT = re.compile(r"[0-9A-Fa-f]{8}")
OBJECTS, ELEMENTS = 4096, 1024
ELEMENT_SIZE = 64 * 1024
PARALLELS = "parallels"
MOVED = "the partition has another name in its table now"


@dataclass(frozen=True, slots=True)
class DefaultEntry:
    """What the boot manager starts: `devices` are the partitions with the system."""

    identifier: str
    path: str
    devices: tuple[Place, ...]


def stores(work: WindowsWork) -> tuple[str, ...]:
    """The paths of the boot configurations that are there, the one that the firmware's boot uses first."""
    esp = work.path(ESP, "EFI", "Microsoft", "Boot", "BCD")
    bios = [work.path(place, "Boot", "BCD") for place in (BOOT, ROOT)]
    ordered = [esp, *bios] if work.request.firmware is Firmware.UEFI else [*bios, esp]
    return tuple(path for path in ordered if work.guest.exists(path))


def default_entry(store: Readable) -> DefaultEntry | None:
    """None where the store names none. Raises GuestError where it is damaged."""
    identifier = text_of(store, _element(BOOT_MANAGER, DEFAULT), "Element")
    if not store.has(f"Objects\\{identifier}\\Elements"):
        return None
    device = store.value(_element(identifier, SYSTEM_DEVICE), "Element")
    path = text_of(store, _element(identifier, PATH), "Element")
    return DefaultEntry(identifier, path, located(device.data) if device else ())


def step(work: WindowsWork) -> None:
    """Look whether the boot configuration fits the machine; only what is known to stop a boot is changed.

    Raises GuestError where it must follow partitions that were renamed, and cannot.
    """
    repair(work, work.request.moves)
    if work.windows.major < 6:
        return
    found = stores(work)
    if not found:
        work.warn("The boot configuration (BCD) of this Windows is on none of the captured disks")
        return
    try:
        with work.opener.read(found[0]) as store:
            entry = default_entry(store)
        _check(work, found[0], entry)
        if entry and _hides_its_screen(work):
            with work.edit_hive(found[0]) as edits:
                key = _element(entry.identifier, NO_GRAPHICS)
                edits.remove_key(
                    key, "Parallels turned the display of the start off, which stays black elsewhere"
                )
    except GuestError as error:
        work.warn(f"{found[0]} could not be checked and was left as it is: {error.message}")


def repair(work: WindowsWork, moves: Sequence[Move]) -> None:
    """Let boot entries and drive letters follow partitions that were renamed; nothing happens without moves.

    Raises GuestError where a hive is damaged: what then starts, nobody knows.
    """
    table = {move.old: move.new for move in moves if move.old != move.new}
    if not table:
        return
    mounted_devices.repair(work.system, table)
    for path in stores(work):
        with work.edit_hive(path) as store:
            repair_store(store, table)


def repair_store(store: RegistryEdits, table: Mapping[Place, Place]) -> None:
    """The same for one boot configuration."""
    for key, value in tuple(_devices(store)):
        store.set(key, replace(value, data=relocated(value.data, table)), MOVED)


def _check(work: WindowsWork, path: str, entry: DefaultEntry | None) -> None:
    renamed = {move.old: move.new for move in work.request.moves}
    known = {renamed.get(place, place) for place in places(work.request.machine.disks)}
    if entry is None:
        work.warn(f"{path} does not say which Windows is started by default")
        return
    if entry.devices and known and not known & set(entry.devices):
        work.warn(f"{path} starts Windows from a partition that is on none of the captured disks")
    wanted = ".efi" if work.request.firmware is Firmware.UEFI else ".exe"
    if entry.path and not entry.path.lower().endswith(wanted):
        work.warn(
            f"{path} starts {entry.path}, which is not for a machine with {work.request.firmware.upper()}"
        )


def _hides_its_screen(work: WindowsWork) -> bool:
    """Windows 11 on Parallels with UEFI, seen by virt-v2v (commit c721d5bb)."""
    return work.request.firmware is Firmware.UEFI and PARALLELS in work.request.machine.vendor.lower()


def _devices(store: Readable) -> Iterator[tuple[str, Value]]:
    for identifier in store.keys("Objects")[:OBJECTS]:
        for element in store.keys(f"Objects\\{identifier}\\Elements")[:ELEMENTS]:
            if ELEMENT.fullmatch(element) and element[1] == DEVICE_FORMAT:
                value = store.value(_element(identifier, element), "Element")
                if value and len(value.data) <= ELEMENT_SIZE:
                    yield _element(identifier, element), value


def _element(identifier: str, element: str) -> str:
    return f"Objects\\{identifier}\\Elements\\{element}"
