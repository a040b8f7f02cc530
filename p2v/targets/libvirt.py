"""KVM under libvirt: a domain XML beside qcow2 images.

The choices follow what virt-install and virt-v2v write for a machine of which little is known; the format is
https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    Clock,
    DiskBus,
    Finding,
    Firmware,
    ImageFormat,
    KiB,
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
    setting,
)
from p2v.targets.counting import letters
from p2v.targets.guests import is_windows, osinfo_id
from p2v.targets.markup import NOT_XML, add

MAX_CPUS = 255
"""Without an emulated IOMMU, x86 numbers no more processors (8-bit APIC identifiers)."""

MAX_NICS = 20
"""Slots of a PCI bus that are left beside the other devices."""

FORMAT = Option("format", (ImageFormat.QCOW2, ImageFormat.RAW), "the kind of disk")
BUS = Option("bus", (AUTO, DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA, DiskBus.IDE), "the disks")
NIC = Option(
    "nic", (AUTO, NicModel.VIRTIO, NicModel.E1000E, NicModel.E1000, NicModel.PCNET), "the network card"
)

_BASE = Platform(
    name="libvirt",
    title="KVM / libvirt",
    disk_bus=DiskBus.VIRTIO_BLK,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.QCOW2,
    driver_pack="virtio",
    max_cpus=MAX_CPUS,
    max_nics=MAX_NICS,
)
LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

MAX_DISKS = {DiskBus.SATA: 6, DiskBus.IDE: 4}
"""What one controller carries; the others are not counted here."""


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    platform = replace(platform, image_format=ImageFormat(setting(platform, FORMAT)))
    platform = choose_devices(platform, BUS, NIC)
    return replace(platform, max_disks=MAX_DISKS.get(platform.disk_bus, platform.max_disks))


PLATFORM = shape(_BASE)

LIBVIRT_BUS = {
    DiskBus.VIRTIO_BLK: ("virtio", "vd"),
    DiskBus.VIRTIO_SCSI: ("scsi", "sd"),
    DiskBus.LSI_SAS: ("scsi", "sd"),
    DiskBus.PVSCSI: ("scsi", "sd"),
    DiskBus.SATA: ("sata", "sd"),
    DiskBus.IDE: ("ide", "hd"),
}
"""The `bus` attribute and the prefix of the device name. libvirt before 11.5 knows no emulated NVMe disk."""

SCSI_CONTROLLERS = {
    DiskBus.VIRTIO_SCSI: "virtio-scsi",
    DiskBus.LSI_SAS: "lsisas1068",
    DiskBus.PVSCSI: "vmpvscsi",
}


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit on this target."""
    return tuple(misfits(plan, name=domain_name))


