"""Xen: paravirtual disks and network cards; a kernel without them gets what Xen's QEMU emulates."""

from __future__ import annotations

from drivers.linux import E1000, PIIX, SD, XEN_BLKFRONT, XEN_NETFRONT
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

PACK = DriverPack(
    name="xen",
    disks=(DiskChoice(DiskBus.XEN_BLK, (XEN_BLKFRONT,)), DiskChoice(DiskBus.IDE, (PIIX, SD))),
    nics=(NicChoice(NicModel.XEN_NET, (XEN_NETFRONT,)), NicChoice(NicModel.E1000, (E1000,))),
    welcome=(XEN_NETFRONT,),
)
