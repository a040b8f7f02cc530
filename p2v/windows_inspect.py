"""Finding the Windows on a guest's disks: its volume, the one with its loader, and what its hives say of it.

Any folder counts that holds a registry, whatever it is called and however it is spelled: `/Windows`,
`/WINNT`, what boot.ini names. What is read is hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conversions.nt.cards import cards
from conversions.nt.identify import host_name, identify
from conversions.nt.paths import WindowsPaths
from conversions.nt.places import BOOT, ESP, ROOT
from p2v.disk.maps.ntfs_state import HIBERNATED
from p2v.errors import GuestError
from p2v.guest import Access, Guest
from p2v.guest_inspect import seen_filesystems
from p2v.guest_mounts import ESP_TYPE
from p2v.guest_volumes import Volumes, mount_volumes
from p2v.hives import GuestHives
from p2v.model import Finding, Firmware, KiB, Machine, Nic, OperatingSystem, Severity
from p2v.windows_condition import about_architecture, findings

KINDS = frozenset({"ntfs", "vfat"})
SMALL = 64 * KiB
ESP_TYPES = (ESP_TYPE, "ef")
USUAL_ROOTS = ("/windows", "/winnt")
REGISTRY = "[Ss][Yy][Ss][Tt][Ee][Mm]32/[Cc][Oo][Nn][Ff][Ii][Gg]/[Ss][Yy][Ss][Tt][Ee][Mm]"
PROGRAMS = ("ntoskrnl.exe", "cmd.exe")
"""Below System32: their machine type is that of the system."""
MEND = "On the source: chkdsk C: /f, then shutdown /s /f /t 0; then capture again"


@dataclass(frozen=True, slots=True)
class WindowsRoot:
    """A Windows in the folder `folder` (`/Windows`) of a volume; `device` is its name in the appliance.

    `kind` is that of the filesystem: `ntfs`, or `vfat` of an XP.
    """

    device: str
    folder: str
    kind: str = "ntfs"


@dataclass(frozen=True, slots=True)
class WindowsSeen:
    """What the hives say of a mounted Windows."""

    os: OperatingSystem
    hostname: str
    nics: tuple[Nic, ...]
    findings: tuple[Finding, ...]


def find_windows(guest: Guest, machine: Machine | None) -> tuple[WindowsRoot, ...]:
    """Every Windows on the disks. Nothing is mounted afterwards.

    Raises GuestError where there is none, and a volume that may hold one cannot be mounted.
    """
    esps = set(_partitions(guest, machine, ESP_TYPES))
    filesystems = seen_filesystems(guest, machine)
    found: list[WindowsRoot] = []
    failed: list[GuestError] = []
    for device, kind in ((name, kind) for name, kind in filesystems if kind in KINDS and name not in esps):
        try:
            found += _roots_on(guest, device, kind)
        except GuestError as error:
            failed.append(error)
    if not found and failed:
        raise GuestError(failed[0].message, hint=MEND) from failed[0]
    return tuple(found)


def _roots_on(guest: Guest, device: str, kind: str) -> Iterator[WindowsRoot]:
    """At most one: of several on a volume, the one that its loader starts, else the usual one."""
    guest.mount(device, "/")
    try:
        folders = [path.rsplit("/", 3)[0] for path in guest.glob(f"/*/{REGISTRY}")]
        order = (*_boot_ini_folders(guest), *USUAL_ROOTS)
        ranked = sorted(folders, key=lambda folder: _rank(order, folder))
        if ranked:
            yield WindowsRoot(device, ranked[0], kind)
    finally:
        guest.unmount_all()


def _rank(order: Sequence[str], folder: str) -> int:
    return order.index(folder.lower()) if folder.lower() in order else len(order)


def _boot_ini_folders(guest: Guest) -> Iterator[str]:
    """The folders that boot.ini names, in lower case, its default first."""
    for path in guest.glob("/[Bb][Oo][Oo][Tt].[Ii][Nn][Ii]")[:1]:
        text = guest.read_start(path, count=SMALL).decode("cp1252", "replace")
        for found in re.finditer(r"partition\(\d+\)\\([^\s\"=\\]{1,64})", text):
            yield f"/{found[1].lower()}"


def _partitions(guest: Guest, machine: Machine | None, types: Sequence[str]) -> Iterator[str]:
    """The devices of all partitions of these types, by what the probe saw."""
    for index, disk in enumerate(machine.disks if machine else ()):
        for partition in disk.partitions:
            if partition.type_id.lower() in types:
                yield guest.partition_device(index, partition.number)


def mount_windows(guest: Guest, root: WindowsRoot, machine: Machine | None) -> Volumes:
    """Its volume, and that of its loader, as one tree. Raises GuestError where it cannot be written."""
    devices = {ROOT: root.device}
    is_uefi = machine is not None and machine.firmware is Firmware.UEFI
    loader = _loader_volume(guest, machine) if machine else ""
    if loader not in ("", root.device):
        devices[ESP if is_uefi else BOOT] = loader
    try:
        files = mount_volumes(guest, devices)
        if guest.access is Access.READ_WRITE:
            for place in devices:
                _check_writable(files, place)
    except GuestError as error:
        raise GuestError(error.message, hint=MEND) from error
    return files


def _loader_volume(guest: Guest, machine: Machine) -> str:
    """Of UEFI the ESP that holds the loader of Windows, else the first; of a BIOS the active partition."""
    if machine.firmware is not Firmware.UEFI:
        return _active(guest, machine)
    devices = list(_partitions(guest, machine, ESP_TYPES))
    if len(devices) > 1:
        devices.sort(key=lambda device: not _has_loader(guest, device))
    return next(iter(devices), "")


def _has_loader(guest: Guest, device: str) -> bool:
    try:
        guest.mount(device, "/")
        return bool(guest.glob("/[Ee][Ff][Ii]/[Mm][Ii][Cc][Rr][Oo][Ss][Oo][Ff][Tt]"))
    except GuestError:
        return False
    finally:
        guest.unmount_all()


def _active(guest: Guest, machine: Machine) -> str:
    """The active partition of the first disk that has one that Windows could use."""
    for index, disk in enumerate(machine.disks):
        sector = guest.read_device(guest.partition_device(index, 0), 0, 512)
        # 446: four entries of 16 bytes; 0 of each is 0x80 for the active one.
        marked = [
            number for number in range(1, 5) if sector[430 + 16 * number : 431 + 16 * number] == b"\x80"
        ]
        kinds = {part.number: part.filesystem.kind for part in disk.partitions if part.filesystem}
        numbers = [number for number in marked if kinds.get(number) in KINDS]
        if numbers:
            return guest.partition_device(index, numbers[0])
    return ""


def _check_writable(files: Volumes, place: str) -> None:
    """ntfs-3g mounts a volume that is not safe to write without an error, for reading only."""
    probe = f"{place.rstrip('/')}/p2v-write-test"
    try:
        files.write(probe, b"")
        files.remove(probe)
    except GuestError as error:
        raise GuestError(f"A volume of this Windows cannot be written: {error.message}") from error


def look(files: Volumes, hives: GuestHives, root: WindowsRoot, firmware: Firmware | None) -> WindowsSeen:
    """Raises GuestError where the hives are damaged, or do not say which Windows it is."""
    paths = WindowsPaths(files)
    config = paths.find(f"{root.folder}/System32/config")
    system_path, software_path = (paths.find(f"{config}/{name}") for name in ("SYSTEM", "SOFTWARE"))
    missing = [path for path in (system_path, software_path) if not files.exists(path)]
    if missing:
        raise GuestError(f"The Windows in {root.folder} has no {missing[0]}", hint=MEND)
    program = _program(files, paths, root)
    with hives.read(system_path) as system, hives.read(software_path) as software:
        found = identify(system, software, root=root.folder, program=program)
        seen = list(findings(system, software))
        hostname, nics = host_name(system), cards(system)
    if firmware:
        seen += about_architecture(found, firmware)
    if root.kind == "vfat":  # the state of an NTFS volume is read off the disk itself
        seen += _about_hibernation(files)
    return WindowsSeen(found, hostname, nics, tuple(seen))


def _about_hibernation(files: Volumes) -> Iterator[Finding]:
    for path in files.glob("/[Hh][Ii][Bb][Ee][Rr][Ff][Ii][Ll].[Ss][Yy][Ss]"):
        if files.read_start(path, count=4).lower() == HIBERNATED:
            yield Finding(
                Severity.BLOCKER,
                "This Windows is hibernated: what it has in memory is not on the disk, and does not fit "
                "another machine",
                "On the source, start Windows there and shut it down whole: shutdown -s -f -t 0",
            )


def _program(files: Volumes, paths: WindowsPaths, root: WindowsRoot) -> bytes:
    places = [paths.find(f"{root.folder}/System32/{name}") for name in PROGRAMS]
    there = next((place for place in places if files.exists(place)), "")
    return files.read_start(there, count=SMALL) if there else b""
