"""What hypervisors call the systems inside: VMware's guest identifiers, CIM numbers, VirtualBox's types.

Sources: VMware's VirtualMachineGuestOsIdentifier (vSphere Web Services API) with the hardware version that
came with each; DMTF CIM_OperatingSystem.OSType; VirtualBox' Global.cpp; Proxmox' qm.conf(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2v.model import OperatingSystem, ProductType

ANY_HARDWARE = 99


@dataclass(frozen=True, slots=True)
class GuestNames:
    """The system in the words of several hypervisors.

    `vmx` is `guestOS` of a .vmx, `vim` the same in VMware's API and in an OVF, `cim` the OSType of an OVF.
    """

    vmx: str
    vim: str
    cim: int
    virtualbox: str
    proxmox: str


@dataclass(frozen=True, slots=True)
class _Linux:
    """A distribution: VMware's word for it, numbered or not, and the CIM number of its 32-bit edition."""

    word: str
    cim: int
    virtualbox: str
    numbers: tuple[tuple[int, int], ...] = ()
    """(version, hardware version from which it is known), ascending."""


_DEBIAN = ((4, 4), (5, 4), (6, 8), (7, 10), (8, 11), (9, 13), (10, 14), (11, 17), (12, 20))
_RHEL = ((2, 3), (3, 3), (4, 3), (5, 4), (6, 7), (7, 10), (8, 13), (9, 17))
_SLES = ((10, 4), (11, 7), (12, 10), (15, 13), (16, 20))
_ORACLE = ((6, 8), (7, 10), (8, 13), (9, 17))

_LINUX = {
    "debian": _Linux("debian", 95, "Debian", _DEBIAN),
    "ubuntu": _Linux("ubuntu", 93, "Ubuntu"),
    "rhel": _Linux("rhel", 79, "RedHat", _RHEL),
    "centos": _Linux("centos", 106, "RedHat", ((6, 11), (7, 11), (8, 14), (9, 17))),
    "ol": _Linux("oraclelinux", 108, "Oracle", _ORACLE),
    "rocky": _Linux("rhel", 79, "RedHat", _RHEL),
    "almalinux": _Linux("rhel", 79, "RedHat", _RHEL),
    "fedora": _Linux("fedora", 36, "Fedora"),
    "sles": _Linux("sles", 84, "OpenSUSE", _SLES),
    "opensuse": _Linux("opensuse", 82, "OpenSUSE"),
    "opensuse-leap": _Linux("opensuse", 82, "OpenSUSE"),
}
_VIM_WORDS = {"oraclelinux": "oracleLinux"}
_GENERIC = ((20, "other5xlinux"), (14, "other4xlinux"), (11, "other3xlinux"), (4, "other26xlinux"))
_WIDE_CIM = {36: 101, 79: 80, 82: 83, 84: 85, 93: 94, 95: 96, 106: 107, 108: 109}
"""The CIM numbers of the 64-bit editions."""


@dataclass(frozen=True, slots=True)
class _Windows:
    pattern: str
    vmx: str
    vim: str
    cim: tuple[int, int]
    virtualbox: str
    proxmox: str


_WINDOWS = (
    _Windows("NT 4|NT Server|Windows NT", "winnt", "winNT", (18, 18), "WindowsNT4", "other"),
    _Windows("2025", "windows2022srvnext", "windows2022srvNext_", (1, 102), "Windows2022", "win11"),
    _Windows("2022", "windows2019srvnext", "windows2019srvNext_", (1, 102), "Windows2022", "win11"),
    _Windows("2019", "windows2019srv", "windows2019srv_", (1, 102), "Windows2019", "win10"),
    _Windows("2016", "windows9srv", "windows9Server", (1, 102), "Windows2016", "win10"),
    _Windows("2012", "windows8srv", "windows8Server", (1, 113), "Windows2012", "win8"),
    _Windows("2008 R2", "windows7srv", "windows7Server", (1, 103), "Windows2008", "win7"),
    _Windows("2008", "longhorn", "winLonghorn", (76, 77), "Windows2008", "w2k8"),
    _Windows("2003", "winnetstandard", "winNetStandard", (69, 70), "Windows2003", "w2k3"),
    _Windows("2000", "win2000serv", "win2000Serv", (58, 58), "Windows2000", "w2k"),
    _Windows("Windows 11", "windows11", "windows11_", (1, 102), "Windows11", "win11"),
    _Windows("Windows 10", "windows9", "windows9_", (1, 102), "Windows10", "win10"),
    _Windows("Windows 8", "windows8", "windows8_", (1, 102), "Windows8", "win8"),
    _Windows("Windows 7", "windows7", "windows7_", (105, 105), "Windows7", "win7"),
    _Windows("Vista", "winvista", "winVista", (73, 73), "WindowsVista", "wvista"),
    _Windows("XP", "winxppro", "winXPPro", (67, 71), "WindowsXP", "wxp"),
)
"""The first whose pattern is in the name of the system counts."""

_SERVER_BUILDS = ((26100, "2025"), (20348, "2022"), (17763, "2019"), (0, "2016"))
_CLIENT_BUILDS = ((22000, "Windows 11"), (0, "Windows 10"))
_KERNELS = {
    (6, 3): ("Windows 8.1", "2012 R2"),
    (6, 2): ("Windows 8", "2012"),
    (6, 1): ("Windows 7", "2008 R2"),
    (6, 0): ("Vista", "2008"),
    (5, 2): ("XP", "2003"),
    (5, 1): ("XP", "XP"),
    (5, 0): ("2000", "2000"),
}
"""What a version of the kernel is sold as, to a person and as a server; of 10.0 the build tells it."""

