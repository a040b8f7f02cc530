"""Oracle VirtualBox: Intel AHCI or PIIX4 IDE, Intel PRO/1000 MT or AMD PCnet."""

from __future__ import annotations

from drivers.linux import AHCI, E1000, PCNET32, PIIX, SD
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

PACK = DriverPack(
    name="virtualbox",
    disks=(DiskChoice(DiskBus.SATA, (AHCI, SD)), DiskChoice(DiskBus.IDE, (PIIX, SD))),
    nics=(NicChoice(NicModel.E1000, (E1000,)), NicChoice(NicModel.PCNET, (PCNET32,))),
    welcome=(AHCI, SD),
)
