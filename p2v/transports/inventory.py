"""The JSON that `remote_inventory.py` answers, checked and turned into a `Machine`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conversions.os_release import OS_RELEASE, identify
from p2v.errors import TransportError
from p2v.model import Disk, Firmware, Machine, MiB, Nic, OperatingSystem
from p2v.transports.base import Mount, Survey

SMALLEST_DISK = 1 * MiB
EMPTY_UUIDS = ("", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")
PLACEHOLDER_UUID = "03000200-0400-0500-0006-000700080009"
"""Board makers ship it on every board, so it names no machine."""
MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, str_max_length=2 * MiB)


class _PartitionFacts(_Strict):
    name: str
    number: int
    start: int


class _DiskFacts(_Strict):
    name: str
    size: int
    sector_size: int
    removable: bool
    model: str
    serial: str
    wwn: str
    links: list[str]
    partitions: list[_PartitionFacts]


class _NicFacts(_Strict):
    name: str
    mac: str
    driver: str


class Facts(_Strict):
    hostname: str
    kernel: str
    architecture: str
    cpus: int = Field(ge=1, le=65536)
    memory: int = Field(ge=1)
    uefi: bool
    os_release: str
    old_releases: dict[str, str] = Field(default={}, max_length=64)
    machine_id: str
    boot_id: str = ""
    vendor: str
    product: str
    uuid: str
    hypervisor: bool
    cmdline: str
    mounts: str
    swaps: str
    disks: list[_DiskFacts] = Field(max_length=4096)
    nics: list[_NicFacts] = Field(max_length=4096)
    addresses: str
    routes: str


def parse_inventory(answer: dict[str, object]) -> Survey:
    """Raises TransportError where the answer is not an inventory."""
    try:
        facts = Facts.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransportError(f"The source's inventory is not usable: {where}: {first['msg']}") from error
    return Survey(_machine(facts), tuple(_mounts(facts)), facts.boot_id)


def _machine(facts: Facts) -> Machine:
    uuid = facts.uuid.lower()
    return Machine(
        hostname=facts.hostname,
        firmware=Firmware.UEFI if facts.uefi else Firmware.BIOS,
        cpus=facts.cpus,
        memory=facts.memory,
        disks=tuple(_disk(disk) for disk in facts.disks if disk.size >= SMALLEST_DISK and not disk.removable),
        nics=tuple(_nics(facts)),
        os=_system(facts),
        vendor=facts.vendor,
        product=facts.product,
        uuid="" if uuid in (*EMPTY_UUIDS, PLACEHOLDER_UUID) else uuid,
        kernel=facts.kernel,
        live=True,
    )


def _system(facts: Facts) -> OperatingSystem | None:
    texts = {**facts.old_releases, OS_RELEASE[0]: facts.os_release}
    return identify(
        lambda path: texts.get(path, ""), architecture=facts.architecture, machine_id=facts.machine_id
    )


def _disk(facts: _DiskFacts) -> Disk:
    path = "/dev/" + facts.name.replace("!", "/")
    return Disk(
        path=path,
        size=facts.size,
        sector_size=facts.sector_size if facts.sector_size in (512, 4096) else 512,
        serial=facts.serial,
        wwn=facts.wwn,
        model=facts.model,
        names=(path, *sorted(facts.links)),
    )


def _nics(facts: Facts) -> Iterator[Nic]:
    gateways = _gateways(facts.routes)
    for nic in facts.nics:
        if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", nic.mac.lower()):
            yield Nic(
                name=nic.name,
                mac=nic.mac.lower(),
                driver=nic.driver,
                addresses=tuple(_addresses(facts.addresses, nic.name)),
                gateway=gateways.get(nic.name, ""),
            )


def _addresses(said: str, name: str) -> Iterator[str]:
    """Lines of `ip -o addr`: `2: eth0    inet 10.0.0.5/24 brd …`; link-local addresses are left out."""
    for line in said.splitlines():
        words = line.split()
        ours = len(words) > 3 and words[1] == name and words[2] in ("inet", "inet6")
        if ours and not words[3].startswith("fe80:"):
            yield words[3]


def _gateways(routes: str) -> dict[str, str]:
    """Default routes of `/proc/net/route`: interface, destination and gateway as little-endian hex."""
    found = {}
    for line in routes.splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and words[1] == "00000000" and re.fullmatch(r"[0-9A-F]{8}", words[2]):
            found[words[0]] = ".".join(str(byte) for byte in bytes.fromhex(words[2])[::-1])
    return found


def _mounts(facts: Facts) -> Iterator[Mount]:
    """Each partition once, at its first and so its own place (bind mounts come later)."""
    owners = {
        part.name: ("/dev/" + disk.name.replace("!", "/"), part.number)
        for disk in facts.disks
        for part in disk.partitions
    }
    seen: set[str] = set()
    for line in facts.mounts.splitlines() + [_swap_line(line) for line in facts.swaps.splitlines()[1:]]:
        words = line.split()
        name = words[0].removeprefix("/dev/").replace("/", "!") if len(words) > 1 else ""
        if name in owners and name not in seen:
            seen.add(name)
            disk, number = owners[name]
            yield Mount(disk, number, MOUNT_ESCAPE.sub(lambda m: chr(int(m[1], 8)), words[1]))


def _swap_line(line: str) -> str:
    return (line.split() or [""])[0] + " [swap]"
