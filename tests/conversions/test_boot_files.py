"""The EFI fallback loader, the console of old systems, families by name, and warnings about LVM."""

from __future__ import annotations

from pathlib import Path

from conversions.changes import Changes
from conversions.console import add_login
from p2v.model import Firmware
from tests.conversions.machines import convert, tree

ESP = "/boot/efi/EFI"


def test_a_uefi_guest_gets_the_loader_that_firmware_looks_for(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.mkdir(f"{ESP}/debian")
    guest.write(f"{ESP}/debian/shimx64.efi", b"shim")
    guest.write(f"{ESP}/debian/grubx64.efi", b"grub")
    conversion = convert(guest, firmware=Firmware.UEFI)
    assert guest.read(f"{ESP}/BOOT/BOOTX64.EFI") == b"shim"
    assert guest.read(f"{ESP}/BOOT/grubx64.efi") == b"grub"
    assert f"{ESP}/BOOT/BOOTX64.EFI" in [change.path for change in conversion.changes]
    assert convert(guest, firmware=Firmware.UEFI).changes == ()


def test_a_loader_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    for path in ("debian/grubx64.efi", "BOOT/BOOTX64.EFI"):
        guest.mkdir(f"{ESP}/{path}".rsplit("/", 1)[0])
        guest.write(f"{ESP}/{path}", path.encode())
    convert(guest, firmware=Firmware.UEFI)
    assert guest.read(f"{ESP}/BOOT/BOOTX64.EFI") == b"BOOT/BOOTX64.EFI"


def test_a_uefi_guest_without_any_loader_is_said(tmp_path: Path) -> None:
    assert any("/boot/efi" in text for text in convert(tree(tmp_path), firmware=Firmware.UEFI).warnings)


def test_a_system_without_systemd_gets_a_login_on_the_port(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove("/usr/lib/systemd/systemd")
    guest.write("/etc/inittab", b"id:2:initdefault:\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n")
    guest.write("/etc/securetty", b"tty1\n")
    add_login(Changes(guest))
    assert guest.read("/etc/inittab").decode().splitlines()[-1].startswith("T0:2345:respawn:/sbin/getty")
    assert guest.read("/etc/securetty") == b"tty1\nttyS0\n"
    changes = Changes(guest)
    add_login(changes)
    assert changes.changes == ()
