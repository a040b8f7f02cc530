"""Xen: a fully virtualized guest for `xl`, with paravirtual disks and network cards.

The keys are those of xl.cfg(5), the disks' of xl-disk-configuration(5).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    Clock,
    DiskBus,
    Finding,
    Firmware,
    ImageFormat,
    MiB,
    NicModel,
    Plan,
    Platform,
    TiB,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets.base import ConfigFile, Option, Target, file_name, is_uuid, misfits, one_line, setting
from p2v.targets.counting import letters

FORMAT = Option("format", (ImageFormat.QCOW2, ImageFormat.RAW), "the kind of disk")
BRIDGE = "xenbr0"
NICS = 8

_BASE = Platform(
    name="xen",
    title="Xen",
    disk_bus=DiskBus.XEN_BLK,
    nic_model=NicModel.XEN_NET,
    image_format=ImageFormat.QCOW2,
    driver_pack="xen",
    max_disks=26,
    max_disk_size=64 * TiB,
    max_cpus=128,
    max_memory=TiB,
    max_nics=NICS,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    return replace(platform, image_format=ImageFormat(setting(platform, FORMAT)))


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(misfits(plan, name=machine_name))


def machine_name(name: str) -> str:
    """The nearest name: it is also that of files, and xl's strings have no way to write a quote."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")[:100] or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The configuration for `xl create`. Raises TargetError for a path that it cannot hold."""
    lines = [
        f"# {one_line(vm.title)}",
        f'name = "{machine_name(vm.name)}"',
        *_identity(vm),
        'type = "hvm"',
        f"memory = {vm.memory // MiB}",
        f"vcpus = {vm.cpus}",
        f"localtime = {0 if vm.clock is Clock.UTC else 1}",
        *(['firmware = "ovmf"'] if vm.firmware is Firmware.UEFI else ['boot = "c"']),
        *_list("disk", [_disk(disk, index, image_dir) for index, disk in enumerate(vm.disks)]),
        *_list("vif", [_card(nic) for nic in vm.nics]),
        'serial = "pty"',
        "vnc = 1",
        'vnclisten = "127.0.0.1"',
        'on_poweroff = "destroy"',
        'on_reboot = "restart"',
        'on_crash = "destroy"',
    ]
    return (ConfigFile(file_name(vm.name, ".cfg"), "\n".join(lines) + "\n"),)


def _identity(vm: VirtualMachine) -> list[str]:
    return [f'uuid = "{vm.uuid.lower()}"'] if is_uuid(vm.uuid) else []


def _list(key: str, values: list[str]) -> list[str]:
    return [f"{key} = [", *(f'    "{value}",' for value in values), "]"]


def _disk(disk: VirtualDisk, index: int, image_dir: Path) -> str:
    """The path comes last, where everything up to the end belongs to it."""
    if disk.bus not in (DiskBus.XEN_BLK, DiskBus.IDE):
        raise TargetError(f"Xen has no {disk.bus} disk for {disk.file}")
    path = str((image_dir / disk.file).absolute())
    if not path.isprintable() or '"' in path:
        raise TargetError(f"xl cannot read a disk from {path!r}", hint="Use another folder with --output")
    prefix = "xvd" if disk.bus is DiskBus.XEN_BLK else "hd"
    return f"format={disk.format}, vdev={prefix}{letters(index)}, access=rw, target={path}"


def _card(nic: VirtualNic) -> str:
    if nic.model not in (NicModel.XEN_NET, NicModel.E1000):
        raise TargetError(f"Xen has no {nic.model} network card")
    # Xen always offers its own card beside the emulated one, which goes away when the guest's driver comes.
    return f"mac={nic.mac}, bridge={BRIDGE}, model=e1000"


def start(vm: VirtualMachine, image_dir: Path) -> str:
    return f"xl create {shlex.quote(str(image_dir.absolute() / file_name(vm.name, '.cfg')))}"


TARGET = Target(PLATFORM, check, render, "xl.cfg", start, options=(FORMAT,), shape=shape)
