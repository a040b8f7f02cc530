"""A Windows that goes onto metal: its own drivers for the controllers that a probe saw there."""

from __future__ import annotations

from pathlib import Path

import pytest

import conversions
from drivers.pack import DeviceId
from drivers.physical import pack_for
from fixtures.windows.spec import GUESTS, STATIC_MAC
from p2v.errors import GuestError
from p2v.hives import GuestHives
from p2v.model import Conversion, DiskBus, Firmware, PlannedNic
from p2v.restore.hardware import PHYSICAL
from tests.conversions.nt.windows_guests import guest_tree, machine

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

PERC_H730 = DeviceId("pci:v00001000d0000005Dsv00001028sd00001F47bc01sc04i00", "megaraid_sas")
AHCI = DeviceId("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci")
NVME = DeviceId("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", "nvme")
NOBODYS = DeviceId("pci:v00001D17d00001234sv00001D17sd00000000bc01sc07i00", "")
I350 = DeviceId("pci:v00008086d00001521sv00008086sd00000001bc02sc00i00", "igb")


def onto_metal(folder: Path, name: str, *disks: DeviceId) -> Conversion:
    guest = guest_tree(name, folder)
    spec = GUESTS[name]
    return conversions.convert(
        guest,
        machine(spec),
        nics=(PlannedNic(STATIC_MAC, "Ethernet"),),
        firmware=Firmware(spec.firmware),
        platform=PHYSICAL,
        pack=pack_for(disks, [I350]),
        hives=GuestHives(guest),
    )


@pytest.mark.parametrize("device", [PERC_H730, AHCI, NVME])
def test_windows_10_starts_on_what_it_knows(tmp_path: Path, device: DeviceId) -> None:
    conversion = onto_metal(tmp_path, "10", device)
    assert conversion.disk_bus is DiskBus.METAL
    changed = {change.key.lower() for change in conversion.registry}
    # Windows starts a disk driver that it did not need at the boot before only without this key.
    assert any(key.endswith("\\services\\percsas3i\\startoverride") for key in changed), sorted(changed)


def test_a_controller_that_it_does_not_know_is_refused_by_its_id(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="VEN_1D17&DEV_1234"):
        onto_metal(tmp_path, "10", NOBODYS)


def test_windows_7_knows_ahci_by_its_class(tmp_path: Path) -> None:
    assert onto_metal(tmp_path, "7", AHCI).disk_bus is DiskBus.METAL


def test_windows_7_has_no_driver_for_nvme(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no driver for the disk controller"):
        onto_metal(tmp_path, "7", NVME)
