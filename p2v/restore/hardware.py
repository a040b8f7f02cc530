"""The physical machine as a platform: what its devices are to a conversion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from drivers import physical
from drivers.linux import SD, VIRTIO_BLK, VIRTIO_SCSI
from drivers.pack import DeviceId, DriverPack, LinuxDriver
from p2v.model import Disk, DiskBus, ImageFormat, NicModel, Platform
from p2v.restore.model import Metal, PciDevice

PHYSICAL = Platform(
    name=physical.NAME,
    title="this physical machine",
    disk_bus=DiskBus.METAL,
    nic_model=NicModel.METAL,
    image_format=ImageFormat.RAW,
    driver_pack=physical.NAME,
)
ADDRESS = re.compile(r"(?<![0-9a-f])[0-9a-f]{4,5}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
NVME = 0x0108
VIRTIO = 0x1AF4
VIRTIO_DISKS = {
    0x1001: (VIRTIO_BLK,),
    0x1042: (VIRTIO_BLK,),
    0x1004: (VIRTIO_SCSI, SD),
    0x1048: (VIRTIO_SCSI, SD),
}
"""PCI device ids of virtio 1.2, 4.1.2.1: transitional and modern ones; behind them is a bus of its own."""


def modalias(device: PciDevice) -> str:
    """As the kernel writes it (drivers/pci/pci-sysfs.c, modalias_show)."""
    numbers = (device.vendor, device.device, device.subsystem_vendor, device.subsystem_device)
    words = "".join(f"{key}{number:08X}" for key, number in zip(("v", "d", "sv", "sd"), numbers, strict=True))
    code = device.class_code
    return f"pci:{words}bc{code >> 16 & 0xFF:02X}sc{code >> 8 & 0xFF:02X}i{code & 0xFF:02X}"


def pack_of(metal: Metal, targets: Sequence[Disk]) -> DriverPack:
    """What a kernel needs to find `targets` and to use the network of this machine."""
    controllers = controllers_of(metal, targets)
    cards = [device for device in metal.devices if device.is_network]
    return physical.pack_for(
        [DeviceId(modalias(device), device.driver) for device in controllers],
        [DeviceId(modalias(device), device.driver) for device in cards],
        needed=tuple(dict.fromkeys(driver for device in controllers for driver in _behind(device))),
    )


def controllers_of(metal: Metal, targets: Sequence[Disk]) -> tuple[PciDevice, ...]:
    """The controllers that the disks are behind, by their place (/dev/disk/by-path); else all that drive
    anything.
    """
    addresses = {address for disk in targets for address in _addresses(disk)}
    exact = tuple(device for device in metal.devices if device.address in addresses)
    storage = tuple(device for device in metal.devices if device.is_storage)
    return exact or tuple(device for device in storage if device.driver) or storage


def _addresses(disk: Disk) -> Iterator[str]:
    for name in disk.names:
        if name.startswith("/dev/disk/by-path/"):
            yield from ADDRESS.findall(name)


def _behind(device: PciDevice) -> tuple[LinuxDriver, ...]:
    """What a disk needs besides its controller's driver."""
    if device.vendor == VIRTIO:
        return VIRTIO_DISKS.get(device.device, (SD,))
    return () if device.class_code >> 8 == NVME else (SD,)
