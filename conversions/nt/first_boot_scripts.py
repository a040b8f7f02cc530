"""What the service of the first boot runs: one batch file, which knows every version from XP on.

Driver packages first, in the order given, then the network, the disks, and the user's script,
which runs once whatever comes of it. What fails is tried again after a restart, a bounded number of times;
then, or once all is done, the service and its files go and the log stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conversions.nt.staging import STAGED
from p2v.model import Disk, TableKind

NAME = "p2v-first-boot"
DRIVERS = STAGED.replace("/", "\\")
ATTEMPTS = 4
DRIVER_ATTEMPTS = 2
"""A driver that Windows refuses is refused again: only what a restart may mend is worth one."""
RESTART_SECONDS = 30
GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
SIGNATURE = re.compile(r"[0-9A-Fa-f]{8}")
PNPUTIL_WITH_WORDS = 14393
"""The build since which pnputil has /add-driver (Windows 10 1607); before, -i -a."""

FOLDER = Path(__file__).with_name("scripts")
RIGHTS = '/inheritance:r /grant:r "*S-1-5-18:(OI)(CI)F" "*S-1-5-32-544:(OI)(CI)F" /T /C /Q'
"""For the system and administrators alone, by their SIDs, which have no language."""
REMOVE = f'ping -n 6 127.0.0.1 >nul & rd /s /q "%SystemRoot%\\{NAME}"'
POWERSHELL = '"%POWERSHELL%" -NoProfile -NonInteractive'
OWN_POWERSHELL = f'{POWERSHELL} -Command "Invoke-Expression (Get-Content -Raw -LiteralPath {{file}})" <nul'
"""As text, since a policy of signed scripts speaks of files; it works in constrained language mode, too."""
USERS_POWERSHELL = f"{POWERSHELL} -ExecutionPolicy Bypass -File {{file}} <nul"
CMD_FILE = '"%SystemRoot%\\System32\\cmd.exe" /d /c {file} <nul'
NOTHING = "rem nothing to do"


@dataclass(frozen=True, slots=True)
class Runner:
    """What of a first boot there is to do.

    `script` is the file name of the user's script, if there is one; `packages` are folders with drivers.
    """

    version: tuple[int, int]
    build: int
    control_sets: tuple[str, ...]
    network: bool
    disks: bool
    script: str = ""
    packages: tuple[str, ...] = ()

    @property
    def has_powershell(self) -> bool:
        """With modules for network and storage: since 8 and 2012."""
        return self.version >= (6, 2)

    @property
    def network_file(self) -> str:
        return "network.ps1" if self.has_powershell else "network.cmd"

    @property
    def disks_file(self) -> str:
        return "disks.ps1" if self.has_powershell else "disks.txt"


def fill(name: str, /, **values: object) -> str:
    """A script of the folder `scripts`, its `@WORDS@` replaced; line ends are those of Unix."""
    text = (FOLDER / name).read_text("ascii")
    for word, value in values.items():
        text = text.replace(f"@{word.upper()}@", str(value))
    return text


def runner(what: Runner) -> str:
    """The batch file that the service starts."""
    script = what.script or "script.cmd"
    suffix = "." + script.rpartition(".")[2]
    return fill(
        "run.cmd",
        name=NAME,
        drivers=DRIVERS,
        attempts=ATTEMPTS,
        driver_attempts=DRIVER_ATTEMPTS,
        restart=RESTART_SECONDS,
        rights=RIGHTS,
        remove=REMOVE,
        control_sets=" ".join(what.control_sets),
        packages="\n".join(f'call :folder "{name}"' for name in what.packages),
        install=_install(what),
        network=_run(what.network_file) if what.network else "ver >nul",
        disks=_disks(what),
        script=script,
        suffix=suffix,
        run_script=(USERS_POWERSHELL if suffix == ".ps1" else CMD_FILE).format(file=f"once{suffix}"),
    )


def disks_powershell(disks: Sequence[Disk]) -> str:
    """For 8, 2012 and newer: only the disks that were captured, none that others share with this machine."""
    guids = [disk.table_id for disk in disks if disk.table is TableKind.GPT]
    signatures = [disk.table_id for disk in disks if disk.table is TableKind.MBR]
    return fill(
        "disks.ps1",
        guids=", ".join(f"'{{{name}}}'" for name in guids if GUID.fullmatch(name)),
        signatures=", ".join(str(int(name, 16)) for name in signatures if SIGNATURE.fullmatch(name)),
    )


def disks_diskpart(count: int) -> str:
    """For Vista and 7, whose diskpart knows disks by their numbers: a virtual machine has no others."""
    each = "select disk {}\nonline disk noerr\nattributes disk clear readonly noerr\n"
    return "".join(each.format(number) for number in range(count))


def _run(file: str) -> str:
    return (OWN_POWERSHELL if file.endswith(".ps1") else CMD_FILE).format(file=file)


def _install(what: Runner) -> str:
    if what.version < (6, 0):
        return "set CODE=0\necho p2v: Windows finds it there by itself (DevicePath)"
    words = "/add-driver %1 /install" if what.build >= PNPUTIL_WITH_WORDS else "-i -a %1"
    return f'"%SystemRoot%\\System32\\pnputil.exe" {words} <nul\nset CODE=%ERRORLEVEL%'


def _disks(what: Runner) -> str:
    if not what.disks:
        return NOTHING
    if what.has_powershell:
        return _run(what.disks_file)
    return f'"%SystemRoot%\\System32\\diskpart.exe" /s {what.disks_file} <nul'
