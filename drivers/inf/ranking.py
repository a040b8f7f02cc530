"""Which driver suits a device best: ranks as Windows computes them, lower is better.

"How Windows Ranks Drivers", "Identifier Score", "Feature Score", "Signature Score" (windows-driver-docs).
"""

from __future__ import annotations

from collections.abc import Sequence

from drivers.inf.decorations import parse_decoration
from drivers.inf.hints import closeness
from drivers.inf.model import Descriptor, DeviceIds, DriverPackage, IdKind, InstallSection, Match, Windows
from drivers.inf.version import STORAGE_CLASSES

SIGNED, UNSIGNED_NT, UNSIGNED = 0x00, 0x40, 0x80
"""The documentation orders signature scores and gives no numbers; these are in its order."""

TYPE_SCORES = {
    (IdKind.HARDWARE, IdKind.HARDWARE): 0x0000,
    (IdKind.HARDWARE, IdKind.COMPATIBLE): 0x1000,
    (IdKind.COMPATIBLE, IdKind.HARDWARE): 0x2000,
    (IdKind.COMPATIBLE, IdKind.COMPATIBLE): 0x3000,
}
"""By the kind of the device's id, then of the INF's."""

WORST = 0xFFF
BOOT_START = 0


def identifier_score(ids: DeviceIds, descriptor: Descriptor) -> int | None:
    """0xTHHH of an id of an INF for a device; None where they do not match."""
    wanted = descriptor.device_id.upper()
    scores = [
        TYPE_SCORES[kind, descriptor.kind] + min(_position(kind, place, descriptor), WORST)
        for kind, own in ((IdKind.HARDWARE, ids.hardware), (IdKind.COMPATIBLE, ids.compatible))
        for place, each in enumerate(own)
        if each.upper() == wanted
    ]
    return min(scores, default=None)


def rank(package: DriverPackage, install: InstallSection, score: int) -> int:
    """0xSSGGTHHH."""
    return signature_score(package, install) << 24 | install.feature_score << 16 | score


def signature_score(package: DriverPackage, install: InstallSection) -> int:
    """0xSS. Windows takes a package without a catalogue for unsigned, whatever its files carry."""
    if package.catalog:
        return SIGNED
    return UNSIGNED_NT if install.actual.lower() != install.name.lower() else UNSIGNED


def choose(matches: Sequence[Match], windows: Windows) -> Match:
    """The best of several (at least one): lowest rank, then the newest.

    Of INF files of one name that rank the same, the one whose folder is meant for that Windows: builds for
    other versions may be newer by their numbers.
    """
    first = min(matches, key=lambda match: _order(match, windows))
    name = first.package.name.lower()
    same = [each for each in matches if each.rank == first.rank and each.package.name.lower() == name]
    return min(same, key=lambda each: (closeness(each.package.inf, windows), _order(each, windows)))


def newest(packages: Sequence[DriverPackage], windows: Windows) -> DriverPackage:
    """Of packages of one name: that of the folder for that Windows, then the newest, then the nearest."""
    return min(packages, key=lambda each: (closeness(each.inf, windows), _age(each), _gap(each, windows)))


def _order(match: Match, windows: Windows) -> tuple[object, ...]:
    driver = match.install.function_driver
    late = match.package.class_guid in STORAGE_CLASSES and (driver is None or driver.start != BOOT_START)
    package = match.package
    return (match.rank, late, _age(package), _gap(package, windows), package.inf)


def _age(package: DriverPackage) -> tuple[int, ...]:
    return (-package.date.toordinal(), *(-part for part in package.version))


def _gap(package: DriverPackage, windows: Windows) -> tuple[int, int, int]:
    """How far the version that an INF asks for lies below that of a Windows."""
    asked = parse_decoration(package.decoration)
    if asked is None:
        return (windows.major, windows.minor, windows.build)
    return (windows.major - asked.major, windows.minor - asked.minor, windows.build - asked.build)


def _position(kind: IdKind, place: int, descriptor: Descriptor) -> int:
    """0xHHH: of the device's id, and between two compatible ids of the INF's as well."""
    if kind is IdKind.COMPATIBLE and descriptor.kind is IdKind.COMPATIBLE:
        return place + descriptor.position * 0x100
    return place
