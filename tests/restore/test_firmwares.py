"""GRUB for the other kind of firmware, and the entry for the guest's own loader: on a tree of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.model import Disk, Firmware, Machine, OperatingSystem, Partition, TableKind
from p2v.restore.firmwares import ESP_TYPES, change_firmware, entries_of
from p2v.restore.relayout import BIOS_BOOT
from tests.tree_guest import TreeGuest

DISK = Disk(
    "/dev/sda",
    1 << 30,
    table=TableKind.GPT,
    partitions=(
        Partition(1, 1 << 20, 1 << 20, BIOS_BOOT),
        Partition(2, 2 << 20, 100 << 20, ESP_TYPES[0]),
        Partition(3, 102 << 20, 800 << 20, "83"),
    ),
)
SYSTEM = OperatingSystem("debian", "12", "Debian GNU/Linux 12 (bookworm)", "debian")
MACHINE = Machine("metal", Firmware.BIOS, 1, 1 << 30, (DISK,), os=SYSTEM)


class Mounted(TreeGuest):
    """A guest of one disk, its root mounted; the EFI system partition is mounted as a folder with `files`."""

    def __init__(self, root: Path, *files: str, programs: Sequence[str] = ()) -> None:
        super().__init__(root)
        self.commands["grub-install"] = lambda guest, argv: ""
        self.places = {"/": "/dev/sda3"}
        self.files = files
        for path in ("/usr/sbin", "/boot/grub", *programs):
            self.mkdir(path)
        self.write("/usr/sbin/grub-install", b"")

    def as_guest(self) -> Guest:
        return cast(Guest, self)

    def partition_device(self, index: int, number: int) -> str:
        assert index == 0
        return f"/dev/sda{number or ''}"

    def mounted(self) -> dict[str, str]:
        return self.places

    def mount(self, device: str, at: str) -> None:
        self.places[at] = device
        for path in self.files:
            self.mkdir(f"{at}{path}".rsplit("/", 1)[0])
            self.write(f"{at}{path}", path.encode())


def test_a_bios_system_gets_grub_on_its_esp(tmp_path: Path) -> None:
    guest = Mounted(tmp_path, programs=["/usr/lib/grub/x86_64-efi"])
    (said,) = change_firmware(guest.as_guest(), MACHINE, Firmware.BIOS, Firmware.UEFI)
    assert "UEFI" in said
    assert guest.places["/boot/efi"] == "/dev/sda2"
    ((program, *options),) = guest.ran
    assert program == "/usr/sbin/grub-install"
    assert {"--target=x86_64-efi", "--efi-directory=/boot/efi", "--no-nvram", "--removable"} <= set(options)


def test_a_system_with_both_needs_nothing(tmp_path: Path) -> None:
    """As images of the clouds are: they start from either."""
    guest = Mounted(tmp_path, "/EFI/BOOT/BOOTX64.EFI")
    assert change_firmware(guest.as_guest(), MACHINE, Firmware.BIOS, Firmware.UEFI) == ()
    assert guest.ran == []


def test_a_uefi_system_gets_grub_in_the_boot_partition(tmp_path: Path) -> None:
    guest = Mounted(tmp_path, programs=["/usr/lib/grub/i386-pc"])
    assert change_firmware(guest.as_guest(), MACHINE, Firmware.UEFI, Firmware.BIOS)
    assert guest.ran == [("/usr/sbin/grub-install", "--target=i386-pc", "/dev/sda")]


@pytest.mark.parametrize(
    ("image", "metal", "package"),
    [(Firmware.BIOS, Firmware.UEFI, "grub-efi-amd64-bin"), (Firmware.UEFI, Firmware.BIOS, "grub-pc-bin")],
)
def test_a_system_without_that_grub_is_refused(
    tmp_path: Path, image: Firmware, metal: Firmware, package: str
) -> None:
    guest = Mounted(tmp_path)
    with pytest.raises(GuestError, match="has no GRUB for") as refused:
        change_firmware(guest.as_guest(), MACHINE, image, metal)
    assert package in refused.value.hint


def test_the_same_firmware_changes_nothing(tmp_path: Path) -> None:
    guest = Mounted(tmp_path, "/EFI/debian/grubx64.efi")
    for firmware in Firmware:
        assert change_firmware(guest.as_guest(), MACHINE, firmware, firmware) == ()
    assert guest.ran == []


@pytest.mark.parametrize(
    ("files", "loader"),
    [
        (("/EFI/debian/shimx64.efi", "/EFI/debian/grubx64.efi"), "\\EFI\\debian\\shimx64.efi"),
        (("/EFI/debian/grubx64.efi",), "\\EFI\\debian\\grubx64.efi"),
        (("/EFI/BOOT/BOOTX64.EFI",), "\\EFI\\BOOT\\BOOTX64.EFI"),
    ],
)
def test_the_entry_is_for_the_systems_own_loader(tmp_path: Path, files: tuple[str, ...], loader: str) -> None:
    guest = Mounted(tmp_path, *files)
    guest.mount("/dev/sda2", "/boot/efi")
    (entry,) = entries_of(guest.as_guest(), MACHINE)
    assert (entry.disk, entry.partition, entry.loader) == (0, 2, loader)
    assert entry.title == SYSTEM.name


def test_without_a_loader_there_is_no_entry(tmp_path: Path) -> None:
    assert entries_of(Mounted(tmp_path).as_guest(), MACHINE) == ()
