"""OpenStack: a qcow2 image with Glance properties, and the commands that upload and start it.

The properties are those of Glance's "Useful image properties".
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from dataclasses import replace
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    DiskBus,
    Finding,
    Firmware,
    GiB,
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
    file_name,
    misfits,
    one_line,
    setting,
)
from p2v.targets.guests import is_windows

FORMAT = Option("format", (ImageFormat.QCOW2, ImageFormat.RAW), "the kind of disk; raw for Ceph")
BUS = Option("bus", (AUTO, DiskBus.VIRTIO_SCSI, DiskBus.VIRTIO_BLK, DiskBus.SATA, DiskBus.IDE), "the disks")
NIC = Option(
    "nic", (AUTO, NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET), "the network card"
)

BUSES = {
    DiskBus.VIRTIO_SCSI: "scsi",
    DiskBus.VIRTIO_BLK: "virtio",
    DiskBus.SATA: "sata",
    DiskBus.IDE: "ide",
}

_BASE = Platform(
    name="openstack",
    title="OpenStack",
    disk_bus=DiskBus.VIRTIO_SCSI,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.QCOW2,
    driver_pack="virtio-scsi",
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    platform = replace(platform, image_format=ImageFormat(setting(platform, FORMAT)))
    return choose_devices(platform, BUS, NIC)


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(misfits(plan, name=machine_name))


def machine_name(name: str) -> str:
    """The nearest name: Nova makes a host name of it, and takes 255 characters."""
    return one_line(name)[:200].lstrip("-") or "machine"


def properties(vm: VirtualMachine) -> dict[str, str]:
    """The Glance properties of the first disk's image."""
    bus = _bus(vm)
    found = {
        "architecture": "x86_64",
        "hypervisor_type": "qemu",
        "vm_mode": "hvm",
        "os_type": "windows" if is_windows(vm.os) else "linux",
        "hw_disk_bus": BUSES[bus],
        "hw_vif_model": _card(vm),
        "hw_video_model": "vga",
        "hw_machine_type": "pc" if bus is DiskBus.IDE else "q35",
        "hw_firmware_type": "uefi" if vm.firmware is Firmware.UEFI else "bios",
        "hw_rng_model": "virtio",
    }
    if bus is DiskBus.VIRTIO_SCSI:
        found["hw_scsi_model"] = "virtio-scsi"
    if vm.firmware is Firmware.UEFI:
        # The keys that the physical machine trusted are not known, so its boot loader may not be either.
        found["os_secure_boot"] = "disabled"
    if vm.os is not None and not is_windows(vm.os):
        found |= {"os_distro": _word(vm.os.id), "os_version": _word(vm.os.version)}
    return {key: value for key, value in found.items() if value}


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "", text)[:60].lower()


def _bus(vm: VirtualMachine) -> DiskBus:
    for disk in vm.disks:
        if disk.bus not in BUSES:
            raise TargetError(f"OpenStack has no {disk.bus} disk for {disk.file}")
    return vm.disks[0].bus if vm.disks else PLATFORM.disk_bus


def _card(vm: VirtualMachine) -> str:
    for nic in vm.nics:
        if nic.model not in (NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET):
            raise TargetError(f"OpenStack has no {nic.model} network card")
    return (vm.nics[0].model if vm.nics else PLATFORM.nic_model).value


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The properties as JSON, and a script with the commands of the `openstack` client."""
    script = file_name(vm.name, "-upload.sh")
    document = json.dumps(properties(vm), indent=2) + "\n"
    return (
        ConfigFile(script, _script(vm, script)),
        ConfigFile(file_name(vm.name, "-image.json"), document),
    )


def _script(vm: VirtualMachine, script: str) -> str:
    name = shlex.quote(machine_name(vm.name))
    lines = [
        "#!/bin/sh",
        f"# With the credentials of a project, in the folder of the disks: sh {script} NETWORK [FLAVOR]",
        "set -eu",
        "network=${1:?the network of the machine}",
        'cd "$(dirname "$0")"',
        f"name={name}",
        *_flavor(vm),
    ]
    marked = " ".join(f"--property {shlex.quote(f'{key}={value}')}" for key, value in properties(vm).items())
    for index, disk in enumerate(vm.disks):
        lines += _upload(disk, index, marked if index == 0 else "")
    blocks = "".join(
        f' --block-device "source_type=volume,uuid=$volume{index},destination_type=volume"'
        for index in range(1, len(vm.disks))
    )
    lines += [_port(nic, index) for index, nic in enumerate(vm.nics)]
    ports = "".join(f' --port "$name-port{index}"' for index in range(len(vm.nics)))
    devices = f'--volume "$volume0"{blocks}{ports or " --nic none"}'
    lines.append(f'openstack server create --flavor "$flavor" {devices} --wait "$name"')
    return "\n".join(lines) + "\n"


def _flavor(vm: VirtualMachine) -> list[str]:
    create = (
        f'openstack flavor create --private --vcpus {vm.cpus} --ram {-(-vm.memory // MiB)} --disk 0 "$flavor"'
    )
    made = f"p2v-{uuid.uuid5(uuid.NAMESPACE_OID, one_line(vm.uuid or vm.name)).hex[:8]}"
    return [
        "flavor=${2:-}",
        "# Without a flavor, one of the size of the machine is made, which takes an administrator.",
        f'if [ -z "$flavor" ]; then flavor={made}; {create}; fi',
    ]


def _upload(disk: VirtualDisk, index: int, marked: str) -> list[str]:
    size = -(-disk.size // GiB)
    title = f'"$name-disk{index}"'
    bootable = " --bootable" if index == 0 else ""
    words = ["--container-format bare", f"--min-disk {size}", marked, f"--file {shlex.quote(disk.file)}"]
    return [
        f"openstack image create --disk-format {disk.format} {' '.join(filter(None, words))} {title}",
        f"openstack volume create --image {title} --size {size}{bootable} {title}",
        f'until [ "$(openstack volume show -f value -c status {title})" = available ]; do sleep 5; done',
        f"volume{index}=$(openstack volume show -f value -c id {title})",
    ]


def _port(nic: VirtualNic, index: int) -> str:
    return f'openstack port create --network "$network" --mac-address {nic.mac} "$name-port{index}"'


def start(vm: VirtualMachine, image_dir: Path) -> str:
    return f"sh {shlex.quote(str(image_dir / file_name(vm.name, '-upload.sh')))} NETWORK"


TARGET = Target(
    PLATFORM, check, render, "Glance properties, script", start, options=(FORMAT, BUS, NIC), shape=shape
)
