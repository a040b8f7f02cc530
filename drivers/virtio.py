"""KVM's own devices. What the kernel calls them: drivers/block, drivers/virtio, drivers/ata, drivers/net."""

from __future__ import annotations

from drivers.pack import DiskChoice, DriverPack, LinuxDriver, NicChoice
from p2v.model import DiskBus, NicModel

VIRTIO_PCI = LinuxDriver("virtio_pci", "CONFIG_VIRTIO_PCI")
VIRTIO_BLK = LinuxDriver("virtio_blk", "CONFIG_VIRTIO_BLK")
VIRTIO_SCSI = LinuxDriver("virtio_scsi", "CONFIG_SCSI_VIRTIO")
VIRTIO_NET = LinuxDriver("virtio_net", "CONFIG_VIRTIO_NET")
SD = LinuxDriver("sd_mod", "CONFIG_BLK_DEV_SD")
AHCI = LinuxDriver("ahci", "CONFIG_SATA_AHCI")
PIIX = LinuxDriver("ata_piix", "CONFIG_ATA_PIIX")
E1000E = LinuxDriver("e1000e", "CONFIG_E1000E")
E1000 = LinuxDriver("e1000", "CONFIG_E1000")

PACK = DriverPack(
    name="virtio",
    disks=(
        DiskChoice(DiskBus.VIRTIO_BLK, (VIRTIO_PCI, VIRTIO_BLK)),
        DiskChoice(DiskBus.SATA, (AHCI, SD)),
        DiskChoice(DiskBus.IDE, (PIIX, SD)),
    ),
    nics=(
        NicChoice(NicModel.VIRTIO, (VIRTIO_PCI, VIRTIO_NET)),
        NicChoice(NicModel.E1000, (E1000,)),
        NicChoice(NicModel.E1000E, (E1000E,)),
    ),
    welcome=(VIRTIO_SCSI, SD),
)
