"""The physical machine that is written to, as its rescue system sees it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2v.disk.used import inspect_disk
from p2v.errors import TransportError, UsageError
from p2v.house import House, Source
from p2v.model import Disk, Machine
from p2v.restore.model import Metal, PciDevice
from p2v.transports import RescueTransport, Survey


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, str_max_length=4096)


class _DeviceFacts(_Strict):
    address: str
    vendor: int = Field(ge=0, le=0xFFFF)
    device: int = Field(ge=0, le=0xFFFF)
    subsystem_vendor: int = Field(ge=0, le=0xFFFF)
    subsystem_device: int = Field(ge=0, le=0xFFFF)
    revision: int = Field(ge=0, le=0xFF)
    class_code: int = Field(ge=0, le=0xFFFFFF)
    driver: str


class _Facts(_Strict):
    devices: list[_DeviceFacts] = Field(max_length=4096)
    modaliases: list[str] = Field(max_length=8192)
    efi_variables: bool


def rescue_transport(source: Source) -> RescueTransport:
    """The line to a machine that can be written to. Raises UsageError for what is none, TransportError."""
    transport = source.transport()
    if not isinstance(transport, RescueTransport):
        raise UsageError(
            f"{source.job.source} cannot be written to: it is no machine that runs a rescue system with "
            "Python",
            hint="Boot the machine from the rescue system: p2v rescue build",
        )
    return transport


def probe_metal(source: Source, house: House) -> Metal:
    """The machine, its disks with what is on them now, and what is plugged into it.

    Raises UsageError, TransportError.
    """
    with house.ui.phase("Looking at the machine"):
        transport = rescue_transport(source)
        survey = transport.survey()
        disks = tuple(_look(transport, disk, survey) for disk in survey.machine.disks)
        return parse_metal(transport.devices(), replace(survey.machine, disks=disks))


def _look(transport: RescueTransport, disk: Disk, survey: Survey) -> Disk:
    with transport.open_disk(disk) as device:
        seen = inspect_disk(device, disk)
    places = {mount.partition: mount.place for mount in survey.mounts if mount.disk == disk.path}
    partitions = tuple(
        replace(partition, mountpoint=places.get(partition.number, "")) for partition in seen.partitions
    )
    return replace(seen, partitions=partitions)


def parse_metal(answer: dict[str, object], machine: Machine) -> Metal:
    """The machine with what is plugged into it. Raises TransportError."""
    try:
        facts = _Facts.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransportError(f"The machine's devices cannot be read: {where}: {first['msg']}") from error
    devices = tuple(PciDevice(**one.model_dump()) for one in facts.devices)
    return Metal(machine, devices, tuple(facts.modaliases), facts.efi_variables)
