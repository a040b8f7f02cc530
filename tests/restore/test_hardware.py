"""What the devices of a machine are to a conversion: their ids, and which of them the disks are behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v.model import Disk, Firmware, Machine
from p2v.restore.hardware import controllers_of, modalias, pack_of
from p2v.restore.model import Metal, PciDevice

AHCI = PciDevice("0000:00:1f.2", 0x8086, 0x2922, 0x1AF4, 0x1100, 2, 0x010601, "ahci")
VMD = PciDevice("0000:64:05.5", 0x8086, 0x201D, 0x8086, 0x0000, 0, 0x010400, "vmd")
NVME = PciDevice("10000:01:00.0", 0x144D, 0xA808, 0x144D, 0xA801, 0, 0x010802, "nvme")
RAID = PciDevice("0000:03:00.0", 0x1000, 0x005D, 0x1028, 0x1F47, 2, 0x010400, "megaraid_sas")
UNUSED = PciDevice("0000:04:00.0", 0x1000, 0x0072, 0x1000, 0x3020, 3, 0x010700, "")
CARD = PciDevice("0000:05:00.0", 0x8086, 0x1521, 0x8086, 0x0001, 1, 0x020000, "igb")
SCSI_CARD = PciDevice("0000:00:05.0", 0x1AF4, 0x1004, 0x1AF4, 0x0008, 0, 0x010000, "virtio-pci")
BLOCK_CARD = PciDevice("0000:00:06.0", 0x1AF4, 0x1042, 0x1AF4, 0x1100, 1, 0x010000, "virtio-pci")


def metal(*devices: PciDevice) -> Metal:
    return Metal(Machine("metal", Firmware.UEFI, 1, 1 << 30, ()), devices)


def disk(*names: str) -> Disk:
    return Disk("/dev/sda", 1 << 30, names=("/dev/sda", *(f"/dev/disk/by-path/{name}" for name in names)))


def test_an_id_is_written_as_the_kernel_writes_it() -> None:
    """Beside sysfs of this machine."""
    folders = [path for path in Path("/sys/bus/pci/devices").glob("*") if (path / "modalias").exists()]
    if not folders:
        pytest.skip("no PCI here")

    def number(folder: Path, name: str) -> int:
        return int((folder / name).read_text(), 16)

    for folder in folders:
        device = PciDevice(
            folder.name,
            number(folder, "vendor"),
            number(folder, "device"),
            number(folder, "subsystem_vendor"),
            number(folder, "subsystem_device"),
            class_code=number(folder, "class"),
        )
        assert modalias(device) == (folder / "modalias").read_text().strip()


def test_the_kernels_own_example() -> None:
    """As a ThinkPad's AHCI shows it in sysfs."""
    device = PciDevice("0000:00:1f.2", 0x8086, 0x1E03, 0x17AA, 0x21F3, 4, 0x010601, "ahci")
    assert modalias(device) == "pci:v00008086d00001E03sv000017AAsd000021F3bc01sc06i01"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("pci-0000:00:1f.2-ata-1",), (AHCI,)),
        (("pci-0000:03:00.0-scsi-0:2:0:0",), (RAID,)),
        (("pci-0000:64:05.5-pci-10000:01:00.0-nvme-1",), (VMD, NVME)),
        ((), (AHCI, VMD, NVME, RAID)),
        (("pci-0000:99:00.0-ata-1",), (AHCI, VMD, NVME, RAID)),
    ],
)
def test_a_disk_is_behind_what_its_place_names(names: tuple[str, ...], found: tuple[PciDevice, ...]) -> None:
    machine = metal(AHCI, VMD, NVME, RAID, UNUSED, CARD)
    assert controllers_of(machine, [disk(*names)]) == found


@pytest.mark.parametrize(
    ("device", "needed"),
    [
        (AHCI, ["sd_mod"]),
        (NVME, []),
        (SCSI_CARD, ["virtio_scsi", "sd_mod"]),
        (BLOCK_CARD, ["virtio_blk"]),
    ],
)
def test_what_a_disk_needs_besides_its_controller(device: PciDevice, needed: list[str]) -> None:
    pack = pack_of(metal(device, CARD), [disk(f"pci-{device.address}-x")])
    (choice,) = pack.disks
    assert [driver.module for driver in choice.needed] == needed
    assert [known.driver for known in choice.devices] == [device.driver]
    assert [known.driver for known in pack.nics[0].devices] == ["igb"]
