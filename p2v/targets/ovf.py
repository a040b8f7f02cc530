"""OVF descriptors (DMTF DSP0243 1.1) as VMware's and VirtualBox' importers want them.

Resource types are those of CIM_ResourceAllocationSettingData; its properties stand in an Item in the order of
their names, which DSP0243 demands of OVF 1.x.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.errors import TargetError
from p2v.model import DiskBus, Firmware, Image, MiB, NicModel, VirtualDisk, VirtualMachine
from p2v.targets.base import one_line
from p2v.targets.guests import GuestNames, guest_names
from p2v.targets.markup import add, to_text

STREAM_OPTIMIZED = "streamOptimized"

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
RASD = f"{CIM}/CIM_ResourceAllocationSettingData"
VSSD = f"{CIM}/CIM_VirtualSystemSettingData"
VMW = "http://www.vmware.com/schema/ovf"
DISK_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
NETWORK = "VM Network"
"""What VMware's hosts call their first network, so that an importer finds it without being told."""

MEMORY_STEP = 4 * MiB
"""VMware's documentation: memory is a multiple of 4 MB."""

XSI = "http://www.w3.org/2001/XMLSchema-instance"

for _prefix, _space in (("ovf", OVF), ("rasd", RASD), ("vssd", VSSD), ("vmw", VMW), ("xsi", XSI)):
    ET.register_namespace(_prefix, _space)

PROCESSOR, MEMORY, IDE, SCSI, ETHERNET, DISK, OTHER_STORAGE = 3, 4, 5, 6, 10, 17, 20

Properties = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an importer calls its virtual hardware. `hardware` is VMware's version, 0 for VirtualBox."""

    system_type: str
    hardware: int
    controllers: tuple[tuple[DiskBus, int, str], ...]
    cards: tuple[tuple[NicModel, str], ...]

    @staticmethod
    def vmware(hardware: int) -> Dialect:
        return Dialect(f"vmx-{hardware:02}", hardware, _VMWARE_CONTROLLERS, _VMWARE_CARDS)

    @staticmethod
    def virtualbox() -> Dialect:
        return Dialect("virtualbox-2.2", 0, _VIRTUALBOX_CONTROLLERS, _VIRTUALBOX_CARDS)


_VMWARE_CONTROLLERS = (
    (DiskBus.PVSCSI, SCSI, "VirtualSCSI"),
    (DiskBus.LSI_SAS, SCSI, "lsilogicsas"),
    (DiskBus.LSI_LOGIC, SCSI, "lsilogic"),
    (DiskBus.BUSLOGIC, SCSI, "buslogic"),
    (DiskBus.SATA, OTHER_STORAGE, "vmware.sata.ahci"),
    (DiskBus.IDE, IDE, ""),
)
_VMWARE_CARDS = (
    (NicModel.VMXNET3, "VmxNet3"),
    (NicModel.E1000, "E1000"),
    (NicModel.E1000E, "E1000e"),
    (NicModel.PCNET, "PCNet32"),
)
_VIRTUALBOX_CONTROLLERS = ((DiskBus.SATA, OTHER_STORAGE, "AHCI"), (DiskBus.IDE, IDE, "PIIX4"))
_VIRTUALBOX_CARDS = ((NicModel.E1000, "E1000"), (NicModel.PCNET, "PCNet32"))

SCSI_SLOTS = (*range(7), *range(8, 16))
SLOTS = {IDE: tuple(range(2)), SCSI: SCSI_SLOTS, OTHER_STORAGE: tuple(range(30))}
"""Addresses of the disks of one controller."""


def usual_networks(count: int) -> tuple[str, ...]:
    """A network for each card, which may hang on different ones: the importer says where each leads."""
    return tuple(NETWORK if number == 1 else f"{NETWORK} {number}" for number in range(1, count + 1))


