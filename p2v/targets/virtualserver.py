"""Microsoft Virtual Server 2005 and Virtual PC: VHD disks on IDE and a `.vmc`.

The elements are those that both products write; limits are those of the product documentation (one processor,
3.6 GB of memory, IDE disks of 127 GB, four cards), and no guest of 64 bits.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    DiskBus,
    Finding,
    Firmware,
    ImageFormat,
    MiB,
    NicModel,
    Plan,
    Platform,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets.base import ConfigFile, Option, Target, blocker, file_name, misfits, one_line, setting
from p2v.targets.guests import is_wide
from p2v.targets.images import GEOMETRY
from p2v.targets.markup import add, to_text
from p2v.targets.powershell import quote

SUBFORMAT = Option("subformat", ("dynamic", "fixed"), "whether a disk grows or takes its space at once")

IDE_DISKS = 4
LARGEST_DISK = 65535 * 16 * 255 * 512
"""127 GB: the largest cylinders, heads and sectors that a VHD has room for."""

HARD_DISK = "1"
NAME_LIMIT = 100

_BASE = Platform(
    name="virtualserver",
    title="Microsoft Virtual Server 2005",
    disk_bus=DiskBus.IDE,
    nic_model=NicModel.TULIP,
    image_format=ImageFormat.VHD,
    driver_pack="virtualserver",
    firmwares=(Firmware.BIOS,),
    max_disks=IDE_DISKS,
    max_disk_size=LARGEST_DISK,
    max_cpus=1,
    max_memory=3600 * MiB,
    max_nics=4,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    return replace(platform, subformat=setting(platform, SUBFORMAT) + GEOMETRY)


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(_findings(plan))


def _findings(plan: Plan) -> Iterator[Finding]:
    yield from misfits(plan, name=machine_name)
    system = plan.machine.os
    if system is not None and is_wide(system):
        yield blocker(f"{plan.platform.title} runs no 64-bit system, and {system.name} is one")


def machine_name(name: str) -> str:
    """The nearest name: Virtual Server allows none of `* ? : < > / | \\ "`."""
    return re.sub(r'[*?:<>/|\\"]', "-", one_line(name)).strip(" .")[:NAME_LIMIT] or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The `.vmc`, with its disks beside it. Raises TargetError for what is not IDE."""
    root = ET.Element("preferences")
    _leaf(root, "version", "2.0")
    hardware = add(root, "hardware")
    _integer(add(hardware, "memory"), "ram_size", vm.memory // MiB)
    bus = add(hardware, "pci_bus")
    _cards(add(bus, "ethernet_adapter"), vm.nics)
    _integer(add(bus, "video_adapter"), "vram_size", 8)
    _disks(add(bus, "ide_adapter"), vm.disks)
    _settings(root, vm)
    text = to_text(root, encoding="UTF-16")
    mark = "<!-- Microsoft Virtual Machine Options and Settings -->"
    head, _, body = text.partition("\n")
    document = f"{head}\n{mark}\n{body}".replace("\n", "\r\n")
    return (ConfigFile(file_name(vm.name, ".vmc"), document, encoding="utf-16"),)


def _leaf(parent: ET.Element, tag: str, text: str, kind: str = "string") -> None:
    add(parent, tag, text, type=kind)


def _integer(parent: ET.Element, tag: str, value: int) -> None:
    _leaf(parent, tag, str(value), "integer")


def _disks(adapter: ET.Element, disks: tuple[VirtualDisk, ...]) -> None:
    controllers: dict[int, ET.Element] = {}
    for index, disk in enumerate(disks):
        if disk.bus is not DiskBus.IDE or index >= IDE_DISKS:
            raise TargetError(f"Virtual Server has no place for {disk.file} ({disk.bus}): four disks, on IDE")
        number, position = divmod(index, 2)
        if position == 0:
            controllers[number] = add(adapter, "ide_controller", id=str(number))
        location = add(controllers[number], "location", id=str(position))
        _integer(location, "drive_type", int(HARD_DISK))
        path = add(location, "pathname")
        _leaf(path, "absolute", "")
        _leaf(path, "relative", f".\\{disk.file}")


def _cards(adapter: ET.Element, nics: tuple[VirtualNic, ...]) -> None:
    _integer(adapter, "controller_count", len(nics))
    for index, nic in enumerate(nics):
        if nic.model is not NicModel.TULIP:
            raise TargetError(f"Virtual Server has no {nic.model} network card")
        card = add(adapter, "ethernet_controller", id=str(index))
        _leaf(card, "ethernet_card_address", nic.mac.replace(":", "").upper(), "bytes")
        network = add(card, "virtual_network")
        _leaf(network, "name", "")


def _settings(root: ET.Element, vm: VirtualMachine) -> None:
    settings = add(root, "settings")
    # Undo disks would keep every change of the machine apart until somebody decides.
    _leaf(add(settings, "undo_drives"), "enabled", "false", "boolean")
    configuration = add(settings, "configuration")
    _leaf(configuration, "notes", one_line(vm.title))


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """In PowerShell on the host, through the product's COM interface; the files have to lie there."""
    name, path = quote(machine_name(vm.name)), quote("C:\\Virtual Machines\\" + file_name(vm.name, ".vmc"))
    return (
        f"(New-Object -ComObject VirtualServer.Application).RegisterVirtualMachine({name}, {path}).Startup()"
    )


TARGET = Target(PLATFORM, check, render, ".vmc", start, options=(SUBFORMAT,), shape=shape)
