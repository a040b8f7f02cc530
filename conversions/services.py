"""Services that shall not start any more: systemd, upstart, OpenRC and rc scripts, by their files alone.

Nothing of the guest is run for it. What is removed are the links by which `enable` made a service start.
"""

from __future__ import annotations

import re

from conversions.changes import Changes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:-]{0,127}")
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
WANTED = ("/etc/systemd/system/*.wants/{unit}", "/etc/systemd/system/*.requires/{unit}")
VENDOR_WANTED = ("/usr/lib/systemd/system/*.wants/{unit}", "/lib/systemd/system/*.wants/{unit}")
RC_LINKS = (
    "/etc/rc[0-6S].d/S[0-9][0-9]{name}",
    "/etc/rc.d/rc[0-6].d/S[0-9][0-9]{name}",
    "/etc/init.d/rc[0-6].d/S[0-9][0-9]{name}",
)
RUNLEVELS = "/etc/runlevels/*/{name}"
UPSTART = "/etc/init/{name}.conf"
OVERRIDE = "/etc/init/{name}.override"
SUFFIXES = (".service", ".timer", ".socket", ".path", ".mount", ".target")


def disable(changes: Changes, service: str, reason: str) -> bool:
    """Let a service start no more; False where the guest has none of that name."""
    if not NAME.fullmatch(service):
        return False
    unit = service if service.endswith(SUFFIXES) else f"{service}.service"
    name = unit.removesuffix(".service")
    there = exists(changes, service)
    _unlink(changes, unit, WANTED, reason)
    _mask(changes, unit, reason)
    _unlink(changes, name, (*RC_LINKS, RUNLEVELS), reason)
    if changes.guest.exists(UPSTART.format(name=name)):
        changes.write_text(OVERRIDE.format(name=name), "manual\n", reason)
    return there


def exists(changes: Changes, service: str) -> bool:
    """Whether the guest has a service of that name, whatever starts it."""
    unit = service if service.endswith(SUFFIXES) else f"{service}.service"
    name = unit.removesuffix(".service")
    places = [f"{folder}/{unit}" for folder in UNIT_FOLDERS]
    places += [f"/etc/init.d/{name}", f"/etc/rc.d/init.d/{name}", UPSTART.format(name=name)]
    return any(changes.guest.exists(place) for place in places)


def _unlink(changes: Changes, name: str, patterns: tuple[str, ...], reason: str) -> None:
    for pattern in patterns:
        for path in changes.guest.glob(pattern.format(unit=name, name=name)):
            changes.remove(path, reason)


def _mask(changes: Changes, unit: str, reason: str) -> None:
    """A unit that its package lets start by itself; systemd takes an empty file for a masked unit."""
    wanted = [path for pattern in VENDOR_WANTED for path in changes.guest.glob(pattern.format(unit=unit))]
    own = f"/etc/systemd/system/{unit}"
    if wanted and not changes.guest.exists(own):
        changes.write_text(own, "", reason)
