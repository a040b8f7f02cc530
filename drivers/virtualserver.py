"""Microsoft Virtual Server 2005 and Virtual PC: Intel 440BX with PIIX4 IDE, and a DEC 21140 network card."""

from __future__ import annotations

from drivers.linux import DE4X5, IDE_DISK, PIIX, PIIX_IDE, SD, TULIP
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

PACK = DriverPack(
    name="virtualserver",
    disks=(DiskChoice(DiskBus.IDE, (PIIX, SD)), DiskChoice(DiskBus.IDE, (PIIX_IDE, IDE_DISK))),
    nics=(NicChoice(NicModel.TULIP, (TULIP,)), NicChoice(NicModel.TULIP, (DE4X5,))),
    welcome=(TULIP,),
)
