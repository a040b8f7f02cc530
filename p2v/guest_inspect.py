"""Which filesystem of a guest is its root, what else belongs to it, and which system it is.

libguestfs' own inspection takes 17 s in emulation and reads package databases; this looks at a few files.
What is read is hostile: os-release(5) and fstab(5) are parsed with limits, never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conversions.devices import DeviceNames, device_names
from conversions.os_release import RELEASE_FILES, identify
from conversions.own_names import learn_names
from p2v.errors import GuestError
from p2v.guest import LUKS, Access, Guest
from p2v.guest_mounts import mapping, mount_own, read_crypttab, read_fstab
from p2v.guest_unlock import Keys, unlock
from p2v.model import Disk, Machine, OperatingSystem

ROOT_KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "jfs", "f2fs"})
PLAIN_KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "swap", "vfat", "ntfs", "exfat"})
"""Where a disk has nothing else, the probe has seen all of its filesystems."""
RESERVED = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
"""A partition of Microsoft's own, which never holds a filesystem."""
SMALL = 64 * 1024
MAX_QUESTIONS = 3
IDENTIFIER = re.compile(r"[0-9A-Za-z-]{4,64}")
SUBVOLUME_MARK = "btrfsvol:"
ELF_MACHINES = ((0x3E, "x86_64"), (0x03, "i686"), (0xB7, "aarch64"), (0x28, "armv7l"), (0x15, "ppc64le"))
"""e_machine at offset 18 of an ELF file (System V ABI, and its supplements), and what uname calls it."""
SHELLS = ("/bin/sh", "/usr/bin/sh", "/bin/bash", "/sbin/init")


class NoSystem(GuestError):
    """The disks hold no Linux, or none that can be opened."""


@dataclass(frozen=True, slots=True)
class Root:
    """A filesystem that holds an installed system. `device` is its name in the appliance.

    `subvolume` is what the system's own fstab says that its root is, where it is one of Btrfs. `warnings` are
    about what was left closed. `machine` is the one that was asked with, with the name of its disk that the
    system on it uses, where nobody saw another.
    """

    device: str
    title: str
    machine_id: str = ""
    subvolume: str = ""
    warnings: tuple[str, ...] = ()
    machine: Machine | None = None


def mount_root(
    guest: Guest, *, machine: Machine | None = None, device: str = "", keys: Keys | None = None
) -> Root:
    """Find and mount the root filesystem and what of /usr, /var, /boot, /boot/efi is on others.

    `machine` is what the probe saw: where it knows the root, nothing is searched. `device` chooses one of
    several roots, `keys` open encrypted ones. Raises GuestError where there is none, more than
    one, where it is damaged or where it cannot be written.
    """
    keys = keys or Keys()
    if keys.passphrases:
        unlock(guest, keys.passphrases)
    root = _known_root(guest, machine) if machine and not device else None
    root = root or _choose(guest, _roots_unlocked(guest, machine, keys), device, machine)
    _mount_checked(guest, root.device)
    learned: tuple[str, ...] = ()
    if machine:
        table = (*read_fstab(guest), *read_crypttab(guest))
        found = learn_names(machine, table, _partition(guest, machine, root.device))
        machine, learned = found.machine, found.warnings
    mount_own(guest, machine, device_names(machine) if machine else DeviceNames(()))
    if guest.access is Access.READ_WRITE:
        for folder in ("/", "/boot", "/etc"):
            _check_writable(guest, folder)
    warnings = tuple(_left_closed(place) for place in _closed(guest, machine))
    return replace(root, warnings=(*learned, *warnings), machine=machine)


def _partition(guest: Guest, machine: Machine, device: str) -> tuple[Disk, int] | None:
    """The partition that the appliance calls `device`."""
    for index, disk in enumerate(machine.disks):
        for partition in disk.partitions:
            if guest.partition_device(index, partition.number) == device:
                return disk, partition.number
    return None


def _left_closed(place: str) -> str:
    return f"{place} is encrypted (LUKS) and was left as it is: nothing on it was converted"


def _roots_unlocked(guest: Guest, machine: Machine | None, keys: Keys) -> tuple[Root, ...]:
    """As `find_roots`; where there is none, a person is asked for the key of what is encrypted."""
    roots = _roots(guest, machine)
    for _ in range(MAX_QUESTIONS):
        devices = () if roots else guest.encrypted_devices()
        if not devices or not keys.another(devices):
            break
        unlock(guest, keys.passphrases)
        roots = _roots(guest, machine)
    return roots


def _closed(guest: Guest, machine: Machine | None) -> tuple[str, ...]:
    """Encrypted partitions by what the probe saw, as the appliance calls them, that are not open."""
    seen = _seen_encrypted(guest, machine)
    return tuple(device for device in seen if not guest.exists_device(f"/dev/mapper/{mapping(device)}"))


def _seen_encrypted(guest: Guest, machine: Machine | None) -> tuple[str, ...]:
    return tuple(
        guest.partition_device(index, partition.number)
        for index, disk in enumerate(machine.disks if machine else ())
        for partition in disk.partitions
        if partition.filesystem and partition.filesystem.kind == LUKS
    )


def find_roots(guest: Guest) -> tuple[Root, ...]:
    """Every filesystem that looks like the root of a system. Nothing is mounted afterwards."""
    return _roots(guest, None)


def _roots(guest: Guest, machine: Machine | None) -> tuple[Root, ...]:
    candidates = [device for device, kind in seen_filesystems(guest, machine) if kind in ROOT_KINDS]
    return _without_snapshots([root for device in candidates for root in _root_on(guest, device)])


