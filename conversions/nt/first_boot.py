"""What a Windows does at its first boot on other hardware: a service that finishes the move, and goes.

Its program is cmd.exe, which is no service: it starts the batch file beside itself and ends, so that the
service manager notes a service that did not start (error 1053) and lets the batch file run. That children
of such a service are started is what PsExec-like tools build on; a recorded log shows it (OTRF
Security-Datasets, empire_psexec_dcerpc_tcp_svcctl: service `%COMSPEC% /C start /b …`, then services.exe →
cmd.exe → powershell.exe as SYSTEM, at work 6 s later). That they outlive the 30 s which a service may take to
start was not seen. No helper program of anybody is needed.
"""

from __future__ import annotations

import codecs
import posixpath
import re

from conversions.nt import first_boot_network, first_boot_scripts
from conversions.nt.first_boot_scripts import NAME, Runner
from conversions.nt.registry import dword, expand_sz, sz
from conversions.nt.staging import STAGED
from conversions.nt.static_addresses import Adapter, Assignment, adapters, assignments, has_ipv6_addresses
from conversions.nt.work import WindowsWork
from drivers.inf.text import FILE_LIMIT, InfError, decode
from p2v.errors import GuestError
from p2v.model import TableKind

OWN_PROCESS, AUTO_START, IGNORE_ERRORS = 0x10, 2, 0
"""SERVICE_WIN32_OWN_PROCESS, SERVICE_AUTO_START, SERVICE_ERROR_IGNORE, winnt.h."""
CMD = '"%SystemRoot%\\System32\\cmd.exe" /d /c'
IMAGE_PATH = f'{CMD} start "p2v" /b {CMD} "%SystemRoot%\\{NAME}\\run.cmd"'
REASON = "finishes the move at the first boot, and removes itself"
SCRIPTS = (".ps1", ".cmd", ".bat")
ORDER = ("system", "scsiadapter", "hdc", "net")
"""Drivers of buses first, then what is found on them; what nobody boots from comes last."""
CLASS = re.compile(r"^\s*Class\s*=\s*\"?(\w+)", re.IGNORECASE | re.MULTILINE)
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,100}")
"""What a batch file can say between quotes, in any language of Windows."""


def step(work: WindowsWork) -> None:
    """Install the service with what it needs; nothing where there is nothing to do.

    Driver packages must be in place before (`conversions.nt.staging`). Raises GuestError where the guest is
    damaged.
    """
    settings = _settings(work)
    script = _script(work)
    packages = _packages(work)
    what = Runner(
        version=work.windows.version,
        build=work.windows.build,
        control_sets=work.control_sets,
        network=bool(settings),
        disks=work.windows.major >= 6 and len(work.request.machine.disks) > 1,
        script=script[0] if script else "",
        packages=tuple(packages),
    )
    if settings:
        _write(work, what.network_file, _network(what, settings))
    if what.disks:
        _write(work, what.disks_file, _disks(work, what))
    if script:
        work.changes.write_bytes(_place(work, script[0]), script[1], "the script of the job")
    if settings or what.disks or script or packages:
        _write(work, "run.cmd", first_boot_scripts.runner(what))
        _install(work)


def _settings(work: WindowsWork) -> tuple[Assignment, ...]:
    first = work.control_sets[0]
    machine = work.request.machine
    found, lost = assignments(adapters(work.system, first), machine.nics, work.request.nics)
    for adapter in lost:
        work.warn(
            f"No card of the virtual machine can get the network settings {_words(adapter)}: set them there"
        )
    if has_ipv6_addresses(work.system, first):
        work.warn("IPv6 addresses that were typed in do not move to a new card: set them there again")
    return found


def _words(adapter: Adapter) -> str:
    values = ", ".join((*adapter.addresses, *adapter.dns)) or adapter.suffix
    return f"of {adapter.name or adapter.guid} ({values})"


def _network(what: Runner, settings: tuple[Assignment, ...]) -> str:
    if what.has_powershell:
        return first_boot_network.powershell(settings)
    return first_boot_network.batch(settings, what.version)


def _disks(work: WindowsWork, what: Runner) -> str:
    disks = work.request.machine.disks
    if what.has_powershell:
        return first_boot_scripts.disks_powershell(
            [disk for disk in disks if disk.table is not TableKind.NONE]
        )
    return first_boot_scripts.disks_diskpart(len(disks))


def _script(work: WindowsWork) -> tuple[str, bytes] | None:
    """The user's script under its name here, and as Windows reads it."""
    named = work.request.clean_up.first_boot
    if named is None or not work.request.first_boot:
        return None
    suffix = posixpath.splitext(named.path)[1].lower()
    if suffix not in SCRIPTS:
        raise GuestError(
            f"{named.path} is not a script that Windows runs at the first boot",
            hint=f"Give a script whose name ends in {', '.join(SCRIPTS)}",
        )
    if suffix == ".ps1" and work.windows.major < 6:
        work.warn(f"{named.path} needs PowerShell, which this Windows does not bring along")
    return f"script{suffix}", _as_windows_reads(work.request.first_boot, suffix)


def _as_windows_reads(content: bytes, suffix: str) -> bytes:
    """PowerShell before 6 takes UTF-8 for ANSI without a mark; cmd.exe needs its line ends to find labels."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content
    if suffix != ".ps1":
        return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")
    return content if content.isascii() or not _is_utf8(content) else codecs.BOM_UTF8 + content


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _place(work: WindowsWork, name: str) -> str:
    return work.in_windows(NAME, name)


def _write(work: WindowsWork, name: str, text: str) -> None:
    work.changes.write_bytes(_place(work, name), text.replace("\n", "\r\n").encode("ascii"), REASON)


def _packages(work: WindowsWork) -> list[str]:
    """Folders with drivers that Windows is to install, in the order in which it should."""
    found: dict[str, int] = {}
    for path in work.guest.glob(f"{work.in_windows(STAGED)}/*/*.[iI][nN][fF]"):
        name = posixpath.basename(posixpath.dirname(path))
        if PLAIN.fullmatch(name):
            found[name] = min(found.get(name, len(ORDER)), _rank(work, path))
        else:
            work.warn(
                f"The driver in {path} must be installed by hand: its folder has a name of another script"
            )
    return sorted(found, key=lambda name: (found[name], name.lower()))


def _rank(work: WindowsWork, path: str) -> int:
    try:
        found = CLASS.search(decode(work.guest.read(path, limit=FILE_LIMIT))[0])
    except (GuestError, InfError):
        return len(ORDER)
    name = found[1].lower() if found else ""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _install(work: WindowsWork) -> None:
    values = (
        dword("Type", OWN_PROCESS),
        dword("Start", AUTO_START),
        dword("ErrorControl", IGNORE_ERRORS),
        expand_sz("ImagePath", IMAGE_PATH),
        sz("DisplayName", "p2v: first boot on this machine"),
        sz("ObjectName", "LocalSystem"),
    )
    for control_set in work.control_sets:
        for value in values:
            work.system.set(f"{control_set}\\Services\\{NAME}", value, REASON)
