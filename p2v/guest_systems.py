"""The system on a guest's disks, of whatever kind: mounted, and what it says of itself.

Where a Linux and a Windows share the disks, the Linux is the machine and the Windows stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from conversions.network import configured_cards
from conversions.protocol import GuestFiles
from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.guest_inspect import NoSystem, mount_root, operating_system, seen_filesystems
from p2v.guest_unlock import Keys
from p2v.hives import GuestHives
from p2v.model import Finding, Machine, Nic, OperatingSystem, Severity
from p2v.windows_inspect import KINDS, WindowsRoot, find_windows, look, mount_windows

MAX_HOSTNAME = 253
"""RFC 1035, 2.3.4."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a system says of itself; `hostname` is empty where it does not."""

    os: OperatingSystem | None
    hostname: str
    nics: tuple[Nic, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class InstalledSystem:
    """A mounted system: `files` is what a conversion works on, `hives` opens the registry of a Windows.

    `machine` is the one that was asked with, with what was learned of its disks; `look` reads what the
    system says, and raises GuestError where it cannot be read.
    """

    files: GuestFiles
    hives: GuestHives | None
    machine: Machine | None
    warnings: tuple[str, ...]
    look: Callable[[], Seen]


def open_system(guest: Guest, *, machine: Machine | None = None, keys: Keys | None = None) -> InstalledSystem:
    """Find and mount the system. Raises GuestError where there is none, several, or a damaged one."""
    if _is_windows_only(guest, machine) and (found := find_windows(guest, machine)):
        return _open_windows(guest, found, machine)
    try:
        root = mount_root(guest, machine=machine, keys=keys)
    except NoSystem:
        guest.unmount_all()
        # A Windows beside a Linux that nobody can open is not what was asked for.
        found = () if guest.encrypted_devices() else find_windows(guest, machine)
        if not found:
            raise
        return _open_windows(guest, found, machine)
    return InstalledSystem(guest, None, root.machine, root.warnings, lambda: _look_at_linux(guest))


def _is_windows_only(guest: Guest, machine: Machine | None) -> bool:
    if machine and machine.os:
        return machine.os.windows is not None
    return {kind for _, kind in seen_filesystems(guest, machine)} <= KINDS | {"unknown", "exfat", ""}


def _look_at_linux(guest: Guest) -> Seen:
    path = "/etc/hostname"
    name = guest.read(path, limit=4096) if guest.exists(path) else b""
    return Seen(operating_system(guest), _printable(name.decode("utf-8", "replace")), configured_cards(guest))


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable()).strip()[:MAX_HOSTNAME]


def _open_windows(guest: Guest, found: tuple[WindowsRoot, ...], machine: Machine | None) -> InstalledSystem:
    if len(found) > 1:
        listed = ", ".join(f"{root.device} ({root.folder})" for root in found)
        raise GuestError(
            f"The disks hold several systems: {listed}", hint="Capture the disk of one system only"
        )
    root = found[0]
    files = mount_windows(guest, root, machine)
    hives = GuestHives(files)

    def seen() -> Seen:
        said = look(files, hives, root, machine.firmware if machine else None)
        return Seen(said.os, _printable(said.hostname), said.nics, said.findings)

    return InstalledSystem(files, hives, machine, (), seen)


def with_seen(machine: Machine, inside: InstalledSystem) -> Machine:
    """The machine with what the system on its disks says. Raises GuestError."""
    seen = inside.look()
    said = (Finding(Severity.WARNING, warning) for warning in inside.warnings)
    known = inside.machine or machine
    return replace(
        known,
        os=seen.os,
        hostname=seen.hostname or known.hostname,
        nics=seen.nics,
        findings=(*known.findings, *said, *seen.findings),
    )
