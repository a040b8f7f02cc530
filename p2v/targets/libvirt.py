"""KVM under libvirt: a domain XML beside qcow2 images.

The choices follow what virt-install and virt-v2v write for a machine of which little is known; the format is
https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
import string
import uuid
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    DiskBus,
    Finding,
    Firmware,
    ImageFormat,
    KiB,
    NicModel,
    Plan,
    Platform,
    Severity,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets.base import ConfigFile, file_name
from p2v.ui import human_size

PLATFORM = Platform(
    name="libvirt",
    title="KVM / libvirt",
    disk_bus=DiskBus.VIRTIO_BLK,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.QCOW2,
    driver_pack="virtio",
)

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
MAX_CPUS = 255
"""Without an emulated IOMMU, x86 numbers no more processors (8-bit APIC identifiers)."""

SECTOR = 512
SERIAL_LIMIT = 20
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document can hold, escaped or not."""


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit on this target."""
    return tuple(_findings(plan))


def _findings(plan: Plan) -> Iterator[Finding]:
    if domain_name(plan.name) != plan.name:
        yield _blocker(
            f"libvirt accepts no machine named {plan.name[:80]!r}", f"Try: --name {domain_name(plan.name)}"
        )
    if plan.firmware not in PLATFORM.firmwares:
        yield _blocker(f"{PLATFORM.title} has no {plan.firmware.value} firmware")
    if not 1 <= plan.cpus <= MAX_CPUS:
        yield _blocker(f"{plan.cpus} processors: {PLATFORM.title} gives 1 to {MAX_CPUS}")
    if len(plan.disks) > PLATFORM.max_disks:
        yield _blocker(
            f"{len(plan.disks)} disks: {PLATFORM.title} takes {PLATFORM.max_disks}",
            "Try: name the disks that matter with --disk",
        )
    for planned in plan.disks:
        disk = planned.disk
        if disk.size > PLATFORM.max_disk_size:
            yield _blocker(f"{disk.path} has {human_size(disk.size)}, more than a qcow2 image should hold")
        if disk.sector_size != SECTOR:
            # The partition table counts in sectors: with other sectors, no partition is found.
            yield _blocker(f"{disk.path} has sectors of {disk.sector_size} bytes, virtual disks {SECTOR}")


def _blocker(message: str, hint: str = "") -> Finding:
    return Finding(Severity.BLOCKER, message, hint)


def domain_name(name: str) -> str:
    """The nearest name that libvirt accepts: no slash, no line end, no control character, not empty."""
    return re.sub(r"[/\x00-\x1f\x7f]", "-", NOT_XML.sub("-", name)).strip() or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The domain XML of `vm`, whose images lie in `image_dir`. libvirt needs their absolute paths.

    Raises TargetError where libvirt has no such disk bus.
    """
    domain = ET.Element("domain", type="kvm")
    _describe(domain, vm)
    _processor(domain)
    _clock(domain)
    _devices(domain, vm, image_dir)
    ET.indent(domain)
    text = ET.tostring(domain, encoding="unicode")
    return (ConfigFile(file_name(vm.name, ".xml"), f"{text}\n"),)


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = None if text is None else NOT_XML.sub("", text)
    return element


