"""Virtual machines for the tests of the proof."""

from __future__ import annotations

from pathlib import Path

from p2v.model import (
    DiskBus,
    Firmware,
    ImageFormat,
    MiB,
    NicModel,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)


def machine(
    *files: str | Path,
    bus: DiskBus = DiskBus.VIRTIO_BLK,
    nic: NicModel = NicModel.VIRTIO,
    firmware: Firmware = Firmware.BIOS,
    image_format: ImageFormat = ImageFormat.RAW,
    mac: str = "52:54:00:12:34:56",
    serial: str = "",
) -> VirtualMachine:
    return VirtualMachine(
        name="web01",
        uuid="4c4c4544-0042-3010-8044-b7c04f313332",
        cpus=2,
        memory=1024 * MiB,
        firmware=firmware,
        disks=tuple(VirtualDisk(str(file), image_format, 64 * MiB, bus, serial) for file in files),
        nics=(VirtualNic(mac, nic),),
    )
