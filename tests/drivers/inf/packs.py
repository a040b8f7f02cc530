"""Small packs for tests: an INF of few lines and the files that it names."""

from __future__ import annotations

from pathlib import Path

from drivers.inf.index import DriverIndex, best, read_index
from drivers.inf.model import Architecture, DeviceIds, Match, NoMatch, Windows
from fixtures.windows.programs import bare

TEN = Windows(10, 0, 19041, Architecture.AMD64)
SEVEN_32 = Windows(6, 1, 7601, Architecture.X86)
DEVICE = DeviceIds(("PCI\\VEN_1234&DEV_0001",), ("PCI\\CC_0100",))

VERSION = """\
[Version]
Signature = "$Windows NT$"
Class = SCSIAdapter
ClassGuid = {4D36E97B-E325-11CE-BFC1-08002BE10318}
Provider = Example
DriverVer = 01/02/2026,1.2.3.4
CatalogFile = a.cat
"""
DEVICES = """\
[Manufacturer]
Example = Devices,NTamd64
[Devices.NTamd64]
%Name% = Install,PCI\\VEN_1234&DEV_0001,PCI\\CC_0100
"""
INSTALL = """\
[DestinationDirs]
DefaultDestDir = 12
[Install]
CopyFiles = @a.sys
[Install.Services]
AddService = a,2,Service
[Service]
ServiceType = 1
StartType = 0
ErrorControl = 1
ServiceBinary = %12%\\a.sys
[Strings]
Name = A device
"""
WHOLE = VERSION + DEVICES + INSTALL


def pack(folder: Path, text: str | bytes = WHOLE, **files: bytes) -> Path:
    """A folder with `a.inf`, `a.sys`, `a.cat`; more or other files by name, `_` for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.inf").write_bytes(text if isinstance(text, bytes) else text.encode())
    named = {"a_sys": bare(Architecture.AMD64), "a_cat": b"catalogue", **files}
    for name, data in named.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def found(folder: Path, windows: Windows = TEN, device: DeviceIds = DEVICE) -> Match:
    """The match for the device, which must be there."""
    outcome = best(read_index(folder), windows, device)
    assert isinstance(outcome, Match), outcome
    return outcome


def reason(folder: Path, windows: Windows = TEN, device: DeviceIds = DEVICE) -> str:
    """Why the device gets no driver: the first reason."""
    outcome = best(read_index(folder), windows, device)
    assert isinstance(outcome, NoMatch), outcome.package.inf
    return outcome.reasons[0]


def rejection(folder: Path) -> str:
    """Why the index took none of the INF files."""
    index: DriverIndex = read_index(folder)
    assert not index.files
    return index.rejected[0].reason
