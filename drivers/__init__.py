"""Driver packs by name. A target names its pack in `Platform.driver_pack`."""

from __future__ import annotations

from drivers import virtio
from drivers.pack import DriverPack
from p2v.errors import TargetError

PACKS = (virtio.PACK,)


def pack(name: str) -> DriverPack:
    """The pack called `name`; raises TargetError where there is none."""
    for known in PACKS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in PACKS)
    raise TargetError(f"There is no driver pack {name!r}", hint=f"Known packs: {names}")
