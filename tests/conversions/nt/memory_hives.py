"""Hives in memory: what a step reads and writes, without hivex and without files. Names are compared as
Windows does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conversions.changes import Changes
from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.paths import WindowsPaths
from conversions.nt.registry import Value
from conversions.nt.work import WindowsWork
from conversions.request import Request
from drivers import pack
from p2v.errors import GuestError
from p2v.model import CleanUp, Firmware, GiB, Machine, Nic, PlannedNic, WindowsSystem
from p2v.targets import TARGETS
from tests.tree_guest import TreeGuest

SYSTEM = "/Windows/System32/config/SYSTEM"


class MemoryHive:
    """`conversions.nt.registry.Hive` in a dictionary."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, dict[str, Value]]] = {"": ("", {})}
        self.writes = 0

    def keys(self, key: str) -> tuple[str, ...]:
        prefix = f"{key.lower()}\\" if key else ""
        below = (place for place in self._keys if place and place.startswith(prefix))
        return tuple(self._keys[place][0] for place in below if "\\" not in place[len(prefix) :])

    def has(self, key: str) -> bool:
        return key.lower() in self._keys

    def values(self, key: str) -> tuple[Value, ...]:
        return tuple(self._keys.get(key.lower(), ("", {}))[1].values())

    def value(self, key: str, name: str) -> Value | None:
        return self._keys.get(key.lower(), ("", {}))[1].get(name.lower())

    def set(self, key: str, value: Value) -> None:
        self.make(key)
        self._keys[key.lower()][1][value.name.lower()] = value
        self.writes += 1

    def remove_value(self, key: str, name: str) -> None:
        del self._keys[key.lower()][1][name.lower()]
        self.writes += 1

    def remove_key(self, key: str) -> None:
        gone = [place for place in self._keys if place == key.lower() or place.startswith(f"{key.lower()}\\")]
        for place in gone:
            del self._keys[place]
        self.writes += 1

    def make(self, key: str) -> MemoryHive:
        parts = key.split("\\")
        for count in range(1, len(parts) + 1):
            self._keys.setdefault("\\".join(parts[:count]).lower(), (parts[count - 1], {}))
        return self

    def put(self, key: str, *values: Value) -> MemoryHive:
        """Content of a test, which is no write."""
        writes = self.writes
        for value in values:
            self.set(key, value)
        self.writes = writes
        return self.make(key)

    def content(self) -> dict[str, Value]:
        return {
            f"{key}\\{name}": value for key, (_, found) in self._keys.items() for name, value in found.items()
        }


class MemoryHives:
    """`conversions.nt.registry.HiveOpener` over hives by their paths."""

    def __init__(self, **hives: MemoryHive) -> None:
        self.hives: dict[str, MemoryHive] = dict(hives)

    @contextmanager
    def read(self, path: str) -> Iterator[MemoryHive]:
        yield self._get(path)

    @contextmanager
    def edit(self, path: str) -> Iterator[MemoryHive]:
        yield self._get(path)

    def _get(self, path: str) -> MemoryHive:
        if path not in self.hives:
            raise GuestError(f"{path} is no hive")
        return self.hives[path]


VERSIONS = {
    "xp": WindowsSystem(5, 1, 2600, root="/WINDOWS"),
    "7": WindowsSystem(6, 1, 7601),
    "10": WindowsSystem(10, 0, 19041),
    "2025": WindowsSystem(10, 0, 26100),
}


def machine(*, nics: tuple[Nic, ...] = (), vendor: str = "Dell", cpus: int = 4) -> Machine:
    return Machine("desktop", Firmware.UEFI, cpus, 8 * GiB, (), nics, vendor=vendor)


def work_on(
    folder: Path,
    system: MemoryHive | None = None,
    *,
    version: str = "10",
    of: Machine | None = None,
    nics: tuple[PlannedNic, ...] = (),
    firmware: Firmware = Firmware.UEFI,
    target: str = "libvirt",
    clean_up: CleanUp | None = None,
    first_boot: bytes = b"",
    control_sets: tuple[str, ...] = ("ControlSet001",),
    guest: TreeGuest | None = None,
    hives: MemoryHives | None = None,
) -> WindowsWork:
    """What a step works on: a guest that is a folder, and hives in memory."""
    guest = guest or TreeGuest(folder / "guest")
    windows = VERSIONS[version]
    guest.root.mkdir(exist_ok=True)
    guest.mkdir(f"{windows.root}/System32/config")
    platform = TARGETS[target].platform
    request = Request(
        of or machine(),
        nics,
        firmware,
        platform,
        pack(platform.driver_pack),
        clean_up or CleanUp(),
        first_boot,
    )
    record, changes = RegistryRecord(), Changes(guest)
    return WindowsWork(
        changes=changes,
        request=request,
        windows=windows,
        paths=WindowsPaths(guest),
        opener=hives or MemoryHives(),
        record=record,
        system=RegistryEdits(system or MemoryHive(), SYSTEM, record),
        software=RegistryEdits(MemoryHive(), SYSTEM.replace("SYSTEM", "SOFTWARE"), record),
        control_sets=control_sets,
    )
