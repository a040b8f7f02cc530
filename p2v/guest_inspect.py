"""Which filesystem of a guest is its root, what else belongs to it, and which system it is.

libguestfs' own inspection takes 17 s in emulation and reads package databases; this looks at a few files.
What is read is hostile: os-release(5) and fstab(5) are parsed with limits, never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from conversions.devices import DeviceNames, device_names
from conversions.fstab import Mount, mounts
from conversions.os_release import read_os_release
from p2v.errors import GuestError
from p2v.guest import Access, Guest
from p2v.model import Machine, OperatingSystem

ROOT_KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "jfs", "f2fs"})
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
OWN_MOUNTS = ("/usr", "/var", "/boot", "/boot/efi")
"""What a conversion touches, parents first."""
SMALL = 64 * 1024
IDENTIFIER = re.compile(r"[0-9A-Za-z-]{4,64}")
SUBVOLUME = re.compile(r"subvol(?:id)?=[\w@./-]{1,200}")
ELF_MACHINES = ((0x3E, "x86_64"), (0x03, "i686"), (0xB7, "aarch64"), (0x28, "armv7l"), (0x15, "ppc64le"))
"""e_machine at offset 18 of an ELF file (System V ABI, and its supplements), and what uname calls it."""
SHELLS = ("/bin/sh", "/usr/bin/sh", "/bin/bash", "/sbin/init")


@dataclass(frozen=True, slots=True)
class Root:
    """A filesystem that holds an installed system. `device` is its name in the appliance."""

    device: str
    title: str


def mount_root(guest: Guest, *, machine: Machine | None = None, device: str = "") -> Root:
    """Find and mount the root filesystem and what of /usr, /var, /boot, /boot/efi is on others.

    `machine` is what the probe saw: where it knows the root, nothing is searched. `device` chooses one of
    several roots. Raises GuestError where there is none, more than one, or where it cannot be written.
    """
    names = device_names(machine) if machine else DeviceNames(())
    root = _known_root(guest, machine) if machine and not device else None
    if root is None:
        root = _choose(guest, find_roots(guest), device)
        _mount_checked(guest, root.device)
    for mount in _own_mounts(guest):
        _mount_own(guest, mount, machine, names)
    if guest.access is Access.READ_WRITE:
        for folder in ("/", "/boot", "/etc"):
            _check_writable(guest, folder)
    return root


def find_roots(guest: Guest) -> tuple[Root, ...]:
    """Every filesystem that looks like the root of a system. Nothing is mounted afterwards."""
    found: list[Root] = []
    for device, kind in guest.filesystems():
        if kind in ROOT_KINDS:
            found.extend(_root_on(guest, device))
    return tuple(found)


def operating_system(guest: Guest) -> OperatingSystem | None:
    """The mounted system by its os-release, None where it has none."""
    path = next((path for path in OS_RELEASE if guest.exists(path)), "")
    if not path:
        return None
    text = guest.read(path, limit=SMALL).decode("utf-8", "replace")
    return read_os_release(text, architecture=_architecture(guest), machine_id=_machine_id(guest))


def _known_root(guest: Guest, machine: Machine) -> Root | None:
    """The root filesystem that the probe saw mounted, mounted again; None where it saw none."""
    for disk in machine.disks:
        for partition in disk.partitions:
            filesystem = partition.filesystem
            if partition.mountpoint == "/" and filesystem and IDENTIFIER.fullmatch(filesystem.uuid):
                device = guest.find_uuid(filesystem.uuid)
                _mount_checked(guest, device)
                return Root(device, machine.os.name if machine.os else "Linux")
    return None


def _root_on(guest: Guest, device: str) -> Iterator[Root]:
    try:
        guest.mount(device, "/")
    except GuestError:
        return
    try:
        if _looks_like_root(guest):
            system = operating_system(guest)
            yield Root(device, system.name if system else "Linux")
    finally:
        guest.unmount_all()


def _looks_like_root(guest: Guest) -> bool:
    if any(guest.exists(path) for path in (*OS_RELEASE, "/etc/debian_version")):
        return True
    return guest.exists("/etc/fstab") and (guest.exists("/bin") or guest.is_dir("/usr"))


def _choose(guest: Guest, roots: tuple[Root, ...], device: str) -> Root:
    chosen = [root for root in roots if root.device == device] if device else list(roots)
    if len(chosen) == 1:
        return chosen[0]
    if not roots:
        raise _no_root(guest)
    listed = ", ".join(f"{root.device} ({root.title})" for root in roots)
    raise GuestError(f"The disks hold several systems: {listed}", hint="Capture the disk of one system only")


def _no_root(guest: Guest) -> GuestError:
    found = guest.filesystems()
    if any(kind == "crypto_LUKS" for _, kind in found):
        return GuestError("The guest's system is encrypted (LUKS), and p2v has no key for it")
    listed = ", ".join(f"{device}: {kind}" for device, kind in found) or "nothing"
    return GuestError(
        f"No operating system was found on the disks ({listed[:400]})",
        hint="Was a disk left out? p2v scan shows what is on each",
    )


def _mount_checked(guest: Guest, device: str) -> None:
    try:
        guest.mount(device, "/")
    except GuestError as error:
        said = guest.check_filesystem(device)
        raise GuestError(
            f"{error.message}. {said}".strip(),
            hint="Repair it on the source (fsck from a rescue system), then capture again",
        ) from error


def _own_mounts(guest: Guest) -> tuple[Mount, ...]:
    if not guest.exists("/etc/fstab"):
        return ()
    text = guest.read("/etc/fstab", limit=SMALL * 16).decode("utf-8", "replace")
    found = {mount.mountpoint.rstrip("/"): mount for mount in mounts(text)}
    return tuple(found[path] for path in OWN_MOUNTS if path in found)


def _mount_own(guest: Guest, mount: Mount, machine: Machine | None, names: DeviceNames) -> None:
    try:
        device = _resolve(guest, mount.spec, machine, names)
        options = ",".join(option for option in mount.options if SUBVOLUME.fullmatch(option))
        guest.mount(device, mount.mountpoint.rstrip("/"), options=options)
    except GuestError as error:
        if mount.waits:
            raise GuestError(
                f"{mount.mountpoint} of the guest ({mount.spec}) cannot be mounted: {error.message}",
                hint="If it is on a disk of its own, capture that disk too: p2v scan SOURCE shows the disks",
            ) from error


def _resolve(guest: Guest, spec: str, machine: Machine | None, names: DeviceNames) -> str:
    """What the appliance calls the device of an fstab line."""
    stable = names.stable(spec) or spec
    key, _, value = stable.partition("=")
    value = value.strip("\"'")[:256]
    if stable.startswith("/dev/disk/by-uuid/"):
        return guest.find_uuid(stable.rsplit("/", 1)[-1])
    match key:
        case "UUID":
            return guest.find_uuid(value)
        case "LABEL":
            return guest.find_label(value)
        case "PARTUUID":
            return _partition_by_uuid(guest, value, machine)
    if stable.startswith("/dev/mapper/") or re.fullmatch(r"/dev/[\w+.-]+/[\w+.-]+", stable):
        return stable
    raise GuestError(f"{spec} is on no disk of this run")


def _partition_by_uuid(guest: Guest, identifier: str, machine: Machine | None) -> str:
    for index, disk in enumerate(machine.disks if machine else ()):
        for partition in disk.partitions:
            if partition.uuid and partition.uuid.lower() == identifier.lower():
                return guest.partition_device(index, partition.number)
    raise GuestError(f"PARTUUID={identifier} is on no disk of this run")


def _check_writable(guest: Guest, folder: str) -> None:
    probe = f"{folder.rstrip('/')}/.p2v-write-test"
    try:
        guest.write(probe, b"")
        guest.remove(probe)
    except GuestError as error:
        raise GuestError(
            f"{folder} of the guest cannot be written: {error.message}",
            hint="Repair the filesystem on the source (fsck from a rescue system), then capture again",
        ) from error


def _architecture(guest: Guest) -> str:
    path = next((path for path in SHELLS if guest.exists(path)), "")
    header = guest.read_start(path, count=20) if path else b""
    if not header.startswith(b"\x7fELF"):
        return "x86_64"
    machine = int.from_bytes(header[18:20], "little")
    return next((name for number, name in ELF_MACHINES if number == machine), "unknown")


def _machine_id(guest: Guest) -> str:
    path = "/etc/machine-id"
    text = guest.read_start(path, count=64).decode("ascii", "replace").strip() if guest.exists(path) else ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else ""