def _describe(domain: ET.Element, vm: VirtualMachine) -> None:
    _add(domain, "name", domain_name(vm.name))
    if is_uuid(vm.uuid):
        _add(domain, "uuid", vm.uuid.lower())
    if vm.title:
        _add(domain, "title", " ".join(vm.title.split()))
    _add(domain, "description", "Converted from a physical machine by p2v")
    _add(domain, "memory", str(vm.memory // KiB), unit="KiB")
    _add(domain, "vcpu", str(vm.cpus))
    _firmware(domain, vm)


def _firmware(domain: ET.Element, vm: VirtualMachine) -> None:
    # q35 has no IDE controller; every other guest gets the newer board, as virt-install does.
    board = "pc" if any(disk.bus is DiskBus.IDE for disk in vm.disks) else "q35"
    system = _add(domain, "os")
    if vm.firmware is Firmware.UEFI:
        system.set("firmware", "efi")
    _add(system, "type", "hvm", arch="x86_64", machine=board)
    if vm.firmware is Firmware.UEFI:
        # The keys that the physical machine trusted are not known, so its boot loader may not be either.
        _add(_add(system, "firmware"), "feature", enabled="no", name="secure-boot")


def _processor(domain: ET.Element) -> None:
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    # As virt-v2v: libvirt takes the named model nearest to the host's processor. That starts on every host,
    # has the x86-64-v2 that newer systems need and QEMU's own default lacks, and unlike host-passthrough it
    # lets the machine move to another host later.
    _add(domain, "cpu", mode="host-model", check="partial")


def _clock(domain: ET.Element) -> None:
    clock = _add(domain, "clock", offset="utc")
    _add(clock, "timer", name="rtc", tickpolicy="catchup")
    _add(clock, "timer", name="pit", tickpolicy="delay")
    _add(clock, "timer", name="hpet", present="no")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _add(domain, f"on_{event}", action)


def _devices(domain: ET.Element, vm: VirtualMachine, image_dir: Path) -> None:
    devices = _add(domain, "devices")
    names = device_names(vm.disks)
    for index, (disk, name) in enumerate(zip(vm.disks, names, strict=True)):
        _disk(devices, disk, name, image_dir, is_first=index == 0)
    _scsi_controllers(devices, vm)
    for nic in vm.nics:
        _nic(devices, nic)
    _consoles(devices)
    _helpers(devices)


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


def letters(number: int) -> str:
    """0 is `a`, 25 `z`, 26 `aa`: how Linux and libvirt count disks."""
    head, last = divmod(number, 26)
    return (letters(head - 1) if head else "") + string.ascii_lowercase[last]


def _disk(devices: ET.Element, disk: VirtualDisk, name: str, image_dir: Path, *, is_first: bool) -> None:
    element = _add(devices, "disk", type="file", device="disk")
    # Discarded blocks leave the image, so that it stays as thin as it was written.
    _add(element, "driver", name="qemu", type=disk.format.value, discard="unmap")
    _add(element, "source", file=str((image_dir / disk.file).absolute()))
    _add(element, "target", dev=name, bus=LIBVIRT_BUS[disk.bus][0])
    serial = re.sub(r"[^A-Za-z0-9_.+-]", "", disk.serial)[:SERIAL_LIMIT]
    if serial:
        _add(element, "serial", serial)
    if is_first:
        _add(element, "boot", order="1")


def _scsi_controllers(devices: ET.Element, vm: VirtualMachine) -> None:
    models = dict.fromkeys(SCSI_CONTROLLERS[disk.bus] for disk in vm.disks if disk.bus in SCSI_CONTROLLERS)
    if len(models) > 1:
        raise TargetError(f"{vm.name} mixes SCSI controllers ({', '.join(models)}), which is not supported")
    for model in models:
        _add(devices, "controller", type="scsi", index="0", model=model)


def _nic(devices: ET.Element, nic: VirtualNic) -> None:
    element = _add(devices, "interface", type="network")
    _add(element, "mac", address=nic.mac)
    _add(element, "source", network="default")
    _add(element, "model", type=nic.model.value)


def _consoles(devices: ET.Element) -> None:
    _add(_add(devices, "serial", type="pty"), "target", port="0")
    _add(_add(devices, "console", type="pty"), "target", type="serial", port="0")
    _add(devices, "input", type="tablet", bus="usb")
    _add(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    # Plain VGA: every guest, however old, has a driver for it.
    _add(_add(devices, "video"), "model", type="vga")


def _helpers(devices: ET.Element) -> None:
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(devices, "memballoon", model="virtio")


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
