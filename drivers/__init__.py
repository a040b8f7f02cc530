"""Driver packs by name. A target names its pack in `Platform.driver_pack`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from drivers import hyperv, virtio, virtualbox, virtualserver, vmware, xen
from drivers.pack import DiskChoice, DriverPack, LinuxDriver
from p2v.errors import TargetError

__all__ = ["PACKS", "join", "pack"]

PACKS = (
    virtio.PACK,
    virtio.SCSI_PACK,
    virtio.PARAVIRTUAL_PACK,
    vmware.PACK,
    vmware.SATA_PACK,
    vmware.OLD_PACK,
    vmware.FLEXIBLE_PACK,
    hyperv.GENERATION_1,
    hyperv.GENERATION_2,
    virtualserver.PACK,
    virtualbox.PACK,
    xen.PACK,
)


def pack(name: str) -> DriverPack:
    """The pack called `name`; `a+b` is `a` joined with `b`. Raises TargetError where there is none."""
    if "+" in name:
        return join([pack(each) for each in name.split("+")])
    for known in PACKS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in PACKS)
    raise TargetError(f"There is no driver pack {name!r}", hint=f"Known packs: {names}")


def join(packs: Sequence[DriverPack]) -> DriverPack:
    """One pack for a guest that has to boot on every one of several platforms.

    Buses and cards are those of the first pack; each choice needs in addition what one choice of every other
    pack needs. A guest converted with it can be converted for each platform alone without a further change;
    that says which bus it uses there. Raises TargetError for no pack at all.
    """
    unique = tuple({each.name: each for each in packs}.values())
    if not unique:
        raise TargetError("No driver pack was named")
    if len(unique) == 1:
        return unique[0]
    choices = itertools.product(*(each.disks for each in unique))
    return DriverPack(
        name="+".join(each.name for each in unique),
        disks=tuple(DiskChoice(chosen[0].bus, _all_needed(chosen)) for chosen in choices),
        nics=unique[0].nics,
        welcome=_once(driver for each in unique for driver in (*each.welcome, *_cards(each))),
    )


def _all_needed(chosen: Iterable[DiskChoice]) -> tuple[LinuxDriver, ...]:
    return _once(driver for choice in chosen for driver in choice.needed)


def _cards(known: DriverPack) -> tuple[LinuxDriver, ...]:
    # A rebuilt initramfs takes the cards' drivers along, for roots that are on the network.
    return known.nics[0].needed


def _once(drivers: Iterable[LinuxDriver]) -> tuple[LinuxDriver, ...]:
    return tuple(dict.fromkeys(drivers))
