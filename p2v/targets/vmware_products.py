"""What each VMware product takes: virtual hardware version, limits, devices.

The hardware versions are those of KB 1003746 (as in govmomi's vim25/types/hardware_version.go); limits are
those of VMware's configuration maximums for the release. EFI came with version 8, PVSCSI, SAS and VMXNET3
with 7, SATA with 10, disks beyond 2 TB with ESXi 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2v.model import DiskBus, Firmware, GiB, MiB, NicModel, TiB

OLD_LIMIT = 2 * TiB - 512
NEW_LIMIT = 62 * TiB


@dataclass(frozen=True, slots=True)
class Product:
    """`hosted` runs on top of another system: it keeps its disks in files of that system's filesystem."""

    title: str
    hardware: int
    cpus: int
    memory: int
    disk_size: int
    hosted: bool = False

    @property
    def is_modern(self) -> bool:
        """Whether it has the paravirtual devices."""
        return self.hardware >= 7

    @property
    def firmwares(self) -> tuple[Firmware, ...]:
        return (Firmware.BIOS, Firmware.UEFI) if self.hardware >= 8 else (Firmware.BIOS,)

    @property
    def nics(self) -> int:
        return 10 if self.is_modern else 4

    @property
    def disk_bus(self) -> DiskBus:
        if self.hosted and self.is_modern:
            return DiskBus.LSI_SAS
        return DiskBus.PVSCSI if self.is_modern else DiskBus.LSI_LOGIC

    @property
    def nic_model(self) -> NicModel:
        if self.hardware <= 3:
            return NicModel.PCNET
        return NicModel.VMXNET3 if self.is_modern and not self.hosted else NicModel.E1000

    @property
    def driver_pack(self) -> str:
        if self.hardware >= 10:
            return "vmware-sata"
        if self.is_modern:
            return "vmware"
        return "vmware-old" if self.hardware > 3 else "vmware-flexible"


PRODUCTS = {
    "esx6.7": Product("VMware ESXi 6.7 and later", 14, 128, 6128 * GiB, NEW_LIMIT),
    "esx8": Product("VMware ESXi 8.0", 20, 768, 24 * TiB, NEW_LIMIT),
    "esx7": Product("VMware ESXi 7.0", 17, 256, 6128 * GiB, NEW_LIMIT),
    "esx6.5": Product("VMware ESXi 6.5", 13, 128, 6128 * GiB, NEW_LIMIT),
    "esx6": Product("VMware ESXi 6.0", 11, 128, 4080 * GiB, NEW_LIMIT),
    "esx5.5": Product("VMware ESXi 5.5", 10, 64, 1011 * GiB, NEW_LIMIT),
    "esx5.1": Product("VMware ESXi 5.1", 9, 64, 1011 * GiB, OLD_LIMIT),
    "esx5": Product("VMware ESXi 5.0", 8, 32, 1011 * GiB, OLD_LIMIT),
    "esx4": Product("VMware ESX 4", 7, 8, 255 * GiB, OLD_LIMIT),
    "esx3": Product("VMware ESX Server 3", 4, 4, 16 * GiB, OLD_LIMIT),
    "workstation": Product("VMware Workstation", 14, 16, 64 * GiB, 8 * TiB, hosted=True),
    "gsx": Product("VMware GSX Server 3", 3, 1, 3600 * MiB, 256 * GiB, hosted=True),
}
"""The first is the usual one: 6.7 and everything later run it."""
