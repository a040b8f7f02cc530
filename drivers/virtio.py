"""KVM's own devices, with those that it emulates for guests that are older."""

from __future__ import annotations

from drivers.linux import (
    AHCI,
    E1000,
    E1000E,
    PCNET32,
    PIIX,
    SD,
    VIRTIO_BLK,
    VIRTIO_NET,
    VIRTIO_PCI,
    VIRTIO_SCSI,
)
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

__all__ = [
    "E1000",
    "E1000E",
    "PACK",
    "PARAVIRTUAL_PACK",
    "SCSI_PACK",
    "VIRTIO_BLK",
    "VIRTIO_NET",
    "VIRTIO_PCI",
]

_BLK = DiskChoice(DiskBus.VIRTIO_BLK, (VIRTIO_PCI, VIRTIO_BLK))
_SCSI = DiskChoice(DiskBus.VIRTIO_SCSI, (VIRTIO_PCI, VIRTIO_SCSI, SD))
_SATA = DiskChoice(DiskBus.SATA, (AHCI, SD))
_IDE = DiskChoice(DiskBus.IDE, (PIIX, SD))
_NICS = (
    NicChoice(NicModel.VIRTIO, (VIRTIO_PCI, VIRTIO_NET)),
    NicChoice(NicModel.E1000, (E1000,)),
    NicChoice(NicModel.E1000E, (E1000E,)),
    # The only one of QEMU's that Windows XP and 2003 drive by themselves.
    NicChoice(NicModel.PCNET, (PCNET32,)),
)

PACK = DriverPack("virtio", disks=(_BLK, _SCSI, _SATA, _IDE), nics=_NICS, welcome=(VIRTIO_SCSI, SD))
SCSI_PACK = DriverPack("virtio-scsi", disks=(_SCSI, _BLK, _SATA, _IDE), nics=_NICS, welcome=(VIRTIO_BLK,))
"""Where disks are SCSI by custom: Proxmox VE, OpenStack."""

PARAVIRTUAL_PACK = DriverPack("virtio-paravirtual", disks=(_BLK, _SCSI, _SATA), nics=_NICS, welcome=(SD,))
"""Where the board is q35 only, which has no IDE: KubeVirt."""
