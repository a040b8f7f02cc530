"""What every target is made of: its platform, its options, configuration files as text, common refusals."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import drivers
from p2v.errors import UsageError
from p2v.model import (
    DiskBus,
    Finding,
    Firmware,
    Image,
    MiB,
    NicModel,
    Plan,
    Platform,
    Setting,
    Severity,
    VirtualDisk,
    VirtualMachine,
)
from p2v.targets.images import Images, Mark
from p2v.targets.packages import Begin, Package, write_packages
from p2v.ui import human_size

Choice = TypeVar("Choice", DiskBus, NicModel)

NAME_LIMIT = 100
SERIAL_LIMIT = 20
SECTOR = 512

UNPROVABLE = frozenset(
    {DiskBus.HYPERV_SCSI, DiskBus.XEN_BLK, DiskBus.LSI_LOGIC, DiskBus.BUSLOGIC, DiskBus.METAL}
)
"""Disk buses that QEMU does not emulate, so that no boot on them can be tried here."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that describes the virtual machine to a hypervisor. `name` is a plain file name."""

    name: str
    text: str
    encoding: str = "utf-8"

    @property
    def content(self) -> bytes:
        """What is written to the disk; UTF-16 starts with its byte order mark."""
        return self.text.encode(self.encoding)


@dataclass(frozen=True, slots=True)
class Option:
    """A choice that a target offers; the first of its `values` is the usual one."""

    key: str
    values: tuple[str, ...]
    meaning: str


Render = Callable[[VirtualMachine, Path], tuple[ConfigFile, ...]]
"""Describes a machine whose images lie in a folder; pure."""


