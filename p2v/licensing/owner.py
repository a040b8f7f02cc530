"""Which process owns a reservation, and whether it still lives, across reboots and reused process ids."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told apart from every other one there ever was.

    `boot` is the kernel's boot id, `namespace` the process id namespace (a container has its own), `started`
    the start time in clock ticks since the boot: field 22 of /proc/PID/stat, see proc(5).
    """

    boot: str
    namespace: str
    pid: int
    started: int


def this_process() -> Owner:
    """The running process. Asked each time, because a fork makes another one."""
    pid = os.getpid()
    stat = _stat(pid)
    return Owner(_boot_id(), _namespace(), pid, stat.started if stat else 0)


def is_alive(owner: Owner) -> bool:
    """Whether the process still runs. Where that cannot be seen from here, it counts as running."""
    if owner.boot != _boot_id():
        return False
    if owner.namespace != _namespace():
        return True
    stat = _stat(owner.pid)
    if stat is None:
        return _is_hidden(owner.pid)
    return stat.started == owner.started and stat.state not in "ZX"


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    started: int


def _stat(pid: int) -> _Stat | None:
    """State and start time of a process; None where there is none, or none to be seen."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
        # The second field is the program's name in brackets, which may hold blanks and brackets itself.
        fields = text.rpartition(")")[2].split()
        return _Stat(state=fields[0], started=int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def _is_hidden(pid: int) -> bool:
    """Whether a process exists that /proc does not show (hidepid): another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        # Some sandboxes have none; the start time still tells processes apart.
        return ""


def _namespace() -> str:
    try:
        return str((PROC / "self" / "ns" / "pid").readlink())
    except OSError:
        return ""