_SINCE = {
    "windows2022srvnext": 20,
    "windows11": 20,
    "windows2019srvnext": 18,
    "windows2019srv": 14,
    "windows9srv": 11,
    "windows9": 11,
    "windows8srv": 8,
    "windows8": 8,
}
"""Hardware versions of VMware that brought a name; older ones call such a system by the name before it."""

_OSINFO = {
    "Windows 11": "win/11", "Windows 10": "win/10", "Windows 8.1": "win/8.1", "Windows 8": "win/8",
    "Windows 7": "win/7", "Vista": "win/vista", "XP": "win/xp", "2000": "win/2k", "2003": "win/2k3",
    "2008": "win/2k8", "2008 R2": "win/2k8r2", "2012": "win/2k12", "2012 R2": "win/2k12r2",
    "2016": "win/2k16", "2019": "win/2k19", "2022": "win/2k22", "2025": "win/2k25",
}  # fmt: skip
"""Below http://microsoft.com/ in the names of libosinfo."""

_NEWEST_CLIENT = next(each for each in _WINDOWS if each.pattern == "Windows 10")


def is_windows(system: OperatingSystem | None) -> bool:
    return system is not None and system.id.lower().startswith("windows")


def is_wide(system: OperatingSystem | None) -> bool:
    """Whether the system is a 64-bit one; what is not known is taken for one."""
    return system is None or system.architecture in ("x86_64", "amd64")


def windows_title(system: OperatingSystem) -> str:
    """What a Windows is sold as, `Windows 10` or `2019`, by its kernel where that is known; else its name."""
    windows = system.windows
    if windows is None:
        return system.name
    is_server = windows.product_type is not ProductType.WORKSTATION
    if windows.version >= (10, 0):
        builds = _SERVER_BUILDS if is_server else _CLIENT_BUILDS
        return next(title for least, title in builds if windows.build >= least)
    return _KERNELS.get(windows.version, (system.name, system.name))[is_server]


def osinfo_id(system: OperatingSystem) -> str:
    """The name that libosinfo has for a Windows, by which virt-manager knows it; empty for another one."""
    word = _OSINFO.get(windows_title(system), "")
    return f"http://microsoft.com/{word}" if word else ""


def guest_names(system: OperatingSystem | None, *, hardware: int = ANY_HARDWARE) -> GuestNames:
    """What a system is called; `hardware` is VMware's hardware version, which limits what it knows."""
    if system is not None and is_windows(system):
        return _windows_names(system, hardware)
    return _linux_names(system, hardware)


def _linux_names(system: OperatingSystem | None, hardware: int) -> GuestNames:
    wide = is_wide(system)
    known = _LINUX.get(system.id.lower()) if system else None
    word = _vmware_word(known, system, hardware)
    cim = known.cim if known else 36
    vim = next(
        (vim + word.removeprefix(vmx) for vmx, vim in _VIM_WORDS.items() if word.startswith(vmx)), word
    )
    vim = vim.replace("xlinux", "xLinux").replace("otherlinux", "otherLinux")
    numbered = word[-1].isdigit()
    return GuestNames(
        vmx=f"{word}-64" if wide else word,
        vim=f"{vim}{'_' if numbered and wide else ''}{'64' if wide else ''}Guest",
        cim=_WIDE_CIM[cim] if wide else cim,
        virtualbox=(known.virtualbox if known else "Linux26") + ("_64" if wide else ""),
        proxmox="l24" if _is_2_4(system) else "l26",
    )


def _vmware_word(known: _Linux | None, system: OperatingSystem | None, hardware: int) -> str:
    generic = next((word for least, word in _GENERIC if hardware >= least), "otherlinux")
    if known is None or system is None:
        return generic
    if not known.numbers:
        return known.word
    version = _major(system)
    least = dict(known.numbers).get(version)
    return f"{known.word}{version}" if least is not None and least <= hardware else generic


def _major(system: OperatingSystem) -> int:
    found = re.match(r"\d{1,4}", system.version)
    return int(found[0]) if found else 0


def _is_2_4(system: OperatingSystem | None) -> bool:
    """Whether it is so old that its kernel is a 2.4: Proxmox then leaves out what confuses it."""
    oldest = {"rhel": 3, "centos": 3, "debian": 3}
    return system is not None and 0 < _major(system) <= oldest.get(system.id.lower(), 0)


def _windows_names(system: OperatingSystem, hardware: int) -> GuestNames:
    wide = is_wide(system)
    title = windows_title(system)
    found = next((each for each in _WINDOWS if re.search(each.pattern, title)), _NEWEST_CLIENT)
    known = _known_to(hardware, found)
    bits = "64" if wide else ""
    return GuestNames(
        vmx=f"{known.vmx}-64" if wide else known.vmx,
        vim=f"{known.vim if wide else known.vim.rstrip('_')}{bits}Guest",
        cim=found.cim[1 if wide else 0],
        virtualbox=found.virtualbox + ("_64" if wide else ""),
        proxmox=found.proxmox,
    )


def _known_to(hardware: int, wanted: _Windows) -> _Windows:
    """The wanted one, or the newest one before it, server or client as it is, that the hardware knows."""
    is_server = "srv" in wanted.vmx
    older = [each for each in _WINDOWS[_WINDOWS.index(wanted) :] if ("srv" in each.vmx) is is_server]
    return next((each for each in older if _SINCE.get(each.vmx, 0) <= hardware), wanted)
