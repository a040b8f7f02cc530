"""The guest's own GRUB 2, installed by its own grub-install for a firmware that did not start it so far."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.model import Disk, Firmware, Machine, OperatingSystem

INSTALLERS = ("/usr/sbin/grub-install", "/usr/sbin/grub2-install", "/sbin/grub2-install")
PROGRAMS = {Firmware.UEFI: "/usr/lib/grub/x86_64-efi", Firmware.BIOS: "/usr/lib/grub/i386-pc"}
MENUS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
PACKAGES = {
    "debian": ("apt install", {Firmware.UEFI: "grub-efi-amd64-bin", Firmware.BIOS: "grub-pc-bin"}),
    "redhat": (
        "dnf install",
        {Firmware.UEFI: "grub2-efi-x64-modules", Firmware.BIOS: "grub2-pc grub2-pc-modules"},
    ),
    "suse": ("zypper install", {Firmware.UEFI: "grub2-x86_64-efi", Firmware.BIOS: "grub2-i386-pc"}),
    "arch": ("pacman -S", {Firmware.UEFI: "grub", Firmware.BIOS: "grub"}),
    "alpine": ("apk add", {Firmware.UEFI: "grub-efi", Firmware.BIOS: "grub-bios"}),
}
"""By family: what holds GRUB for each firmware."""
ONE_FIRMWARE = re.compile(r"^(?P<command>[ \t]*(?:linux|initrd))(?:16|efi)(?=[ \t])", re.MULTILINE)
"""Commands of Red Hat's and SUSE's GRUB that it has for one firmware only; without the ending, for both."""
STARTS = re.compile(r"^[ \t]*(?:linux(?:16|efi)?[ \t]|blscfg\b)", re.MULTILINE)
WHOLE_DISK = re.compile(r"(?:sd|vd|hd)[a-z]{1,3}|nvme\d+n\d+")


def install(guest: Guest, machine: Machine, firmware: Firmware, *, esp: str) -> None:
    """Install GRUB for `firmware`, and make its menu one that it understands. `esp` is where the EFI system
    partition is mounted.

    Raises GuestError where the guest has no GRUB for it, or no menu that it could show.
    """
    program = next((path for path in INSTALLERS if guest.exists(path)), "")
    if not program or not guest.is_dir(PROGRAMS[firmware]):
        raise GuestError(
            f"The guest was not installed for {firmware.upper()} and has no GRUB for it",
            hint=f"Install it on the source, then capture again{_how(machine.os, firmware)}",
        )
    menus = _menus(guest)
    if firmware is Firmware.UEFI:
        where = ["--target=x86_64-efi", f"--efi-directory={esp}", "--no-nvram", "--removable"]
    else:
        where = ["--target=i386-pc", disk_in_appliance(guest, machine.disks[0])]
    guest.run([program, *where])
    for path, text in menus:
        if (plain := for_any_firmware(text)) != text:
            guest.write(path, plain.encode("utf-8", "surrogateescape"))


def _how(system: OperatingSystem | None, firmware: Firmware) -> str:
    command, packages = PACKAGES.get(system.family if system else "", ("", {}))
    return f": {command} {packages[firmware]}" if packages else ""


def _menus(guest: Guest) -> list[tuple[str, str]]:
    """The menus in /boot. Raises GuestError where there is none: on the ESP no other firmware looks."""
    paths = [path for path in MENUS if guest.exists(path)]
    found = [(path, guest.read(path).decode("utf-8", "surrogateescape")) for path in paths]
    if not any(STARTS.search(text) for _, text in found):
        raise GuestError(
            f"The guest has no menu of GRUB in {MENUS[0]} or {MENUS[1]} that starts a kernel: its only one is"
            " for the firmware that it was installed for",
            hint=f"Make it on the source, then capture again: grub2-mkconfig -o {MENUS[1]}",
        )
    return found


def for_any_firmware(text: str) -> str:
    """A grub.cfg whose kernels start by BIOS and by UEFI."""
    return ONE_FIRMWARE.sub(lambda found: found["command"], text)


def disk_in_appliance(guest: Guest, disk: Disk) -> str:
    """What programs in the guest call `disk`: libguestfs has names of its own, and theirs may be those of
    another disk, the appliance's own among them. Raises GuestError.
    """
    found = [name for name in _disks_in_appliance(guest) if _table_id(guest, name) == disk.table_id]
    if not disk.table_id or len(found) != 1:
        raise GuestError(f"{disk.path} is not to be told from the others by its partition table")
    return found[0]


def _disks_in_appliance(guest: Guest) -> Iterator[str]:
    for line in guest.run(["cat", "/proc/partitions"]).splitlines():
        name = line.split()[-1] if line.split() else ""
        if WHOLE_DISK.fullmatch(name):
            yield f"/dev/{name}"


def _table_id(guest: Guest, name: str) -> str:
    """As blkid(8) shows it: eight hexadecimal digits of an MBR, the GUID of a GPT; empty without a table."""
    with suppress(GuestError):
        return guest.run(["blkid", "-p", "-o", "value", "-s", "PTUUID", name]).strip().lower()
    return ""
