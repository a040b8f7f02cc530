"""Entries of a UEFI's boot menu: what is asked of efibootmgr, and what becomes of refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2v.errors import TransportError
from p2v.model import Disk, Firmware, Partition, TableKind
from p2v.restore.firmware import write_entries
from p2v.restore.firmwares import ESP_TYPES, firmware_finding
from p2v.restore.model import FirmwareEntry
from p2v.restore.relayout import BIOS_BOOT

ENTRY = FirmwareEntry("Debian GNU/Linux 12 (bookworm)", 0, 1, "\\EFI\\debian\\shimx64.efi")
SAID = """BootCurrent: 0001
Timeout: 0 seconds
BootOrder: 0001,0000,0003
Boot0000* UiApp
Boot0001* Debian GNU/Linux 12 (bookworm)\tHD(1,GPT,2b3c…)/File(\\EFI\\debian\\grubx64.efi)
Boot0003  Debian GNU/Linux 12 (bookworm)
Boot0004* Debian GNU/Linux 12 (bookworm) of yesterday
"""
"""As efibootmgr 17 and 18 print it; an inactive entry has no asterisk."""


class Rescue:
    """A rescue system with an efibootmgr; `fails` names the option that it refuses."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.ran: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], seconds: float) -> str:
        assert seconds > 0
        self.ran.append(tuple(argv))
        if self.fails in argv:
            raise TransportError("Could not prepare Boot variable: No space left on device")
        return SAID


def test_entries_of_the_same_title_give_way() -> None:
    rescue = Rescue()
    assert write_entries([ENTRY], {0: "/dev/nvme0n1"}, rescue.run) == ()
    assert [words[3] for words in rescue.ran if "--delete-bootnum" in words] == ["0001", "0003"]
    made = rescue.ran[-1]
    pairs = dict(zip(made[3::2], made[4::2], strict=True))
    assert "--create" in made
    assert pairs == {
        "--disk": "/dev/nvme0n1",
        "--part": "1",
        "--label": "Debian GNU/Linux 12 (bookworm)",
        "--loader": "\\EFI\\debian\\shimx64.efi",
    }


def test_firmware_that_takes_no_entry_costs_a_warning() -> None:
    (warning,) = write_entries([ENTRY], {0: "/dev/sda"}, Rescue(fails="--create").run)
    assert "No space left" in warning


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
    title = rescue.ran[-1][rescue.ran[-1].index("--label") + 1]
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
