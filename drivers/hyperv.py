"""Hyper-V. Generation 1 boots from IDE, generation 2 from its own SCSI.

A Linux that has hv_storvsc leaves the emulated IDE disks to it (piix_ignore_devices_quirk in
drivers/ata/ata_piix.c), so it needs that driver to boot from IDE as well; ata_piix comes along for other
emulators, where the machine is proved.
"""

from __future__ import annotations

from drivers.linux import HV_KEYBOARD, HV_NETVSC, HV_STORVSC, HV_VMBUS, PIIX, SD, TULIP
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

_BUS = (HV_VMBUS, HV_STORVSC)
_NETVSC = NicChoice(NicModel.NETVSC, (HV_VMBUS, HV_NETVSC))

GENERATION_1 = DriverPack(
    name="hyperv",
    disks=(DiskChoice(DiskBus.IDE, (*_BUS, PIIX, SD)), DiskChoice(DiskBus.IDE, (PIIX, SD))),
    nics=(_NETVSC, NicChoice(NicModel.TULIP, (TULIP,))),
    welcome=(HV_NETVSC, HV_KEYBOARD),
)
GENERATION_2 = DriverPack(
    name="hyperv-gen2",
    disks=(DiskChoice(DiskBus.HYPERV_SCSI, (*_BUS, SD)),),
    nics=(_NETVSC,),
    welcome=(HV_NETVSC, HV_KEYBOARD),
)
"""Without hyperv_keyboard nobody can type at the console of generation 2: it has no PS/2."""
