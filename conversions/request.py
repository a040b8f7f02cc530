"""What a conversion is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from conversions.nt.disk_ids import Move
from conversions.nt.registry import HiveOpener
from drivers.inf.index import DriverIndex
from drivers.pack import DriverPack, LinuxDriver
from p2v.model import CleanUp, Firmware, Machine, PlannedNic, Platform


@dataclass(frozen=True, slots=True)
class Request:
    """`machine` holds the disks that were captured, no others, and the system that is on them.

    `first_boot` is the content of the script that `clean_up` names. A Windows needs `hives`, and
    `index` holds the drivers that the user gave for it. `moves` are partitions that have, or will have,
    another name in their table than in `machine`.
    """

    machine: Machine
    nics: tuple[PlannedNic, ...]
    firmware: Firmware
    platform: Platform
    pack: DriverPack
    clean_up: CleanUp = field(default_factory=CleanUp)
    first_boot: bytes = b""
    hives: HiveOpener | None = None
    index: DriverIndex | None = None
    moves: tuple[Move, ...] = ()

    @property
    def linux_drivers(self) -> tuple[LinuxDriver, ...]:
        """Every driver that the pack speaks of."""
        disks = [driver for choice in self.pack.disks for driver in choice.needed]
        nics = [driver for choice in self.pack.nics for driver in choice.needed]
        return tuple(dict.fromkeys((*disks, *nics, *self.pack.welcome)))
