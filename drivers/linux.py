"""Linux drivers by the names that the kernel gives them, shared by the packs.

Names and symbols are those of the kernel's own Kconfig and Makefiles (drivers/ata, drivers/block,
drivers/scsi, drivers/message/fusion, drivers/hv, drivers/net). Everything that a driver needs besides itself
(`libata`, `mptbase`, …) is in the guest's modules.dep and not named here.
"""

from __future__ import annotations

from drivers.pack import LinuxDriver

SD = LinuxDriver("sd_mod", "CONFIG_BLK_DEV_SD")

VIRTIO_PCI = LinuxDriver("virtio_pci", "CONFIG_VIRTIO_PCI")
VIRTIO_BLK = LinuxDriver("virtio_blk", "CONFIG_VIRTIO_BLK")
VIRTIO_SCSI = LinuxDriver("virtio_scsi", "CONFIG_SCSI_VIRTIO")
VIRTIO_NET = LinuxDriver("virtio_net", "CONFIG_VIRTIO_NET")

AHCI = LinuxDriver("ahci", "CONFIG_SATA_AHCI")
PIIX = LinuxDriver("ata_piix", "CONFIG_ATA_PIIX")
PIIX_IDE = LinuxDriver("piix", "CONFIG_BLK_DEV_PIIX")
"""Before libata, `/dev/hda`; gone with Linux 5.14."""

IDE_DISK = LinuxDriver("ide_disk", "CONFIG_BLK_DEV_IDEDISK")

PVSCSI = LinuxDriver("vmw_pvscsi", "CONFIG_VMWARE_PVSCSI")
MPTSAS = LinuxDriver("mptsas", "CONFIG_FUSION_SAS")
MPTSPI = LinuxDriver("mptspi", "CONFIG_FUSION_SPI")
MPTSCSIH = LinuxDriver("mptscsih", "CONFIG_FUSION")
"""Until Linux 2.6.14 the driver of all Fusion controllers; since then part of mptspi and mptsas."""

BUSLOGIC = LinuxDriver("BusLogic", "CONFIG_SCSI_BUSLOGIC")

HV_VMBUS = LinuxDriver("hv_vmbus", "CONFIG_HYPERV")
HV_STORVSC = LinuxDriver("hv_storvsc", "CONFIG_HYPERV_STORAGE")
HV_NETVSC = LinuxDriver("hv_netvsc", "CONFIG_HYPERV_NET")
HV_KEYBOARD = LinuxDriver("hyperv_keyboard", "CONFIG_HYPERV_KEYBOARD")

XEN_BLKFRONT = LinuxDriver("xen_blkfront", "CONFIG_XEN_BLKDEV_FRONTEND")
XEN_NETFRONT = LinuxDriver("xen_netfront", "CONFIG_XEN_NETDEV_FRONTEND")

E1000 = LinuxDriver("e1000", "CONFIG_E1000")
E1000E = LinuxDriver("e1000e", "CONFIG_E1000E")
VMXNET3 = LinuxDriver("vmxnet3", "CONFIG_VMXNET3")
PCNET32 = LinuxDriver("pcnet32", "CONFIG_PCNET32")
TULIP = LinuxDriver("tulip", "CONFIG_TULIP")
DE4X5 = LinuxDriver("de4x5", "CONFIG_DE4X5")
