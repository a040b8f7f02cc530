"""KubeVirt: a VirtualMachine and a DataVolume for each disk, as one YAML file.

The fields are those of kubevirt.io/v1 and cdi.kubevirt.io/v1beta1. The disks are uploaded by `virtctl`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

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

FORMAT = Option("format", (ImageFormat.QCOW2, ImageFormat.RAW), "the kind of disk")
BUS = Option("bus", (AUTO, DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA), "the disks")
NIC = Option(
    "nic", (AUTO, NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET), "the network card"
)

BUSES = {DiskBus.VIRTIO_BLK: "virtio", DiskBus.VIRTIO_SCSI: "scsi", DiskBus.SATA: "sata"}
MAX_DISKS = {DiskBus.VIRTIO_BLK: 20, DiskBus.VIRTIO_SCSI: 250, DiskBus.SATA: 6}
LABEL_LIMIT = 63

_BASE = Platform(
    name="kubevirt",
    title="KubeVirt",
    disk_bus=DiskBus.VIRTIO_BLK,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.QCOW2,
    driver_pack="virtio-paravirtual",
    max_nics=8,
)

Document = dict[str, Any]


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
    """The nearest DNS label (RFC 1123), with room left for the names of the disks."""
    label = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return label[: LABEL_LIMIT - len("-disk00")].strip("-") or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """All documents in one file. Raises TargetError for a device that KubeVirt has not."""
    documents = [*(_data_volume(vm, index, disk) for index, disk in enumerate(vm.disks)), _machine(vm)]
    text = yaml.safe_dump_all(documents, sort_keys=False, explicit_start=True, width=100)
    return (ConfigFile(file_name(vm.name, ".yaml"), text),)


def _volume_name(vm: VirtualMachine, index: int) -> str:
    return f"{machine_name(vm.name)}-disk{index}"


def _data_volume(vm: VirtualMachine, index: int, disk: VirtualDisk) -> Document:
    # A volume with a filesystem needs room for that too; CDI adds it to what is asked for here.
    storage = {"resources": {"requests": {"storage": f"{-(-disk.size // MiB)}Mi"}}}
    return {
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "DataVolume",
        "metadata": {"name": _volume_name(vm, index)},
        "spec": {"source": {"upload": {}}, "storage": storage},
    }


def _machine(vm: VirtualMachine) -> Document:
    indexes = range(len(vm.disks))
    volumes = [{"name": f"disk{index}", "dataVolume": {"name": _volume_name(vm, index)}} for index in indexes]
    spec: Document = {"domain": _domain(vm), "volumes": volumes}
    if vm.nics:
        spec["networks"] = [_network(index) for index in range(len(vm.nics))]
    metadata: Document = {"name": machine_name(vm.name)}
    if vm.title:
        metadata["annotations"] = {"description": one_line(vm.title)}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata,
        "spec": {"runStrategy": "Halted", "template": {"metadata": {}, "spec": spec}},
    }


def _network(index: int) -> Document:
    """The pod's own network for the first card; others need a NetworkAttachmentDefinition of that name."""
    name = f"net{index}"
    return {"name": name, "pod": {}} if index == 0 else {"name": name, "multus": {"networkName": name}}


def _domain(vm: VirtualMachine) -> Document:
    disks = [_disk(disk, index) for index, disk in enumerate(vm.disks)]
    clock: Document = {"utc": {}} if vm.clock is Clock.UTC else {"timezone": "UTC"}
    return {
        "cpu": {"sockets": 1, "cores": vm.cpus, "threads": 1},
        "memory": {"guest": f"{-(-vm.memory // MiB)}Mi"},
        "machine": {"type": "q35"},
        "features": {"acpi": {}, "apic": {}},
        "clock": {
            **clock,
            "timer": {
                "hpet": {"present": False},
                "pit": {"tickPolicy": "delay"},
                "rtc": {"tickPolicy": "catchup"},
            },
        },
        "firmware": _firmware(vm),
        "devices": {
            "disks": disks,
            "interfaces": [_interface(nic, index) for index, nic in enumerate(vm.nics)],
            "rng": {},
        },
    }


def _firmware(vm: VirtualMachine) -> Document:
    # Secure Boot is on where nothing is said; the keys that the physical machine trusted are not known.
    loader: Document = {"efi": {"secureBoot": False}} if vm.firmware is Firmware.UEFI else {"bios": {}}
    return {"uuid": vm.uuid.lower(), "bootloader": loader} if is_uuid(vm.uuid) else {"bootloader": loader}


def _disk(disk: VirtualDisk, index: int) -> Document:
    if disk.bus not in BUSES:
        raise TargetError(f"KubeVirt has no {disk.bus} disk for {disk.file}")
    found: Document = {"name": f"disk{index}", "disk": {"bus": BUSES[disk.bus]}}
    serial = disk_serial(disk)
    if serial:
        found["serial"] = serial
    return {**found, "bootOrder": 1} if index == 0 else found


def _interface(nic: VirtualNic, index: int) -> Document:
    if nic.model not in (NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET):
        raise TargetError(f"KubeVirt has no {nic.model} network card")
    way: Document = {"masquerade": {}} if index == 0 else {"bridge": {}}
    return {"name": f"net{index}", "model": nic.model.value, "macAddress": nic.mac, **way}


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """Make the objects, upload the disks into them, start."""
    path = shlex.quote(str(image_dir / file_name(vm.name, ".yaml")))
    uploads = [
        f"virtctl image-upload dv {_volume_name(vm, index)} --no-create"
        f" --image-path={shlex.quote(str(image_dir / disk.file))}"
        for index, disk in enumerate(vm.disks)
    ]
    return " && ".join([f"kubectl create -f {path}", *uploads, f"virtctl start {machine_name(vm.name)}"])


TARGET = Target(
    PLATFORM, check, render, "VirtualMachine, DataVolume", start, options=(FORMAT, BUS, NIC), shape=shape
)