def memory_of(memory: int) -> int:
    """Bytes of memory as a descriptor tells them: up to the next multiple of what VMware takes."""
    return -(-memory // MEMORY_STEP) * MEMORY_STEP


def render(
    vm: VirtualMachine,
    dialect: Dialect,
    images: tuple[Image, ...],
    populated: tuple[int, ...],
    *,
    networks: tuple[str, ...] = (),
) -> str:
    """The descriptor of `vm`; `images` are the finished files of its disks, in order, `populated` the bytes
    that each disk fills, `networks` the names of those that the cards are on, in order too.
    """
    wires = networks or usual_networks(len(vm.nics))
    names = guest_names(vm.os, hardware=dialect.hardware or 99)
    root = ET.Element(f"{{{OVF}}}Envelope")
    _references(root, images)
    _disk_section(root, vm, populated)
    if vm.nics:
        section = _section(root, "NetworkSection", "The networks of the machine")
        for wire, nic in zip(wires, vm.nics, strict=True):
            card = " ".join(filter(None, (nic.name, nic.mac)))
            _describe(_ovf(section, "Network", name=wire), f"What the network card {card} is connected to")
    system = _ovf(root, "VirtualSystem", id=_identifier(vm.name))
    _describe(system, vm.title or "A machine converted by p2v", "Info")
    _ovf(system, "Name", one_line(vm.name))
    _system_section(system, names, dialect)
    _hardware(system, vm, dialect, wires)
    return to_text(root)


def _ovf(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    names = {f"{{{OVF}}}{name}": value for name, value in attributes.items()}
    return add(parent, f"{{{OVF}}}{tag}", text, **names)


def _section(parent: ET.Element, tag: str, info: str) -> ET.Element:
    section = _ovf(parent, tag)
    _describe(section, info, "Info")
    return section


def _describe(parent: ET.Element, text: str, tag: str = "Description") -> None:
    _ovf(parent, tag, one_line(text))


def _identifier(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-._" else "_" for char in one_line(name)) or "machine"


def _references(root: ET.Element, images: tuple[Image, ...]) -> None:
    references = _ovf(root, "References")
    for index, image in enumerate(images):
        _ovf(references, "File", href=image.path, id=f"file{index}", size=str(image.size))


def _disk_section(root: ET.Element, vm: VirtualMachine, populated: tuple[int, ...]) -> None:
    section = _section(root, "DiskSection", "The disks of the machine")
    for index, (disk, filled) in enumerate(zip(vm.disks, populated, strict=True)):
        _ovf(
            section,
            "Disk",
            capacity=str(disk.size),
            capacityAllocationUnits="byte",
            diskId=f"vmdisk{index}",
            fileRef=f"file{index}",
            format=DISK_FORMAT,
            populatedSize=str(filled),
        )


def _system_section(system: ET.Element, names: GuestNames, dialect: Dialect) -> None:
    section = _section(system, "OperatingSystemSection", "The system that is installed")
    section.set(f"{{{OVF}}}id", str(names.cim))
    if dialect.hardware:
        section.set(f"{{{VMW}}}osType", names.vim)
    else:
        _describe(section, names.virtualbox)


def _hardware(parent: ET.Element, vm: VirtualMachine, dialect: Dialect, wires: tuple[str, ...]) -> None:
    section = _section(parent, "VirtualHardwareSection", "The virtual hardware")
    system = _ovf(section, "System")
    vssd = {
        "ElementName": "Virtual Hardware Family",
        "InstanceID": "0",
        "VirtualSystemIdentifier": one_line(vm.name),
        "VirtualSystemType": dialect.system_type,
    }
    for name, value in vssd.items():
        add(system, f"{{{VSSD}}}{name}", value)
    for number, item in enumerate(_items(vm, dialect, wires), start=1):
        _item(section, {**item, "InstanceID": number})
    if vm.firmware is Firmware.UEFI and dialect.hardware:
        _vmware_config(section, "firmware", "efi")


def _item(section: ET.Element, properties: Properties) -> None:
    item = _ovf(section, "Item")
    for name in sorted(properties):
        add(item, f"{{{RASD}}}{name}", str(properties[name]))


def _vmware_config(section: ET.Element, key: str, value: str) -> None:
    names = {"key": key, "value": value}
    attributes = {f"{{{OVF}}}required": "false", **{f"{{{VMW}}}{name}": text for name, text in names.items()}}
    add(section, f"{{{VMW}}}Config", **attributes)


def _items(vm: VirtualMachine, dialect: Dialect, wires: tuple[str, ...]) -> Iterator[Properties]:
    """Processors, memory, controllers with their disks, cards; each gets the number of its place here."""
    yield {
        "AllocationUnits": "hertz * 10^6",
        "ElementName": f"{vm.cpus} virtual CPUs",
        "ResourceType": PROCESSOR,
        "VirtualQuantity": vm.cpus,
    }
    yield {
        "AllocationUnits": "byte * 2^20",
        "ElementName": f"{memory_of(vm.memory) // MiB} MB of memory",
        "ResourceType": MEMORY,
        "VirtualQuantity": memory_of(vm.memory) // MiB,
    }
    yield from _storage(vm.disks, dialect, first=3)
    for index, nic in enumerate(vm.nics):
        card = dict(dialect.cards).get(nic.model)
        if card is None:
            raise TargetError(f"{dialect.system_type} has no {nic.model} network card")
        yield {
            "Address": nic.mac,
            "AddressOnParent": index,
            "AutomaticAllocation": "true",
            "Connection": wires[index],
            "ElementName": f"Network adapter {index + 1}",
            "ResourceSubType": card,
            "ResourceType": ETHERNET,
        }


def _storage(disks: tuple[VirtualDisk, ...], dialect: Dialect, *, first: int) -> Iterator[Properties]:
    """Each controller followed by its disks; `first` is the number that the first item will get."""
    number = first
    counts: dict[int, int] = {}
    parents: dict[int, int] = {}
    for index, disk in enumerate(disks):
        kind, name = _controller(disk, dialect)
        controller, slot = divmod(counts.get(kind, 0), len(SLOTS[kind]))
        counts[kind] = counts.get(kind, 0) + 1
        if slot == 0:
            subtype: Properties = {"ResourceSubType": name} if name else {}
            yield {
                "Address": controller,
                "ElementName": f"Disk controller {number}",
                "ResourceType": kind,
                **subtype,
            }
            parents[kind], number = number, number + 1
        yield {
            "AddressOnParent": SLOTS[kind][slot],
            "ElementName": f"Hard disk {index + 1}",
            "HostResource": f"ovf:/disk/vmdisk{index}",
            "Parent": parents[kind],
            "ResourceType": DISK,
        }
        number += 1


def _controller(disk: VirtualDisk, dialect: Dialect) -> tuple[int, str]:
    for bus, kind, name in dialect.controllers:
        if bus is disk.bus:
            return kind, name
    raise TargetError(f"{dialect.system_type} has no {disk.bus} disk for {disk.file}")