def no_configuration(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    return ()


def begin_disks(
    vm: VirtualMachine, folder: Path, *, mark: Mark | None = None
) -> AbstractContextManager[Package]:
    """Every disk as an image of its own. `mark` changes what is not content, before the image gets its
    digest.
    """
    return nullcontext(Images(vm.disks, folder, mark))


def as_is(platform: Platform) -> Platform:
    return platform


def any_firmware(platform: Platform, firmware: Firmware) -> Platform:
    return platform


@dataclass(frozen=True, slots=True)
class Target:
    """What one file of this folder gives.

    `shape` makes the platform that its settings ask for, `fit` the one for the firmware of a machine; `check`
    finds what of a plan does not fit; `start` is the command that an administrator types next, for a machine
    whose files lie in a folder; `begin` begins to write the images.
    """

    platform: Platform
    check: Callable[[Plan], tuple[Finding, ...]]
    render: Render
    configuration: str
    start: Callable[[VirtualMachine, Path], str]
    options: tuple[Option, ...] = ()
    shape: Callable[[Platform], Platform] = as_is
    fit: Callable[[Platform, Firmware], Platform] = any_firmware
    begin: Begin = begin_disks

    def write(self, vm: VirtualMachine, overlays: Sequence[Path], folder: Path) -> tuple[Image, ...]:
        """The images of a machine, whose disks are in overlays (one each, in order), in a folder.

        Raises TargetError, VerifyError.
        """
        with self.begin(vm, folder) as package:
            return write_packages([package], overlays)[0]

    def with_settings(self, words: tuple[str, ...]) -> Target:
        """The target with choices made: each word is `KEY=VALUE`, or a VALUE that only one option has.

        Raises UsageError for what the target does not offer.
        """
        if not words:
            return self
        chosen = dict(_read_setting(self.platform.name, self.options, word) for word in words)
        settings = tuple(
            Setting(option.key, chosen[option.key]) for option in self.options if option.key in chosen
        )
        return replace(self, platform=self.shape(replace(self.platform, settings=settings)))


def _read_setting(target: str, options: tuple[Option, ...], word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        key, value = next((option.key for option in options if word in option.values), ""), word
    for option in options:
        if option.key == key and value in option.values:
            return key, value
    offered = "; ".join(f"{option.key}={'|'.join(option.values)}" for option in options)
    raise UsageError(
        f"The target {target} has no option {word[:80]!r}", hint=f"It has: {offered or 'no options'}"
    )


def setting(owner: Platform | VirtualMachine, option: Option) -> str:
    """What was chosen for an option, or the usual value of it."""
    chosen = (each.value for each in owner.settings if each.key == option.key)
    return next(chosen, option.values[0])


AUTO = "auto"


def choose_devices(platform: Platform, bus: Option | None = None, nic: Option | None = None) -> Platform:
    """The platform with the disk bus and the network card that its settings name.

    Raises UsageError for one that the platform has not: it may depend on other settings.
    """
    known = drivers.pack(platform.driver_pack)
    buses = [choice.bus for choice in known.disks]
    models = [choice.model for choice in known.nics]
    if bus is not None and (name := setting(platform, bus)) != AUTO:
        platform = replace(platform, disk_bus=_one_of(platform, "disk", DiskBus(name), buses))
    if nic is not None and (name := setting(platform, nic)) != AUTO:
        platform = replace(platform, nic_model=_one_of(platform, "network card", NicModel(name), models))
    return platform


def _one_of(platform: Platform, what: str, chosen: Choice, offered: list[Choice]) -> Choice:
    if chosen in offered:
        return chosen
    names = ", ".join(dict.fromkeys(offered))
    raise UsageError(f"{platform.title} has no {what} {chosen}", hint=f"It has: {names}")


def file_name(title: str, suffix: str) -> str:
    """A plain file name from the name of a machine: never a path, never hidden, never an option."""
    return (re.sub(r"[^\w.+-]", "_", title).lstrip(".-")[:NAME_LIMIT] or "machine") + suffix


def one_line(text: str) -> str:
    """Text without line ends and control characters, for formats that have no way to write them."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def disk_serial(disk: VirtualDisk) -> str:
    """The serial of a disk as QEMU takes it: 20 plain characters; empty where nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "", disk.serial)[:SERIAL_LIMIT]


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def blocker(message: str, hint: str = "") -> Finding:
    return Finding(Severity.BLOCKER, message, hint)


def misfits(plan: Plan, *, name: Callable[[str], str] | None = None) -> Iterator[Finding]:
    """What of the plan goes beyond the platform's limits; `name` gives the nearest name it accepts."""
    platform = plan.platform
    if name is not None and name(plan.name) != plan.name:
        yield blocker(
            f"{platform.title} accepts no machine named {plan.name[:80]!r}", f"Try: --name {name(plan.name)}"
        )
    if plan.firmware not in platform.firmwares:
        yield blocker(f"{platform.title} has no {plan.firmware.upper()} firmware")
    if not 1 <= plan.cpus <= platform.max_cpus:
        yield blocker(
            f"{plan.cpus} processors: {platform.title} gives 1 to {platform.max_cpus}",
            f"Try: --cpus {platform.max_cpus}",
        )
    if plan.memory > platform.max_memory:
        yield blocker(
            f"{human_size(plan.memory)} of memory: {platform.title} gives up to"
            f" {human_size(platform.max_memory)}",
            f"Try: --memory {platform.max_memory // MiB}M",
        )
    yield from _device_misfits(plan)


def _device_misfits(plan: Plan) -> Iterator[Finding]:
    platform = plan.platform
    if len(plan.nics) > platform.max_nics:
        yield blocker(f"{len(plan.nics)} network cards: {platform.title} takes {platform.max_nics}")
    if len(plan.disks) > platform.max_disks:
        yield blocker(
            f"{len(plan.disks)} disks: {platform.title} takes {platform.max_disks}",
            "Try: name the disks that matter with --disk",
        )
    for planned in plan.disks:
        disk = planned.disk
        if disk.size > platform.max_disk_size:
            yield blocker(
                f"{disk.path} has {human_size(disk.size)}: {platform.title} takes up to"
                f" {human_size(platform.max_disk_size)} on {platform.disk_bus}"
            )
        if disk.sector_size != SECTOR:
            # The partition table counts in sectors: with other sectors, no partition is found.
            yield blocker(f"{disk.path} has sectors of {disk.sector_size} bytes, virtual disks {SECTOR}")
    if plan.prove and platform.disk_bus in UNPROVABLE:
        yield blocker(
            f"A boot on {platform.disk_bus} disks cannot be tried here: QEMU does not have them",
            "Leave out --prove",
        )
