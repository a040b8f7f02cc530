"""What is changed inside a guest. One family of guests per file; a new one adds its line to FAMILIES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversions import alpine, arch, debian, generic, redhat, suse, windows
from conversions.nt.disk_ids import Move
from conversions.nt.registry import HiveOpener
from conversions.protocol import GuestFiles
from conversions.request import Request
from drivers.inf.index import DriverIndex
from drivers.pack import DriverPack
from p2v.errors import GuestError
from p2v.model import CleanUp, Conversion, Firmware, Machine, PlannedNic, Platform


@dataclass(frozen=True, slots=True)
class Family:
    """`ids` are the values of ID and ID_LIKE in os-release that the conversion serves."""

    name: str
    ids: tuple[str, ...]
    convert: Callable[[GuestFiles, Request], Conversion]


FAMILIES = (
    Family("debian", debian.IDS, debian.convert),
    Family("redhat", redhat.IDS, redhat.convert),
    Family("suse", suse.IDS, suse.convert),
    Family("arch", arch.IDS, arch.convert),
    Family("alpine", alpine.IDS, alpine.convert),
    Family("generic", (), generic.convert),
    Family("windows", (), windows.convert),
)


def family_of(os_id: str, id_like: str = "") -> str:
    """The family that serves a system, by ID and ID_LIKE of its os-release; empty for what is no Linux."""
    if not os_id:
        return ""
    words = (os_id.lower(), *id_like.lower().split())
    if generic.OTHER_KERNELS & set(words):
        return ""
    return next((family.name for word in words for family in FAMILIES if word in family.ids), "generic")


def convert(
    guest: GuestFiles,
    machine: Machine,
    *,
    nics: Sequence[PlannedNic],
    firmware: Firmware,
    platform: Platform,
    pack: DriverPack,
    clean_up: CleanUp | None = None,
    first_boot: bytes = b"",
    hives: HiveOpener | None = None,
    index: DriverIndex | None = None,
    moves: Sequence[Move] = (),
) -> Conversion:
    """Make a mounted guest boot on `platform`, and say what it can use there.

    `clean_up` is what the user chose beyond that; `first_boot` is the content of the script that it names.
    `hives` opens the registry of a Windows; `index` holds the drivers that the user gave for it, and
    `moves` the partitions that get another name in their table.

    `machine` holds the captured disks only, in the order of the images, and its system. Raises GuestError
    where no family serves the system, or where its conversion finds that it cannot work.
    """
    name = machine.os.family if machine.os else ""
    for family in FAMILIES:
        if family.name == name:
            wishes = clean_up or CleanUp()
            request = Request(
                machine,
                tuple(nics),
                firmware,
                platform,
                pack,
                wishes,
                first_boot,
                hives=hives,
                index=index,
                moves=tuple(moves),
            )
            return family.convert(guest, request)
    system = machine.os.name if machine.os else "An unknown system"
    served = ", ".join(family.name for family in FAMILIES)
    raise GuestError(
        f"{system} is not a system that p2v can convert (families: {served})",
        hint="The capture is complete: its images can be converted by other means",
    )
