"""Entries of a UEFI's boot menu: what is asked of efibootmgr, and what becomes of refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2v.errors import ConnectionLost, TransportError
from p2v.model import Disk, Firmware, Partition, TableKind
from p2v.restore.firmware import write_entries
from p2v.restore.firmwares import ESP_TYPES, firmware_finding
from p2v.restore.model import FirmwareEntry
from p2v.restore.relayout import BIOS_BOOT

ENTRY = FirmwareEntry("Debian GNU/Linux 12 (bookworm)", 0, 1, "\\EFI\\debian\\shimx64.efi")
OWN = "HD(1,GPT,2b3c0f7e-3d38-4a0c-9f8e-1d2f3a4b5c6d,0x800,0x40000)"
OTHER = "HD(1,GPT,0b6f24aa-5c1e-4f70-9d7b-6a3b5f1c2d4e,0x800,0x40000)"
MENU = f"""BootCurrent: 0001
Timeout: 0 seconds
BootOrder: 0005,0001,0000,0003
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* Debian GNU/Linux 12 (bookworm)\t{OWN}/File(\\EFI\\debian\\grubx64.efi)
Boot0002* Debian GNU/Linux 12 (bookworm)\t{OTHER}/File(\\EFI\\debian\\shimx64.efi)
Boot0003  Debian GNU/Linux 12 (bookworm)\tPciRoot(0x0)/Pci(0x5,0x0)/{OWN}/\\EFI\\debian\\shimx64.efi
      dp: 04 01 2a 00 01 00 00 00 / 7f ff 04 00
Boot0004* Debian GNU/Linux 12 (bookworm) of yesterday\t{OWN}/File(\\EFI\\debian\\shimx64.efi)
Boot0005* Debian GNU/Linux 12 (bookworm)\t{OWN}/File(\\EFI\\DEBIAN\\shimx64.efi)
"""
"""As efibootmgr 17 and 18 print it; an inactive entry has no asterisk."""


class Rescue:
    """A rescue system with an efibootmgr; `fails` names the option that it refuses."""

    def __init__(
        self, fails: str = "", menu: str = MENU, error: type[TransportError] = TransportError
    ) -> None:
        self.fails = fails
        self.menu = menu
        self.error = error
        self.ran: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], seconds: float) -> str:
        assert seconds > 0
        self.ran.append(tuple(argv))
        if self.fails in argv:
            raise self.error("Could not prepare Boot variable: No space left on device")
        return self.menu if "--verbose" in argv else ""

    @property
    def made(self) -> tuple[str, ...]:
        (found,) = (words for words in self.ran if "--create" in words)
        return found

    @property
    def deleted(self) -> list[str]:
        return [words[3] for words in self.ran if "--delete-bootnum" in words]


def test_entries_of_the_same_title_for_the_same_partition_give_way() -> None:
    """Another disk's system of the same name keeps its entry."""
    rescue = Rescue()
    assert write_entries([ENTRY], {0: "/dev/nvme0n1"}, rescue.run) == ()
    assert rescue.deleted == ["0001", "0003"]
    pairs = dict(zip(rescue.made[3::2], rescue.made[4::2], strict=True))
    assert pairs == {
        "--disk": "/dev/nvme0n1",
        "--part": "1",
        "--label": "Debian GNU/Linux 12 (bookworm)",
        "--loader": "\\EFI\\debian\\shimx64.efi",
    }


@pytest.mark.parametrize("option", ["--create", "--delete-bootnum"])
def test_firmware_that_takes_no_change_costs_a_warning(option: str) -> None:
    (warning,) = write_entries([ENTRY], {0: "/dev/sda"}, Rescue(fails=option).run)
    assert "No space left" in warning


@pytest.mark.parametrize("option", ["--create", "--verbose", "--delete-bootnum"])
def test_a_broken_line_is_no_refusal_of_the_firmware(option: str) -> None:
    with pytest.raises(ConnectionLost):
        write_entries([ENTRY], {0: "/dev/sda"}, Rescue(option, error=ConnectionLost).run)


@pytest.mark.parametrize(
    "menu",
    [
        MENU.replace("BootOrder: 0005,0001", "BootOrder: 0004,0005"),
        MENU.replace("BootOrder: 0005", "BootOrder: 0000"),
        MENU.replace("BootOrder: 0005", "BootOrder: 0009"),
        MENU.replace("BootOrder: 0005", "BootOrder: 0001"),
        "No BootOrder is set; firmware will attempt recovery\n",
    ],
)
def test_an_order_that_the_firmware_keeps_for_itself_is_told(menu: str) -> None:
    """And then nothing else goes, for it may be what the machine starts by."""
    rescue = Rescue(menu=menu)
    (warning,) = write_entries([ENTRY], {0: "/dev/sda"}, rescue.run)
    assert "first" in warning
    assert rescue.deleted == []


@pytest.mark.parametrize(
    "entry",
    [
        FirmwareEntry("x", 0, 1, "\\EFI\\x; reboot"),
        FirmwareEntry("x", 0, 1, "/EFI/BOOT/BOOTX64.EFI"),
        FirmwareEntry("x", 1, 1, "\\EFI\\x.efi"),
    ],
)
def test_what_is_no_place_is_never_run(entry: FirmwareEntry) -> None:
    rescue = Rescue()
    (warning,) = write_entries([entry], {0: "/dev/sda"}, rescue.run)
    assert "not written" in warning
    assert rescue.ran == []


def test_a_title_of_a_guest_is_made_plain() -> None:
    rescue = Rescue()
    write_entries(
        [FirmwareEntry("a\x1b[31mé\n" + "b" * 200, 0, 1, "\\EFI\\x.efi")], {0: "/dev/sda"}, rescue.run
    )
    title = rescue.made[rescue.made.index("--label") + 1]
    assert title.isprintable()
    assert title.isascii()
    assert len(title) <= 60


def disk(table: TableKind, *types: str) -> Disk:
    parts = tuple(
        Partition(number, number << 20, 1 << 20, kind) for number, kind in enumerate(types, start=1)
    )
    return Disk("/dev/sda", 1 << 30, table=table, partitions=parts)


@pytest.mark.parametrize(
    ("one", "image", "metal", "words"),
    [
        (disk(TableKind.GPT, ESP_TYPES[0]), Firmware.UEFI, Firmware.UEFI, ""),
        (disk(TableKind.MBR, "83"), Firmware.BIOS, Firmware.BIOS, ""),
        (disk(TableKind.MBR, "83"), Firmware.BIOS, Firmware.UEFI, "no EFI system partition"),
        (disk(TableKind.GPT, BIOS_BOOT, ESP_TYPES[0]), Firmware.BIOS, Firmware.UEFI, ""),
        (disk(TableKind.MBR, "83", "ef"), Firmware.BIOS, Firmware.UEFI, ""),
        (disk(TableKind.GPT, ESP_TYPES[0]), Firmware.UEFI, Firmware.BIOS, "without a BIOS boot partition"),
        (disk(TableKind.GPT, BIOS_BOOT, ESP_TYPES[0]), Firmware.UEFI, Firmware.BIOS, ""),
    ],
)
def test_another_firmware_needs_what_it_starts_from(
    one: Disk, image: Firmware, metal: Firmware, words: str
) -> None:
    finding = firmware_finding((one,), image, metal)
    assert (finding is None) == (not words)
    assert finding is None or words in finding.message
