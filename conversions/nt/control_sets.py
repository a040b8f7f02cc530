"""The sets of controls of a SYSTEM hive: `Select` says which one is used, and any may be used next."""

from __future__ import annotations

import re

from conversions.nt.edits import RegistryEdits
from conversions.nt.registry import Hive
from p2v.errors import GuestError

NAME = re.compile(r"ControlSet\d{3}", re.IGNORECASE)


def control_sets(system: Hive | RegistryEdits) -> tuple[str, ...]:
    """Every ControlSetNNN that has services, the one that boots next first.

    A boot may fall back to LastKnownGood, so all of them are converted. Raises GuestError where there is
    none, or where Select names one that is not there.
    """
    found = tuple(
        name for name in system.keys("") if NAME.fullmatch(name) and system.has(f"{name}\\Services")
    )
    if not found:
        raise GuestError(
            "The SYSTEM hive has no set of controls: it cannot be of a Windows that boots",
            hint="Bring it back from a backup, or from System32\\config\\RegBack",
        )
    first = _selected(system)
    if first.lower() not in (name.lower() for name in found):
        raise GuestError(f"The SYSTEM hive wants to start {first}, which it does not have")
    return tuple(sorted(found, key=lambda name: (name.lower() != first.lower(), name)))


def _selected(system: Hive | RegistryEdits) -> str:
    for name in ("Default", "Current"):
        value = system.value("Select", name)
        if value is not None:
            return f"ControlSet{value.number():03d}"
    raise GuestError("The SYSTEM hive does not say which set of controls it uses")
