"""Oracle VirtualBox: a `.vbox` beside VDI disks, or an OVF package.

The settings file is that of VirtualBox 6.1 (namespace and elements as in its VirtualBox-settings.xsd), which
newer ones read. A disk is known there by the UUID in its header, so the VDI files get UUIDs that follow from
that of the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import uuid
import xml.etree.ElementTree as ET
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    Clock,
    DiskBus,
    Finding,
    Firmware,
    GiB,
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
from p2v.targets import ova, ovf
from p2v.targets.base import (
    AUTO,
    ConfigFile,
    Option,
    Target,
    begin_disks,
    choose_devices,
    file_name,
    misfits,
    one_line,
    setting,
)
from p2v.targets.guests import guest_names
from p2v.targets.markup import add, to_text
from p2v.targets.packages import Package

CONFIG = Option("config", ("vbox", "ovf", "ova"), "a .vbox with VDI disks, an OVF in pieces, or one OVA file")
BUS = Option("bus", (AUTO, DiskBus.SATA, DiskBus.IDE), "the disk controller")
NIC = Option("nic", (AUTO, NicModel.E1000, NicModel.PCNET), "the network card")

NAMESPACE = "http://www.virtualbox.org/"
SETTINGS_VERSION = "1.16-linux"
CONTROLLERS = {DiskBus.SATA: ("SATA", "AHCI"), DiskBus.IDE: ("IDE", "PIIX4")}
MAX_DISKS = {DiskBus.SATA: 30, DiskBus.IDE: 4}
CARDS = {NicModel.E1000: "82540EM", NicModel.PCNET: "Am79C973"}

VDI_UUID_OFFSET = 0x188
"""`uuidCreate` in a VDI header of version 1.1 (VDIHEADER1 in VirtualBox' VDICore.h); little-endian GUID."""

_BASE = Platform(
    name="virtualbox",
    title="Oracle VirtualBox",
    disk_bus=DiskBus.SATA,
    nic_model=NicModel.E1000,
    image_format=ImageFormat.VDI,
    driver_pack="virtualbox",
    max_cpus=32,
    max_memory=2 * TiB - GiB,
    max_nics=8,
    max_disk_size=2 * TiB,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    if setting(platform, CONFIG) != "vbox":
        platform = replace(platform, image_format=ImageFormat.VMDK, subformat=ovf.STREAM_OPTIMIZED)
    platform = choose_devices(platform, BUS, NIC)
    return replace(platform, max_disks=MAX_DISKS[platform.disk_bus])


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(misfits(plan, name=machine_name))


def machine_name(name: str) -> str:
    """The nearest name that is a folder on every host."""
    return re.sub(r'[\\/:*?"<>|]', "-", one_line(name)).strip(" .")[:100] or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The `.vbox`; nothing where an OVF is wanted, which is written with the disks."""
    if setting(vm, CONFIG) != "vbox":
        return ()
    root = ET.Element("VirtualBox", xmlns=NAMESPACE, version=SETTINGS_VERSION)
    machine = add(
        root,
        "Machine",
        uuid=_braces(machine_uuid(vm)),
        name=machine_name(vm.name),
        OSType=guest_names(vm.os).virtualbox,
        snapshotFolder="Snapshots",
        lastStateChange="2020-01-01T00:00:00Z",
    )
    if vm.title:
        add(machine, "Description", one_line(vm.title))
    disks = add(add(machine, "MediaRegistry"), "HardDisks")
    for disk in vm.disks:
        add(
            disks,
            "HardDisk",
            uuid=_braces(disk_uuid(vm, disk)),
            location=disk.file,
            format="VDI",
            type="Normal",
        )
    _hardware(add(machine, "Hardware"), vm)
    _storage(add(machine, "StorageControllers"), vm)
    return (ConfigFile(file_name(vm.name, ".vbox"), to_text(root)),)


def machine_uuid(vm: VirtualMachine) -> uuid.UUID:
    try:
        return uuid.UUID(vm.uuid)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, one_line(vm.name))


def disk_uuid(vm: VirtualMachine, disk: VirtualDisk) -> uuid.UUID:
    """The UUID of a disk; the same each time."""
    return uuid.uuid5(machine_uuid(vm), disk.file)


def _braces(value: uuid.UUID) -> str:
    return "{" + str(value) + "}"


def _hardware(hardware: ET.Element, vm: VirtualMachine) -> None:
    processor = add(hardware, "CPU", count=str(vm.cpus))
    add(processor, "PAE", enabled="true")
    add(processor, "LongMode", enabled="true")
    add(hardware, "Memory", RAMSize=str(vm.memory // MiB))
    if vm.firmware is Firmware.UEFI:
        add(hardware, "Firmware", type="EFI")
    boot = add(hardware, "Boot")
    add(boot, "Order", position="1", device="HardDisk")
    for position in range(2, 5):
        add(boot, "Order", position=str(position), device="None")
    add(hardware, "Display", VRAMSize="16")
    add(add(hardware, "BIOS"), "IOAPIC", enabled="true")
    network = add(hardware, "Network")
    for slot, nic in enumerate(vm.nics):
        _card(network, slot, nic)
    add(hardware, "RTC", localOrUTC="UTC" if vm.clock is Clock.UTC else "local")


def _card(network: ET.Element, slot: int, nic: VirtualNic) -> None:
    if nic.model not in CARDS:
        raise TargetError(f"VirtualBox has no {nic.model} network card")
    address = nic.mac.replace(":", "").upper()
    card = add(
        network,
        "Adapter",
        slot=str(slot),
        enabled="true",
        MACAddress=address,
        cable="true",
        type=CARDS[nic.model],
    )
    add(card, "NAT")


def _storage(controllers: ET.Element, vm: VirtualMachine) -> None:
    buses = dict.fromkeys(disk.bus for disk in vm.disks)
    for bus in buses:
        if bus not in CONTROLLERS:
            raise TargetError(f"VirtualBox has no {bus} disk")
        name, kind = CONTROLLERS[bus]
        disks = [disk for disk in vm.disks if disk.bus is bus]
        ports = 2 if bus is DiskBus.IDE else max(len(disks), 1)
        controller = add(
            controllers,
            "StorageController",
            name=name,
            type=kind,
            PortCount=str(ports),
            useHostIOCache="false" if bus is DiskBus.SATA else "true",
            Bootable="true",
        )
        for index, disk in enumerate(disks):
            _attach(controller, vm, disk, index)


def _attach(controller: ET.Element, vm: VirtualMachine, disk: VirtualDisk, index: int) -> None:
    port, device = divmod(index, 2) if disk.bus is DiskBus.IDE else (index, 0)
    attached = add(controller, "AttachedDevice", type="HardDisk", port=str(port), device=str(device))
    add(attached, "Image", uuid=_braces(disk_uuid(vm, disk)))


def begin(vm: VirtualMachine, folder: Path) -> AbstractContextManager[Package]:
    """The disks: VDI with their UUIDs; of an OVF with descriptor and manifest, of an OVA all in one file."""
    config = setting(vm, CONFIG)
    if config != "vbox":
        describe = partial(ovf.render, vm, ovf.Dialect.virtualbox())
        return ova.begin_package(vm, folder, describe, one_file=config == "ova")
    return begin_disks(vm, folder, mark=partial(_set_uuid, vm))


def _set_uuid(vm: VirtualMachine, disk: VirtualDisk, path: Path) -> None:
    with path.open("r+b") as image:
        os.pwrite(image.fileno(), disk_uuid(vm, disk).bytes_le, VDI_UUID_OFFSET)


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """On the host with the files."""
    config, name = setting(vm, CONFIG), shlex.quote(machine_name(vm.name))
    path = shlex.quote(str(image_dir.absolute() / file_name(vm.name, f".{config}")))
    if config == "vbox":
        return f"VBoxManage registervm {path} && VBoxManage startvm {name}"
    return f"VBoxManage import {path} && VBoxManage startvm {name}"


TARGET = Target(
    PLATFORM,
    check,
    render,
    ".vbox, OVF or OVA",
    start,
    options=(CONFIG, BUS, NIC),
    shape=shape,
    begin=begin,
)
