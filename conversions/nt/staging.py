"""Drivers laid down for Windows' own installation: a folder each, which DevicePath names.

Windows looks through DevicePath when it meets a device, and the first boot hands each INF to pnputil. This
is also where the files of a boot driver come from when Windows installs it properly.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence

from conversions.nt.registry import ValueType, expand_sz
from conversions.nt.work import WindowsWork
from drivers.inf.index import DriverIndex, packages
from drivers.inf.model import DriverPackage, Windows
from drivers.inf.text import InfError
from drivers.windows import VENDORS
from p2v.errors import GuestError

STAGED = "Drivers/p2v"
"""Below the folder of Windows."""
FILE_LIMIT = 256 << 20
"""Bytes of the largest file of a package."""
CURRENT_VERSION = "Microsoft\\Windows\\CurrentVersion"
REASON = "drivers for Windows to install by itself"


def stage(work: WindowsWork, index: DriverIndex, chosen: Sequence[DriverPackage]) -> None:
    """Lay down packages, and add their folders to DevicePath."""
    for package in chosen:
        copy_package(work, index, package, f"{STAGED}/{stem(package)}", REASON)
    _extend_device_path(work, [stem(package) for package in chosen])


def further_packages(work: WindowsWork, index: DriverIndex, windows: Windows) -> Iterator[DriverPackage]:
    """Packages for the other devices of the platform: those of its maker."""
    pack = work.request.pack.name
    makers = [maker for start, makers in VENDORS.items() if pack.startswith(start) for maker in makers]
    for package in packages(index, windows).usable:
        ids = [descriptor.device_id.upper() for descriptor in package.descriptors]
        if any(maker in identifier for maker in makers for identifier in ids):
            yield package


def copy_package(
    work: WindowsWork, index: DriverIndex, package: DriverPackage, folder: str, reason: str
) -> None:
    """Copy the files of a package to a folder below that of Windows, as they lie beside its INF."""
    for source in package.contents:
        place = work.in_windows(folder, *beside(package, source))
        work.changes.write_bytes(place, content(index, source), reason)


def content(index: DriverIndex, source: str) -> bytes:
    """A file of the pack. Raises GuestError where it is gone, or is too large for a driver."""
    try:
        if index.tree.size(source) > FILE_LIMIT:
            raise InfError(f"{source} has more than {FILE_LIMIT >> 20} MiB")
        return index.tree.read(source, FILE_LIMIT)
    except InfError as error:
        raise GuestError(f"A driver cannot be read: {error.message}") from error


def size_of(index: DriverIndex, chosen: Iterable[DriverPackage]) -> int:
    """Bytes of the files of packages. Raises GuestError as `content` does."""
    try:
        return sum(index.tree.size(source) for package in chosen for source in package.contents)
    except InfError as error:
        raise GuestError(f"A driver cannot be read: {error.message}") from error


def beside(package: DriverPackage, source: str) -> list[str]:
    """The path of a file from the folder of its INF; what lies elsewhere in the pack comes beside it."""
    folder = posixpath.dirname(package.inf)
    inside = not folder or source.startswith(f"{folder}/")
    names = source.removeprefix(f"{folder}/" if folder else "").split("/")
    return names if inside and ".." not in names else names[-1:]


def stem(package: DriverPackage) -> str:
    return package.name.rsplit(".", 1)[0].lower()


def _extend_device_path(work: WindowsWork, stems: Sequence[str]) -> None:
    before = _device_path(work)
    have = {part.lower() for part in before.split(";")}
    wanted = [f"%SystemRoot%\\{STAGED}\\{name}".replace("/", "\\") for name in stems]
    missing = [part for part in wanted if part.lower() not in have]
    if missing:
        value = expand_sz("DevicePath", ";".join((before, *missing)))
        work.software.set(CURRENT_VERSION, value, REASON)


def _device_path(work: WindowsWork) -> str:
    """As it is; what Windows assumes where it is missing or no text."""
    value = work.software.value(CURRENT_VERSION, "DevicePath")
    if value is None or value.kind not in (ValueType.SZ, ValueType.EXPAND_SZ):
        return "%SystemRoot%\\inf"
    return value.text()
