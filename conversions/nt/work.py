"""What every step of a Windows conversion works on: the guest, its open hives, and the record of changes.

A step has the form `def step(work: WindowsWork) -> None`; `conversions.windows` calls them in order.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.paths import WindowsPaths
from conversions.nt.registry import HiveOpener
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import WindowsSystem

HIVE_REASON = "the registry's file, with the values that are listed for it"


@dataclass(frozen=True, slots=True)
class WindowsWork:
    """`system` and `software` are open for the whole conversion and written at its end.

    `control_sets` are the names of every ControlSetNNN that has services, first the one that boots next.
    `bcd` and other hives are opened with `edit_hive`. Files are changed through `changes`, whose paths come
    from `path`; the registry through RegistryEdits.
    """

    changes: Changes
    request: Request
    windows: WindowsSystem
    paths: WindowsPaths
    opener: HiveOpener
    record: RegistryRecord
    system: RegistryEdits
    software: RegistryEdits
    control_sets: tuple[str, ...]

    @property
    def guest(self) -> GuestFiles:
        return self.changes.guest

    def path(self, *parts: str) -> str:
        """A path of the guest as it is spelled there, whatever the case of `parts`; `/` or `\\` within them.

        The first part is absolute (`/EFI`); parts that do not exist stay as they are given.
        """
        return self.paths.find(posixpath.join("/", *(part.replace("\\", "/") for part in parts)))

    def in_windows(self, *parts: str) -> str:
        """As `path`, below the folder of Windows: `in_windows("System32", "drivers")`."""
        return self.path(self.windows.root, *parts)

    @contextmanager
    def edit_hive(self, path: str) -> Iterator[RegistryEdits]:
        """Another hive of the guest, such as a BCD; its changes land in the same record."""
        with self.changes.watching(path, HIVE_REASON), self.opener.edit(path) as hive:
            yield RegistryEdits(hive, path, self.record)

    def warn(self, warning: str) -> None:
        self.changes.warn(warning)
