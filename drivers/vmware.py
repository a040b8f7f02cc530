"""VMware: paravirtual devices since ESX 4 (hardware version 7), and what there was before.

Which controllers a hardware version has: VMware's "Virtual Machine Hardware Versions" (KB 1003746) and the
comments in libvirt's src/vmx/vmx.c.
"""

from __future__ import annotations

from drivers.linux import (
    AHCI,
    BUSLOGIC,
    E1000,
    E1000E,
    MPTSAS,
    MPTSCSIH,
    MPTSPI,
    PCNET32,
    PIIX,
    PVSCSI,
    SD,
    VMXNET3,
)
from drivers.pack import DiskChoice, DriverPack, NicChoice
from p2v.model import DiskBus, NicModel

_PVSCSI = DiskChoice(DiskBus.PVSCSI, (PVSCSI, SD))
_SAS = DiskChoice(DiskBus.LSI_SAS, (MPTSAS, SD))
_SPI = DiskChoice(DiskBus.LSI_LOGIC, (MPTSPI, SD))
_FUSION = DiskChoice(DiskBus.LSI_LOGIC, (MPTSCSIH, SD))
_BUSLOGIC = DiskChoice(DiskBus.BUSLOGIC, (BUSLOGIC, SD))
_IDE = DiskChoice(DiskBus.IDE, (PIIX, SD))
_SATA = DiskChoice(DiskBus.SATA, (AHCI, SD))
_E1000 = NicChoice(NicModel.E1000, (E1000,))
_PCNET = NicChoice(NicModel.PCNET, (PCNET32,))

PACK = DriverPack(
    name="vmware",
    disks=(_PVSCSI, _SAS, _SPI, _IDE),
    nics=(NicChoice(NicModel.VMXNET3, (VMXNET3,)), _E1000, NicChoice(NicModel.E1000E, (E1000E,)), _PCNET),
    welcome=(PVSCSI, MPTSAS, MPTSPI, SD),
)
SATA_PACK = DriverPack(
    name="vmware-sata",
    disks=(_PVSCSI, _SAS, _SPI, _SATA, _IDE),
    nics=PACK.nics,
    welcome=(*PACK.welcome, AHCI),
)
"""Hardware version 10 and later has AHCI too."""

OLD_PACK = DriverPack(
    name="vmware-old",
    disks=(_SPI, _FUSION, _BUSLOGIC, _IDE),
    nics=(_E1000, _PCNET),
    welcome=(MPTSPI, BUSLOGIC, SD),
)
"""Before hardware version 7: ESX 3, GSX Server, Workstation 4 to 6."""

FLEXIBLE_PACK = DriverPack(
    name="vmware-flexible", disks=OLD_PACK.disks, nics=(_PCNET, _E1000), welcome=OLD_PACK.welcome
)
"""GSX Server 3 gives every guest an AMD PCnet card."""
