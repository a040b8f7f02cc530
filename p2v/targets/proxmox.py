"""Proxmox VE: a script that imports the disks with `qm`, and the configuration that comes out of it.

The keys are those of qm.conf(5); `import-from` came with Proxmox VE 7.2.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
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
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets.base import (
    AUTO,
    ConfigFile,
    Option,
    Target,
    choose_devices,
    disk_serial,
    file_name,
    is_uuid,
    misfits,
    one_line,
    setting,
)
from p2v.targets.guests import guest_names

FORMAT = Option("format", (ImageFormat.QCOW2, ImageFormat.RAW), "the kind of disk")
BUS = Option("bus", (AUTO, DiskBus.VIRTIO_SCSI, DiskBus.VIRTIO_BLK, DiskBus.SATA, DiskBus.IDE), "the disks")
NIC = Option(
    "nic", (AUTO, NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET), "the network card"
)

PREFIX = {
    DiskBus.VIRTIO_SCSI: "scsi",
    DiskBus.VIRTIO_BLK: "virtio",
    DiskBus.SATA: "sata",
    DiskBus.IDE: "ide",
}
MAX_DISKS = {DiskBus.VIRTIO_SCSI: 31, DiskBus.VIRTIO_BLK: 16, DiskBus.SATA: 6, DiskBus.IDE: 4}
NICS = 32

_BASE = Platform(
    name="proxmox",
    title="Proxmox VE",
    disk_bus=DiskBus.VIRTIO_SCSI,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.QCOW2,
    driver_pack="virtio-scsi",
    max_nics=NICS,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    platform = replace(platform, image_format=ImageFormat(setting(platform, FORMAT)))
    platform = choose_devices(platform, BUS, NIC)
    return replace(platform, max_disks=MAX_DISKS[platform.disk_bus])


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(misfits(plan, name=machine_name))


def machine_name(name: str) -> str:
    """The nearest DNS name, which Proxmox wants."""
    labels = (re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-")[:63] for label in name.split("."))
    return ".".join(filter(None, labels))[:200].strip(".-") or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The import script, and the configuration as it is where the disks stay in their place."""
    script = file_name(vm.name, "-import.sh")
    return (
        ConfigFile(script, _script(vm, script)),
        ConfigFile(file_name(vm.name, ".conf"), _configuration(vm, image_dir)),
    )


def _settings(vm: VirtualMachine) -> Iterator[tuple[str, str]]:
    """What both have in common: everything but disks."""
    yield "name", machine_name(vm.name)
    if vm.title:
        yield "description", one_line(vm.title)
    yield "ostype", guest_names(vm.os).proxmox
    yield "memory", str(-(-vm.memory // MiB))
    yield "sockets", "1"
    yield "cores", str(vm.cpus)
    # QEMU's own default lacks what newer systems are compiled for.
    yield "cpu", "host"
    yield "machine", "pc" if any(disk.bus is DiskBus.IDE for disk in vm.disks) else "q35"
    yield "bios", "ovmf" if vm.firmware is Firmware.UEFI else "seabios"
    yield "localtime", "0" if vm.clock is Clock.UTC else "1"
    if any(disk.bus is DiskBus.VIRTIO_SCSI for disk in vm.disks):
        yield "scsihw", "virtio-scsi-pci"
    if is_uuid(vm.uuid):
        yield "smbios1", f"uuid={vm.uuid.lower()}"
    if vm.serial_console:
        yield "serial0", "socket"


def _places(disks: tuple[VirtualDisk, ...]) -> list[tuple[VirtualDisk, str]]:
    """Each disk with the key that it has in the configuration."""
    places: list[tuple[VirtualDisk, str]] = []
    for disk in disks:
        if disk.bus not in PREFIX:
            raise TargetError(f"Proxmox has no {disk.bus} disk for {disk.file}")
        number = sum(before.bus is disk.bus for before, _ in places)
        if number >= MAX_DISKS[disk.bus]:
            raise TargetError(f"{disk.file} is one {disk.bus} disk too many for Proxmox")
        places.append((disk, f"{PREFIX[disk.bus]}{number}"))
    return places


def _serial(disk: VirtualDisk) -> str:
    serial = disk_serial(disk)
    return f",serial={serial}" if serial else ""


def _card(nic: VirtualNic) -> str:
    if nic.model not in (NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET):
        raise TargetError(f"Proxmox has no {nic.model} network card")
    return f"{nic.model}={nic.mac.upper()}"


def _configuration(vm: VirtualMachine, image_dir: Path) -> str:
    """A `qm.conf`: for root, a disk may be a file anywhere."""
    lines = [f"#{value}" if key == "description" else f"{key}: {value}" for key, value in _settings(vm)]
    places = _places(vm.disks)
    for disk, key in places:
        lines.append(f"{key}: {(image_dir / disk.file).absolute()},discard=on{_serial(disk)}")
    lines += [f"net{index}: {_card(nic)},bridge=vmbr0" for index, nic in enumerate(vm.nics)]
    if places:
        lines.append(f"boot: order={places[0][1]}")
    return "\n".join(lines) + "\n"


def _script(vm: VirtualMachine, name: str) -> str:
    options = " ".join(f"--{key} {shlex.quote(value)}" for key, value in _settings(vm))
    lines = [
        "#!/bin/sh",
        f"# On a node of Proxmox VE, in the folder of the disks: sh {name} VMID STORAGE [BRIDGE]",
        "set -eu",
        "id=${1:?the number of the new machine, for example 120}",
        "storage=${2:?the storage for its disks, for example local-lvm}",
        "bridge=${3:-vmbr0}",
        'here=$(cd "$(dirname "$0")" && pwd)',
        f'qm create "$id" {options}',
    ]
    if vm.firmware is Firmware.UEFI:
        lines.append('qm set "$id" --efidisk0 "$storage:1,efitype=4m,pre-enrolled-keys=0"')
    places = _places(vm.disks)
    for disk, key in places:
        file = shlex.quote(disk.file)
        lines.append(
            f'qm set "$id" --{key} "$storage:0,import-from=$here/"{file}",discard=on{_serial(disk)}"'
        )
    for index, nic in enumerate(vm.nics):
        lines.append(f'qm set "$id" --net{index} {_card(nic)},bridge="$bridge"')
    if places:
        lines.append(f'qm set "$id" --boot order={places[0][1]}')
    return "\n".join(lines) + "\n"


def start(vm: VirtualMachine, image_dir: Path) -> str:
    script = shlex.quote(str(image_dir / file_name(vm.name, "-import.sh")))
    return f"sh {script} VMID STORAGE && qm start VMID"


TARGET = Target(
    PLATFORM, check, render, "qm.conf, import script", start, options=(FORMAT, BUS, NIC), shape=shape
)
