"""What a driver pack is: data about the drivers that a platform's devices need, nothing that acts."""

from __future__ import annotations

from dataclasses import dataclass

from p2v.model import DiskBus, NicModel


@dataclass(frozen=True, slots=True)
class LinuxDriver:
    """A kernel module, by its name with `_` for `-`, and the symbol that is `=y` where it is built in."""

    module: str
    symbol: str


@dataclass(frozen=True, slots=True)
class DeviceId:
    """A device of a physical machine: `alias` is what its bus calls it (`pci:v00008086d…`), `driver` what
    drives it where it was seen, empty where nothing does.
    """

    alias: str
    driver: str = ""


@dataclass(frozen=True, slots=True)
class DiskChoice:
    """A disk bus, and all that a Linux kernel needs to find its root filesystem there.

    Of each of `devices` it needs in addition what its own modules say that they drive.
    """

    bus: DiskBus
    needed: tuple[LinuxDriver, ...]
    devices: tuple[DeviceId, ...] = ()


@dataclass(frozen=True, slots=True)
class NicChoice:
    """A network card, and what a Linux kernel needs to drive it; `devices` as of a disk bus."""

    model: NicModel
    needed: tuple[LinuxDriver, ...]
    devices: tuple[DeviceId, ...] = ()


@dataclass(frozen=True, slots=True)
class DriverPack:
    """The devices of a platform, best first; a guest gets the first that it can drive.

    `welcome` are Linux modules that go into an initramfs whenever it is rebuilt anyway. The same bus may
    stand there more than once, with other drivers for other kernels.
    """

    name: str
    disks: tuple[DiskChoice, ...]
    nics: tuple[NicChoice, ...]
    welcome: tuple[LinuxDriver, ...] = ()
