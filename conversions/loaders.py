"""The boot loaders of a guest, each behind the same few questions; who codes a family asks only these.

All loaders that are found are kept in step, because nobody can see from the files alone which of them the
firmware really starts; the one that the firmware and the evidence point at answers for the default kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from conversions import esp, systemd_boot
from conversions.boot_entries import BootEntry
from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.extlinux import Extlinux
from conversions.grub import Grub2
from conversions.grub_legacy import GrubLegacy
from conversions.systemd_boot import SystemdBoot
from p2v.model import Firmware

NONE = "none"
"""The name of the loader of a guest that has none that p2v knows."""


class Loader(Protocol):
    """One boot loader, or all of a guest together. Doing anything twice changes nothing the second time."""

    @property
    def name(self) -> str:
        """`grub2`, `grub-legacy`, `extlinux`, `systemd-boot`, `uki`, or `none`."""

    def default_kernel(self) -> str:
        """The path or the file name of the kernel image that is started by default; empty if not known."""

    def entries(self) -> tuple[BootEntry, ...]:
        """What the menu can start, kernels in unified images left out."""

    def rewrite_devices(self, names: DeviceNames) -> None:
        """Name disks in a way that holds on any machine, in what boots now and in what makes it anew."""

    def add_arguments(self, arguments: Sequence[str]) -> None:
        """Give every kernel these words, now and after the guest's next update of its menu."""

    def add_serial_console(self) -> None:
        """Let every kernel talk on the first serial port, too."""


@dataclass(frozen=True, slots=True)
class Loaders:
    """All loaders of a guest, the active one first; one that is empty only warns."""

    changes: Changes
    found: tuple[Loader, ...]

    @property
    def name(self) -> str:
        return self.found[0].name if self.found else NONE

    def default_kernel(self) -> str:
        return next(filter(None, (loader.default_kernel() for loader in self.found)), "")

    def entries(self) -> tuple[BootEntry, ...]:
        found = (entry for loader in self.found for entry in loader.entries())
        return tuple(dict.fromkeys(found))

    def rewrite_devices(self, names: DeviceNames) -> None:
        self._warn_of_none()
        for loader in self.found:
            loader.rewrite_devices(names)

    def add_arguments(self, arguments: Sequence[str]) -> None:
        for loader in self.found:
            loader.add_arguments(arguments)

    def add_serial_console(self) -> None:
        for loader in self.found:
            loader.add_serial_console()

    def _warn_of_none(self) -> None:
        if not self.found:
            self.changes.warn(
                "No boot loader that p2v knows was found: the kernel's command line was left as it is"
            )


def find_loader(changes: Changes, firmware: Firmware) -> Loader:
    """The loaders of a guest, behind one. Its `name` is `none` where there is none: all it does is warn."""
    manager, grub, legacy, extlinux = (
        SystemdBoot(changes),
        Grub2(changes),
        GrubLegacy(changes),
        Extlinux(changes),
    )
    known = (manager, grub, legacy, extlinux)
    found = [loader for loader in known if loader.exists]
    if firmware is Firmware.BIOS:
        found.sort(key=lambda loader: (loader is manager, not loader.evidence))
    elif grub.exists and not _manager_is_started(changes):
        found.sort(key=lambda loader: loader is not grub)
    return Loaders(changes, tuple(found))


def _manager_is_started(changes: Changes) -> bool:
    """Whether what firmware starts by itself is systemd-boot: both are the same file then."""
    for place in esp.places(changes):
        for manager in systemd_boot.MANAGERS:
            name = manager.removeprefix("systemd-")
            fallback = esp.find(changes, place, "EFI", "BOOT", name)
            path = esp.find(changes, place, "EFI", "systemd", manager)
            if fallback and path and changes.guest.sha256(fallback) == changes.guest.sha256(path):
                return True
    return False
