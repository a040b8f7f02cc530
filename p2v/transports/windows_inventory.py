"""What `remote_windows.ps1` says of a machine, checked and turned into a `Machine`.

Names and numbers are those of the CIM classes (learn.microsoft.com: Win32_*, MSFT_Disk,
Win32_EncryptableVolume). Everything is hostile until it has passed through `WindowsFacts`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from p2v.errors import TransportError
from p2v.model import (
    Disk,
    Firmware,
    Machine,
    MountedFilesystem,
    Nic,
    OperatingSystem,
    ProductType,
    WindowsSystem,
)
from p2v.transports.base import Survey
from p2v.transports.inventory import EMPTY_UUIDS, PLACEHOLDER_UUID, SMALLEST_DISK
from p2v.transports.windows_findings import Circumstances, Encrypted, findings

MANY = 4096
SIZE_LIMIT = 2**63
VOLUME = re.compile(r"\\\\\?\\Volume\{[0-9a-fA-F-]{36}\}\\")
"""How Windows names a volume for good, whatever letter it has (learn.microsoft.com, Naming a Volume)."""

PROCESSORS = {5: "armv7l", 6: "ia64", 12: "aarch64"}
"""Win32_Processor.Architecture, but for 0 and 9: a 32-bit Windows may run on a 64-bit processor."""

PRODUCTS = {1: ProductType.WORKSTATION, 2: ProductType.DOMAIN_CONTROLLER, 3: ProductType.SERVER}
UEFI, GPT = 2, 2
"""FIRMWARE_TYPE and PEFirmwareType; MSFT_Disk.PartitionStyle."""

SPACES = 16
"""MSFT_Disk.BusType."""

FCPH_NAME, EUI64 = 3, 2
"""MSFT_Disk.UniqueIdFormat: an NAA name, which Linux calls the WWN."""


def _as_list(value: Any) -> Any:
    """PowerShell 5.1 may wrap a list as {"value": [...], "Count": n}."""
    if isinstance(value, dict) and set(value) == {"value", "Count"}:
        return value["value"]
    return [] if value is None else value


Texts = Annotated[list[str], BeforeValidator(_as_list), Field(max_length=MANY)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, str_max_length=4096)


class _Extent(Strict):
    disk: int = Field(ge=0, lt=2**32)
    start: int = Field(ge=0, lt=SIZE_LIMIT)
    length: int = Field(ge=0, lt=SIZE_LIMIT)


class VolumeFacts(Strict):
    """A volume: `name` is its name for good, `place` where it is mounted."""

    name: str
    place: str
    kind: str
    size: int = Field(ge=0, lt=SIZE_LIMIT)
    extents: Annotated[list[_Extent], BeforeValidator(_as_list), Field(max_length=MANY)]

    def mounted(self) -> MountedFilesystem:
        """`start` and `length` are 0 where the volume is in several pieces."""
        plain = self.extents[0] if len(self.extents) == 1 else None
        return MountedFilesystem(
            place=self.place or self.name,
            kind=self.kind,
            disks=tuple(dict.fromkeys(disk_path(one.disk) for one in self.extents)),
            start=plain.start if plain else 0,
            length=plain.length if plain else 0,
            volume=self.name if VOLUME.fullmatch(self.name) else "",
        )


Volumes = Annotated[list[VolumeFacts], BeforeValidator(_as_list), Field(max_length=MANY)]


class _DiskFacts(Strict):
    number: int = Field(ge=0, lt=2**32)
    size: int = Field(ge=0, lt=SIZE_LIMIT)
    sector_size: int
    physical_sector_size: int
    model: str
    serial: str
    unique_id: str
    unique_id_format: int
    bus: int
    style: int
    offline: bool
    media: str
    pnp: str


class _NicFacts(Strict):
    name: str
    description: str
    guid: str
    mac: str
    driver: str
    pnp: str
    dhcp: bool
    addresses: Texts
    masks: Texts
    gateways: Texts
    dns: Texts


class _ControllerFacts(Strict):
    name: str
    class_guid: str = Field(alias="class")
    service: str
    ids: Texts


class _EncryptedFacts(Strict):
    name: str
    place: str
    protection: int
    conversion: int


class WindowsFacts(Strict):
    hostname: str
    caption: str
    version: str = Field(pattern=r"^[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,9}$")
    edition: str
    product_type: int
    processor: int
    is_64_bit: bool
    machine_guid: str
    boot_id: str
    vendor: str
    product: str
    uuid: str
    firmware: int
    pe_firmware: int
    cpus: int = Field(ge=1, le=65536)
    memory: int = Field(ge=1, lt=SIZE_LIMIT)
    system_drive: str
    system_partition: str
    hiberboot: bool
    hibernate: bool
    pending_reboots: Texts
    disks: Annotated[list[_DiskFacts], BeforeValidator(_as_list), Field(max_length=MANY)]
    volumes: Volumes
    encrypted: Annotated[list[_EncryptedFacts], BeforeValidator(_as_list), Field(max_length=MANY)]
    nics: Annotated[list[_NicFacts], BeforeValidator(_as_list), Field(max_length=MANY)]
    controllers: Annotated[list[_ControllerFacts], BeforeValidator(_as_list), Field(max_length=MANY)]


def parse_inventory(answer: dict[str, object]) -> Survey:
    """Raises TransportError where the answer is not an inventory of a Windows."""
    try:
        facts = WindowsFacts.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransportError(f"The source's inventory is not usable: {where}: {first['msg']}") from error
    return Survey(_machine(facts), (), facts.boot_id)


def disk_path(number: int) -> str:
    return rf"\\.\PhysicalDrive{number}"


def _machine(facts: WindowsFacts) -> Machine:
    uuid = facts.uuid.lower()
    mounted = tuple(one.mounted() for one in facts.volumes if one.kind and one.extents)
    used = {path for one in mounted for path in one.disks}
    return Machine(
        hostname=facts.hostname,
        firmware=_firmware(facts),
        cpus=facts.cpus,
        memory=facts.memory,
        disks=tuple(_disk(one, used) for one in facts.disks if _is_fixed(one)),
        nics=tuple(_nics(facts)),
        os=_system(facts),
        vendor=facts.vendor,
        product=facts.product,
        uuid="" if uuid in (*EMPTY_UUIDS, PLACEHOLDER_UUID) else uuid,
        kernel=facts.version,
        live=True,
        findings=findings(_circumstances(facts)),
        mounted=mounted,
    )


def _is_fixed(disk: _DiskFacts) -> bool:
    """Win32_DiskDrive.MediaType: `Fixed hard disk media`, `External hard disk media`, `Removable Media`."""
    return disk.size >= SMALLEST_DISK and not disk.media.lower().startswith("removable")


def _firmware(facts: WindowsFacts) -> Firmware:
    """What Windows says; before 8 it says nothing, but boots from GPT with UEFI and only then."""
    if facts.firmware in (1, UEFI) or facts.pe_firmware in (1, UEFI):
        return Firmware.UEFI if (facts.firmware or facts.pe_firmware) == UEFI else Firmware.BIOS
    home = _system_disk(facts)
    return (
        Firmware.UEFI
        if any(one.style == GPT and one.number == home for one in facts.disks)
        else Firmware.BIOS
    )


def _system_disk(facts: WindowsFacts) -> int:
    """The number of the disk that Windows itself is on; -1 where that is not known."""
    place = facts.system_drive.rstrip("\\").lower()
    for one in facts.volumes:
        if place and one.place.rstrip("\\").lower() == place and one.extents:
            return one.extents[0].disk
    return -1


def _system(facts: WindowsFacts) -> OperatingSystem:
    major, minor, build = (int(word) for word in facts.version.split("."))
    return OperatingSystem(
        id="windows",
        version=facts.version,
        name=facts.caption,
        family="windows",
        architecture=PROCESSORS.get(facts.processor, "x86_64" if facts.is_64_bit else "i686"),
        machine_id=facts.machine_guid.lower(),
        windows=WindowsSystem(
            major,
            minor,
            build,
            PRODUCTS.get(facts.product_type, ProductType.WORKSTATION),
            facts.edition,
            drive=facts.system_drive.rstrip("\\"),
        ),
    )


def _disk(facts: _DiskFacts, used: set[str]) -> Disk:
    path = disk_path(facts.number)
    return Disk(
        path=path,
        size=facts.size,
        sector_size=facts.sector_size if facts.sector_size in (512, 4096) else 512,
        serial=facts.serial,
        wwn=_wwn(facts),
        model=facts.model,
        names=(path,),
        idle=path not in used,
    )


def _wwn(facts: _DiskFacts) -> str:
    """As Linux says it, so that a rescue system on the same machine finds the same disk."""
    name = facts.unique_id.strip().lower()
    if facts.unique_id_format == FCPH_NAME and re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", name):
        return "0x" + name
    return name if re.fullmatch(r"eui\.[0-9a-f]{16}|eui\.[0-9a-f]{32}", name) else ""


def _nics(facts: WindowsFacts) -> Iterator[Nic]:
    for nic in facts.nics:
        mac = nic.mac.lower().replace("-", ":")
        if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) and not nic.pnp.upper().startswith("ROOT\\"):
            yield Nic(
                name=nic.name or nic.description,
                mac=mac,
                driver=nic.driver,
                addresses=tuple(_addresses(nic.addresses, nic.masks)),
                gateway=next(iter(nic.gateways), ""),
            )


def _addresses(addresses: Sequence[str], masks: Sequence[str]) -> Iterator[str]:
    """`10.0.0.5/24`; the mask of an IPv6 address is a number. Link-local addresses are left out."""
    for address, mask in zip(addresses, masks, strict=False):
        try:
            found = ipaddress.ip_interface(f"{address}/{mask}")
        except ValueError:
            continue
        if not found.is_link_local:
            yield found.with_prefixlen


def _circumstances(facts: WindowsFacts) -> Circumstances:
    return Circumstances(
        hiberboot=facts.hiberboot and facts.hibernate,
        pending_reboots=tuple(facts.pending_reboots),
        encrypted=tuple(
            Encrypted(one.place or one.name, one.protection, one.conversion) for one in facts.encrypted
        ),
        spaces=tuple(disk_path(one.number) for one in facts.disks if one.bus == SPACES),
        architecture=_system(facts).architecture,
        uefi_32=_firmware(facts) is Firmware.UEFI and not facts.is_64_bit,
    )
