"""What an OVF descriptor says that matters here: files, disks, networks (DMTF DSP0243)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import TargetError
from p2v.vsphere.settings import Appliance, DiskFile, DiskNeed, Needs

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
VSSD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData}"
SIZE_LIMIT = 4 << 20
LARGEST_DISK = 1 << 60
_UNITS = re.compile(r"byte(?: \* (\d{1,6})(?:\^(\d{1,2}))?)?")


@dataclass(frozen=True, slots=True)
class Part:
    """One file to upload: its id and name in the descriptor, and where it is; sizes are bytes."""

    id: str
    href: str
    path: Path
    size: int
    sha256: str
    need: DiskNeed


@dataclass(frozen=True, slots=True)
class Contents:
    parts: tuple[Part, ...]
    needs: Needs


def read_appliance(appliance: Appliance) -> Contents:
    """The files in the order of the descriptor, and what the machine needs.

    Raises TargetError where the descriptor and the files do not belong together.
    """
    root = _parse(appliance.descriptor)
    given = {file.id: file for file in appliance.files}
    parts = tuple(_part(element, given, _disk_of(root, element)) for element in root.iter(f"{OVF}File"))
    machine = appliance.machine
    needs = Needs(
        name=machine.name,
        cpus=machine.cpus,
        memory=machine.memory,
        disks=tuple(part.need for part in parts),
        networks=tuple(element.get(f"{OVF}name", "") for element in root.iter(f"{OVF}Network")),
        hardware=next((element.text or "" for element in root.iter(f"{VSSD}VirtualSystemType")), ""),
    )
    return Contents(parts, needs)


def _parse(text: str) -> ET.Element:
    # No document type: entities could make it larger than it is.
    if len(text) > SIZE_LIMIT or "<!DOCTYPE" in text:
        raise TargetError("The OVF descriptor is not one that can be imported")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise TargetError(f"The OVF descriptor cannot be read: {error}") from error
    if root.tag != f"{OVF}Envelope":
        raise TargetError("The OVF descriptor has no Envelope of OVF 1")
    return root


def _disk_of(root: ET.Element, file: ET.Element) -> ET.Element:
    id = file.get(f"{OVF}id", "")
    for disk in root.iter(f"{OVF}Disk"):
        if disk.get(f"{OVF}fileRef") == id:
            return disk
    raise TargetError(f"The OVF descriptor has a file {id!r} that is no disk")


def _part(element: ET.Element, given: dict[str, DiskFile], disk: ET.Element) -> Part:
    id, href = element.get(f"{OVF}id", ""), element.get(f"{OVF}href", "")
    file = given.get(id)
    if file is None:
        raise TargetError(f"No disk was given for the file {id!r} ({href}) of the OVF descriptor")
    try:
        size = file.path.stat().st_size
    except OSError as error:
        raise TargetError(f"Cannot read {file.path}: {error.strerror}") from error
    told = element.get(f"{OVF}size")
    if told is not None and told != str(size):
        raise TargetError(f"{file.path} has {size} bytes; the OVF descriptor says {told}")
    return Part(id, href, file.path, size, file.sha256, _need(disk, size))


def _need(disk: ET.Element, size: int) -> DiskNeed:
    """What a disk fills is told by `populatedSize`; without it, at least what its compressed file has."""
    capacity = _number(disk, "capacity", 0) * _unit(disk.get(f"{OVF}capacityAllocationUnits", "byte"))
    if not 0 < capacity <= LARGEST_DISK:
        raise TargetError(f"The OVF descriptor has a disk with a capacity of {capacity} bytes")
    return DiskNeed(capacity, _number(disk, "populatedSize", size))


def _number(disk: ET.Element, name: str, default: int) -> int:
    text = disk.get(f"{OVF}{name}", str(default))
    if not re.fullmatch(r"\d{1,18}", text):
        raise TargetError(f"The OVF descriptor has {text!r} as {name} of a disk")
    return int(text)


def _unit(text: str) -> int:
    found = _UNITS.fullmatch(text.strip())
    if not found:
        raise TargetError(f"The OVF descriptor has {text!r} as the unit of a capacity")
    base, exponent = int(found[1] or 1), int(found[2] or 1)
    return int(base**exponent)
