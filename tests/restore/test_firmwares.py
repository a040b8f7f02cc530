"""GRUB for the other kind of firmware, and the entry for the guest's own loader: on a tree of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.model import Disk, Firmware, Machine, OperatingSystem, Partition, TableKind
from p2v.restore.firmwares import ESP_TYPES, change_firmware, entries_of
from p2v.restore.relayout import BIOS_BOOT
from tests.tree_guest import TreeGuest

GUESTS = Path(__file__).parents[2] / "fixtures/guests"
TABLE = "6f8f7c62-1d6c-4c62-9d4e-0c5d0f3b7a11"
DISK = Disk(
    "/dev/sda",
    1 << 30,
    table=TableKind.GPT,
    table_id=TABLE,
    partitions=(
        Partition(1, 1 << 20, 1 << 20, BIOS_BOOT),
        Partition(2, 2 << 20, 100 << 20, ESP_TYPES[0]),
        Partition(3, 102 << 20, 800 << 20, "83"),
    ),
)
SYSTEM = OperatingSystem("debian", "12", "Debian GNU/Linux 12 (bookworm)", "debian")
MENU = "menuentry 'Debian' {\n\tlinux /boot/vmlinuz root=UUID=1\n\tinitrd /boot/initrd.img\n}\n"
PARTITIONS = """major minor  #blocks  name

   8        0      98304 sda
   8       16    1048576 sdb
   8       17       1024 sdb1
 253        0    2097152 dm-0
"""
"""/proc/partitions of an appliance whose own disk was found first."""
MACHINE = Machine("metal", Firmware.BIOS, 1, 1 << 30, (DISK,), os=SYSTEM)


class Mounted(TreeGuest):
    """A guest of one disk, its root mounted; the EFI system partition is mounted as a folder with `files`."""

    def __init__(self, root: Path, *files: str, programs: Sequence[str] = ()) -> None:
        super().__init__(root)
        self.commands["grub-install"] = self.commands["grub2-install"] = lambda guest, argv: ""
        self.commands["cat"] = lambda guest, argv: PARTITIONS
        self.commands["blkid"] = self.blkid
        self.tables = {"/dev/sdb": f"{TABLE}\n"}
        self.places = {"/": "/dev/sda3"}
        self.files = files
        for path in ("/usr/sbin", "/boot/grub", *programs):
            self.mkdir(path)
        self.write("/usr/sbin/grub-install", b"")
        self.write("/boot/grub/grub.cfg", MENU.encode())

    def blkid(self, guest: TreeGuest, argv: Sequence[str]) -> str:
        """Ends with an error for a disk without a table, as blkid does."""
        if argv[-1] not in self.tables:
            raise GuestError("blkid: exit code 2")
        return self.tables[argv[-1]]

    @property
    def installed(self) -> list[tuple[str, ...]]:
        return [argv for argv in self.ran if argv[0].endswith("-install")]

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
    ((program, *options),) = guest.installed
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
    assert guest.installed == [("/usr/sbin/grub-install", "--target=i386-pc", "/dev/sdb")]
    assert guest.read("/boot/grub/grub.cfg").decode() == MENU


@pytest.mark.parametrize("tables", [{}, {"/dev/sda": TABLE, "/dev/sdb": TABLE}])
def test_grub_goes_onto_no_disk_that_may_be_another(tmp_path: Path, tables: dict[str, str]) -> None:
    guest = Mounted(tmp_path, programs=["/usr/lib/grub/i386-pc"])
    guest.tables = tables
    with pytest.raises(GuestError, match="not to be told from the others"):
        change_firmware(guest.as_guest(), MACHINE, Firmware.UEFI, Firmware.BIOS)
    assert guest.installed == []


def test_a_menu_for_uefi_alone_becomes_one_for_both(tmp_path: Path) -> None:
    """The menu is that of a SLES 15 that was installed for UEFI."""
    guest = Mounted(tmp_path, programs=["/usr/lib/grub/i386-pc"])
    before = (GUESTS / "sles15-uefi/before/boot/grub2/grub.cfg").read_text()
    guest.mkdir("/boot/grub2")
    guest.write("/boot/grub2/grub.cfg", before.encode())
    change_firmware(guest.as_guest(), MACHINE, Firmware.UEFI, Firmware.BIOS)
    after = guest.read("/boot/grub2/grub.cfg").decode()
    assert "linuxefi" in before
    assert "efi " not in after
    assert after.split() == [{"linuxefi": "linux", "initrdefi": "initrd"}.get(w, w) for w in before.split()]


def test_a_menu_that_only_the_esp_has_is_refused(tmp_path: Path) -> None:
    """As Red Hat 7 and 8 with UEFI have it: a BIOS would show an empty prompt."""
    guest = Mounted(tmp_path, programs=["/usr/lib/grub/i386-pc"])
    guest.remove("/boot/grub/grub.cfg")
    with pytest.raises(GuestError, match="has no menu of GRUB") as refused:
        change_firmware(guest.as_guest(), MACHINE, Firmware.UEFI, Firmware.BIOS)
    assert "grub2-mkconfig -o /boot/grub2/grub.cfg" in refused.value.hint
    assert guest.installed == []


@pytest.mark.parametrize(
    ("family", "image", "metal", "command"),
    [
        ("debian", Firmware.BIOS, Firmware.UEFI, "apt install grub-efi-amd64-bin"),
        ("debian", Firmware.UEFI, Firmware.BIOS, "apt install grub-pc-bin"),
        ("redhat", Firmware.UEFI, Firmware.BIOS, "dnf install grub2-pc"),
        ("suse", Firmware.UEFI, Firmware.BIOS, "zypper install grub2-i386-pc"),
    ],
)
def test_a_system_without_that_grub_is_refused(
    tmp_path: Path, family: str, image: Firmware, metal: Firmware, command: str
) -> None:
    guest = Mounted(tmp_path)
    machine = replace(MACHINE, os=replace(SYSTEM, family=family))
    with pytest.raises(GuestError, match="has no GRUB for") as refused:
        change_firmware(guest.as_guest(), machine, image, metal)
    assert command in refused.value.hint
    assert guest.installed == []


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
