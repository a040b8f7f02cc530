"""A machine of metal: what drives its devices is known to the guest's own kernels, by the devices' ids."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.pack import DeviceId, DiskChoice, DriverPack, LinuxDriver, NicChoice
from p2v.model import DiskBus, NicModel

NAME = "physical"


def pack_for(
    disks: Sequence[DeviceId], nics: Sequence[DeviceId], *, needed: Sequence[LinuxDriver] = ()
) -> DriverPack:
    """The pack of one machine: `disks` are the controllers that its disks are behind, `needed` what is needed
    whatever they are.
    """
    return DriverPack(
        name=NAME,
        disks=(DiskChoice(DiskBus.METAL, tuple(needed), tuple(disks)),),
        nics=(NicChoice(NicModel.METAL, (), tuple(nics)),),
    )