def domain_name(name: str) -> str:
    """The nearest name that libvirt accepts: no slash, no line end, no control character, not empty."""
    return re.sub(r"[/\x00-\x1f\x7f]", "-", NOT_XML.sub("-", name)).strip() or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The domain XML of `vm`, whose images lie in `image_dir`. libvirt needs their absolute paths.

    Raises TargetError where libvirt has no such disk bus.
    """
    domain = ET.Element("domain", type="kvm")
    _describe(domain, vm)
    _processor(domain, vm)
    _clock(domain, vm)
    _devices(domain, vm, image_dir)
    ET.indent(domain)
    text = ET.tostring(domain, encoding="unicode")
    return (ConfigFile(file_name(vm.name, ".xml"), f"{text}\n"),)


def _describe(domain: ET.Element, vm: VirtualMachine) -> None:
    add(domain, "name", domain_name(vm.name))
    if is_uuid(vm.uuid):
        add(domain, "uuid", vm.uuid.lower())
    if vm.title:
        add(domain, "title", " ".join(vm.title.split()))
    add(domain, "description", "Converted from a physical machine by p2v")
    _metadata(domain, vm)
    add(domain, "memory", str(vm.memory // KiB), unit="KiB")
    add(domain, "vcpu", str(vm.cpus))
    _firmware(domain, vm)


def _metadata(domain: ET.Element, vm: VirtualMachine) -> None:
    """Which Windows it is, for virt-manager."""
    identifier = osinfo_id(vm.os) if vm.os and is_windows(vm.os) else ""
    if identifier:
        ET.register_namespace("libosinfo", LIBOSINFO)
        known = ET.SubElement(add(domain, "metadata"), f"{{{LIBOSINFO}}}libosinfo")
        ET.SubElement(known, f"{{{LIBOSINFO}}}os", id=identifier)


def _firmware(domain: ET.Element, vm: VirtualMachine) -> None:
    # q35 has no IDE controller; every other guest gets the newer board, as virt-install does.
    board = "pc" if any(disk.bus is DiskBus.IDE for disk in vm.disks) else "q35"
    system = add(domain, "os")
    if vm.firmware is Firmware.UEFI:
        system.set("firmware", "efi")
    add(system, "type", "hvm", arch="x86_64", machine=board)
    if vm.firmware is Firmware.UEFI:
        # The keys that the physical machine trusted are not known, so its boot loader may not be either.
        add(add(system, "firmware"), "feature", enabled="no", name="secure-boot")


def _processor(domain: ET.Element, vm: VirtualMachine) -> None:
    features = add(domain, "features")
    add(features, "acpi")
    add(features, "apic")
    if is_windows(vm.os):
        # As virt-install: without these Windows spins, and takes a busy host for a hung processor.
        hyperv = add(features, "hyperv", mode="custom")
        for name in ("relaxed", "vapic"):
            add(hyperv, name, state="on")
        add(hyperv, "spinlocks", state="on", retries="8191")
    # As virt-v2v: libvirt takes the named model nearest to the host's processor. That starts on every host,
    # has the x86-64-v2 that newer systems need and QEMU's own default lacks, and unlike host-passthrough it
    # lets the machine move to another host later.
    add(domain, "cpu", mode="host-model", check="partial")


def _clock(domain: ET.Element, vm: VirtualMachine) -> None:
    clock = add(domain, "clock", offset="utc" if vm.clock is Clock.UTC else "localtime")
    add(clock, "timer", name="rtc", tickpolicy="catchup")
    add(clock, "timer", name="pit", tickpolicy="delay")
    add(clock, "timer", name="hpet", present="no")
    if is_windows(vm.os):
        add(clock, "timer", name="hypervclock", present="yes")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        add(domain, f"on_{event}", action)


def _devices(domain: ET.Element, vm: VirtualMachine, image_dir: Path) -> None:
    devices = add(domain, "devices")
    names = device_names(vm.disks)
    for index, (disk, name) in enumerate(zip(vm.disks, names, strict=True)):
        _disk(devices, disk, name, image_dir, is_first=index == 0)
    _scsi_controllers(devices, vm)
    for nic in vm.nics:
        _nic(devices, nic)
    _consoles(devices)
    if _has_virtio(vm):
        _helpers(devices)
    else:
        # Windows would ask for drivers that nobody gave it; without this libvirt adds one by itself.
        add(devices, "memballoon", model="none")


def _has_virtio(vm: VirtualMachine) -> bool:
    """Every Linux has the drivers; a Windows that does not need them for its disk or card has none."""
    buses = {disk.bus for disk in vm.disks} & {DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI}
    return not is_windows(vm.os) or bool(buses) or any(nic.model is NicModel.VIRTIO for nic in vm.nics)


def device_names(disks: tuple[VirtualDisk, ...]) -> list[str]:
    """`vda`, `vdb`, … in order, by prefix. Raises TargetError for a bus that libvirt has not."""
    seen: Counter[str] = Counter()
    names = []
    for disk in disks:
        if disk.bus not in LIBVIRT_BUS:
            raise TargetError(f"libvirt has no {disk.bus.value} disk for {disk.file}")
        prefix = LIBVIRT_BUS[disk.bus][1]
        names.append(prefix + letters(seen[prefix]))
        seen[prefix] += 1
    return names


def _disk(devices: ET.Element, disk: VirtualDisk, name: str, image_dir: Path, *, is_first: bool) -> None:
    element = add(devices, "disk", type="file", device="disk")
    # Discarded blocks leave the image, so that it stays as thin as it was written.
    add(element, "driver", name="qemu", type=disk.format.value, discard="unmap")
    add(element, "source", file=str((image_dir / disk.file).absolute()))
    add(element, "target", dev=name, bus=LIBVIRT_BUS[disk.bus][0])
    serial = disk_serial(disk)
    if serial:
        add(element, "serial", serial)
    if is_first:
        add(element, "boot", order="1")


def _scsi_controllers(devices: ET.Element, vm: VirtualMachine) -> None:
    models = dict.fromkeys(SCSI_CONTROLLERS[disk.bus] for disk in vm.disks if disk.bus in SCSI_CONTROLLERS)
    if len(models) > 1:
        raise TargetError(f"{vm.name} mixes SCSI controllers ({', '.join(models)}), which is not supported")
    for model in models:
        add(devices, "controller", type="scsi", index="0", model=model)


def _nic(devices: ET.Element, nic: VirtualNic) -> None:
    element = add(devices, "interface", type="network")
    add(element, "mac", address=nic.mac)
    add(element, "source", network="default")
    add(element, "model", type=nic.model.value)


def _consoles(devices: ET.Element) -> None:
    add(add(devices, "serial", type="pty"), "target", port="0")
    add(add(devices, "console", type="pty"), "target", type="serial", port="0")
    add(devices, "input", type="tablet", bus="usb")
    add(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    # Plain VGA: every guest, however old, has a driver for it.
    add(add(devices, "video"), "model", type="vga")


def _helpers(devices: ET.Element) -> None:
    channel = add(devices, "channel", type="unix")
    add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    add(devices, "memballoon", model="virtio")


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """On the host with the files."""
    path = shlex.quote(str(image_dir / file_name(vm.name, ".xml")))
    return f"virsh define {path} && virsh start --domain {shlex.quote(domain_name(vm.name))}"


TARGET = Target(PLATFORM, check, render, "domain XML", start, options=(FORMAT, BUS, NIC), shape=shape)
