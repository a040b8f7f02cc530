"""The programs that build a guest's initramfs, each behind the same few questions."""

from __future__ import annotations

from typing import Protocol

from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.dracut import Dracut
from conversions.initramfs_tools import InitramfsTools
from conversions.kernels import Kernel
from conversions.mkinitcpio import Mkinitcpio
from conversions.mkinitfs import Mkinitfs
from conversions.mkinitrd import Mkinitrd
from drivers.pack import LinuxDriver
from p2v.errors import GuestError


class Builder(Protocol):
    """What makes the initramfs of this guest."""

    @property
    def name(self) -> str:
        """`initramfs-tools`, `dracut`, `mkinitcpio`, `mkinitfs`, `mkinitrd`, or `none`."""

    @property
    def exists(self) -> bool:
        """Whether the guest has the program, so that `rebuild` may be called."""

    def rewrite_devices(self, names: DeviceNames) -> None:
        """Name disks in a way that holds on any machine, in the builder's own configuration."""

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        """Write the builder's configuration so that every later initramfs of the guest holds the drivers."""

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        """Make the initramfs of `kernel` anew with the guest's own program, with all that the old one had.

        Raises GuestError where there is no space, where the program fails or the result lacks a driver.
        """

    def note(self, kernel: Kernel, content: bytes) -> None:
        """The initramfs of `kernel` was given this `content` in another way; some programs keep a record."""


class NoBuilder:
    """A guest without a program that p2v knows."""

    name = "none"
    exists = False

    def rewrite_devices(self, names: DeviceNames) -> None:
        """Nothing to write."""

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        """Nothing to write."""

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        raise GuestError(f"The guest has no program that rebuilds {kernel.initramfs}")

    def note(self, kernel: Kernel, content: bytes) -> None:
        """Nothing to write."""


def find_builder(changes: Changes) -> Builder:
    """The program that builds the guest's initramfs; its `exists` is False where there is none."""
    builders: tuple[Builder, ...] = (
        Dracut(changes),
        InitramfsTools(changes),
        Mkinitcpio(changes),
        Mkinitfs(changes),
        Mkinitrd(changes),
    )
    return next((builder for builder in builders if builder.exists), NoBuilder())