def seen_filesystems(guest: Guest, machine: Machine | None) -> tuple[tuple[str, str], ...]:
    """Devices and kinds, by what the probe saw where that is all that there is: libguestfs takes 5 s in
    emulation to look.
    """
    return _seen_filesystems(guest, machine) or guest.filesystems()


def _seen_filesystems(guest: Guest, machine: Machine | None) -> tuple[tuple[str, str], ...]:
    partitions = [
        (index, partition)
        for index, disk in enumerate(machine.disks if machine else ())
        for partition in disk.partitions
        if partition.type_id.lower() != RESERVED
    ]
    kinds = [partition.filesystem.kind if partition.filesystem else "" for _, partition in partitions]
    plain = machine is not None and all(disk.filesystem is None and disk.partitions for disk in machine.disks)
    if not plain or not set(kinds) <= PLAIN_KINDS:
        return ()
    return tuple(
        (guest.partition_device(index, partition.number), kind)
        for (index, partition), kind in zip(partitions, kinds, strict=True)
    )


def operating_system(guest: Guest) -> OperatingSystem | None:
    """The mounted system by its own files, None where none of them names it."""

    def start(path: str) -> str:
        return guest.read_start(path, count=SMALL).decode("utf-8", "replace") if guest.exists(path) else ""

    return identify(start, architecture=_architecture(guest), machine_id=_machine_id(guest))


def _known_root(guest: Guest, machine: Machine) -> Root | None:
    """The root filesystem that the probe saw mounted; None where it saw none, or where it is a subvolume."""
    for disk in machine.disks:
        for partition in disk.partitions:
            filesystem = partition.filesystem
            if partition.mountpoint == "/" and filesystem and IDENTIFIER.fullmatch(filesystem.uuid):
                if filesystem.kind == "btrfs":
                    return None
                device = guest.find_uuid(filesystem.uuid)
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
            title, machine_id = (system.name, system.machine_id) if system else ("Linux", "")
            yield Root(device, title, machine_id, _own_subvolume(guest))
    finally:
        guest.unmount_all()


def _own_subvolume(guest: Guest) -> str:
    """What the system's fstab mounts as its root."""
    for mount in read_fstab(guest):
        if mount.mountpoint == "/":
            options = (option.partition("=") for option in mount.options)
            return next((value.strip("/") for key, _, value in options if key == "subvol"), "")
    return ""


def _without_snapshots(roots: Sequence[Root]) -> tuple[Root, ...]:
    """Of the subvolumes of one Btrfs, the one that is the root: each snapshot of it looks like it."""
    plain = {root.device for root in roots if not root.device.startswith(SUBVOLUME_MARK)}
    kept: list[Root] = []
    for root in roots:
        volume, path = _split_subvolume(root.device)
        if not path or root.subvolume == path or not (root.subvolume or volume in plain):
            kept.append(root)
    # The default subvolume and the one that fstab names are the same one, seen twice.
    named = {_split_subvolume(root.device)[0] for root in kept if root.device.startswith(SUBVOLUME_MARK)}
    return tuple(root for root in kept if root.device not in named)


def _split_subvolume(device: str) -> tuple[str, str]:
    """`btrfsvol:/dev/sda2/@` is the subvolume `@` of /dev/sda2; a volume of LVM has one name more."""
    if not device.startswith(SUBVOLUME_MARK):
        return device, ""
    parts = device.removeprefix(SUBVOLUME_MARK).split("/")
    length = 3 if len(parts) > 2 and _is_disk(parts[2]) else 4
    return "/".join(parts[:length]), "/".join(parts[length:])


def _is_disk(name: str) -> bool:
    return re.fullmatch(r"(?:[shv]d[a-z]+\d*|md\d+|dm-\d+)", name) is not None


def _looks_like_root(guest: Guest) -> bool:
    if any(guest.exists(path) for path in RELEASE_FILES):
        return True
    return guest.exists("/etc/fstab") and (guest.exists("/bin") or guest.is_dir("/usr"))


def _choose(guest: Guest, roots: tuple[Root, ...], device: str, machine: Machine | None) -> Root:
    chosen = [root for root in roots if root.device == device] if device else list(roots)
    if len(chosen) > 1 and machine and machine.os and machine.os.machine_id:
        chosen = [root for root in chosen if root.machine_id == machine.os.machine_id]
    if len(chosen) == 1:
        return chosen[0]
    if not roots:
        raise _no_root(guest)
    listed = ", ".join(f"{root.device} ({root.title})" for root in roots)
    raise GuestError(f"The disks hold several systems: {listed}", hint="Capture the disk of one system only")


def _no_root(guest: Guest) -> NoSystem:
    if guest.encrypted_devices():
        return NoSystem(
            "The guest's system is encrypted (LUKS), and p2v has no key for it",
            hint="Give its passphrase in the first line of a file: --luks-key-file FILE",
        )
    listed = ", ".join(f"{device}: {kind}" for device, kind in guest.filesystems()) or "nothing"
    return NoSystem(
        f"No operating system was found on the disks ({listed[:400]})",
        hint="Was a disk left out? p2v scan shows what is on each",
    )


def _mount_checked(guest: Guest, device: str) -> None:
    """Mount the root, its journal replayed; what the checker finds where it is damaged."""
    said = guest.check_filesystem(device) if guest.has_errors(device) else ""
    try:
        if said:
            raise GuestError(f"The filesystem on {device} is damaged")
        guest.mount(device, "/")
    except GuestError as error:
        said = said or guest.check_filesystem(device)
        raise GuestError(
            f"{error.message}. {said}".strip(),
            hint="Repair it on the source (fsck from a rescue system), then capture again",
        ) from error


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
