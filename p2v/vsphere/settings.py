"""What an import is asked for and what came of it: plain values, so that a plan can hold them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2v.errors import UsageError
from p2v.model import VirtualMachine
from p2v.vsphere.credentials import PROMPT, PasswordSource

HTTPS_PORT = 443


class Provisioning(StrEnum):
    """How a datastore holds the disks, in the words of `OvfManager.CreateImportSpecParams`."""

    THIN = "thin"
    THICK = "thick"
    EAGER = "eagerZeroedThick"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `call` and `block` are for one answer and for one block of an upload to be taken.

    `answer` is for the verdict after the last byte of a file, `ready` for the server to make the machine,
    `task` for a power operation, `cleanup` for removing what an interrupted import left, `lost` for a machine
    to appear whose making got no answer, `leftover` for what a killed import left to go away (the server's
    own limit for such a lease is 300), `keep_alive` the pause between two signs of life.
    """

    connect: float = 15.0
    call: float = 120.0
    block: float = 120.0
    answer: float = 600.0
    ready: float = 600.0
    task: float = 300.0
    lost: float = 15.0
    cleanup: float = 90.0
    leftover: float = 330.0
    keep_alive: float = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """A vCenter or an ESXi host. Its certificate is verified with the system's CAs, with those in `ca_file`,
    or is the one with this `thumbprint` (SHA-256 or SHA-1, hexadecimal) and no other.
    """

    host: str
    user: str
    password: PasswordSource = PROMPT
    port: int = HTTPS_PORT
    ca_file: Path | None = None
    thumbprint: str = ""


@dataclass(frozen=True, slots=True)
class NetworkMap:
    """`source` of the descriptor becomes `target` of vSphere; an empty source stands for all others."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where to put the machine, by name; empty = the only one there is (folder: the datacenter's own)."""

    datacenter: str = ""
    cluster: str = ""
    host: str = ""
    resource_pool: str = ""
    datastore: str = ""
    folder: str = ""
    networks: tuple[NetworkMap, ...] = ()
    provisioning: Provisioning = Provisioning.THIN
    power_on: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the machine of a run is imported: what was asked for, with the password as a reference."""

    server: Server
    placement: Placement

    def words(self) -> str:
        """The options that say the same on a command line."""
        return " ".join(
            f"{option} {shlex.quote(value)}" if value else option for option, value in self._words()
        )

    def _words(self) -> Iterator[tuple[str, str]]:
        server, placement = self.server, self.placement
        port = "" if server.port == HTTPS_PORT else f":{server.port}"
        host = f"[{server.host}]" if ":" in server.host else server.host
        values = {
            "--server": f"{host}{port}",
            "--user": server.user,
            "--password": str(server.password),
            "--ca-file": str(server.ca_file or ""),
            "--thumbprint": server.thumbprint,
            "--datacenter": placement.datacenter,
            "--cluster": placement.cluster,
            "--host": placement.host,
            "--resource-pool": placement.resource_pool,
            "--datastore": placement.datastore,
            "--folder": placement.folder,
        }
        yield from ((option, value) for option, value in values.items() if value)
        for item in placement.networks:
            yield "--network", f"{item.source}={item.target}" if item.source else item.target
        if placement.provisioning is not Provisioning.THIN:
            yield "--provisioning", str(placement.provisioning)
        if placement.power_on:
            yield "--power-on", ""


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Bytes that the guest sees of a disk, and those that it is known to fill."""

    capacity: int
    stored: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a datacenter must have for a machine; enough to refuse it before anything is captured.

    `own` is the instance UUID of what an earlier try may have left there, which gives way. `products` are
    the versions of virtual hardware that could be asked for instead, by name.
    """

    name: str
    cpus: int
    memory: int
    disks: tuple[DiskNeed, ...]
    networks: tuple[str, ...] = ()
    hardware: str = ""
    own: str = ""
    products: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A streamOptimized VMDK: `id` is that of the `File` in the descriptor. `sha256`, where given, is
    compared with what was sent.
    """

    id: str
    path: Path
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Appliance:
    """An OVF descriptor, its disks, and the machine that should come of it."""

    machine: VirtualMachine
    descriptor: str
    files: tuple[DiskFile, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """A network of the descriptor and the network of vSphere that it becomes."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where the machine goes: the names that were found. `hardware` is what the host offers, oldest first."""

    product: str
    datacenter: str
    folder: str
    host: str
    resource_pool: str
    datastore: str
    free_space: int
    networks: tuple[Wire, ...]
    hardware: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Uploaded:
    id: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A machine in the inventory. `reference` is its managed object id; `warnings` say where it is not what
    was asked for.
    """

    name: str
    server: str
    reference: str
    instance_uuid: str
    location: Location
    files: tuple[Uploaded, ...]
    powered_on: bool
    warnings: tuple[str, ...] = ()


_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?/?")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `vc.example`, `vc.example:8443`, `[fd00::1]`, `https://vc.example/`. UsageError."""
    found = _ADDRESS.fullmatch(text.removeprefix("https://"))
    port = int(found[3] or HTTPS_PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise UsageError(f"{text!r} is not the address of a vSphere server", hint="Try: --server vc.example")
    return found[1] or found[2], port


def parse_network(text: str) -> NetworkMap:
    """`SRC=DST`, or `DST` alone for every network of the machine. Raises UsageError."""
    source, separator, target = text.partition("=")
    if not separator:
        source, target = "", text
    if not target or (separator and not source):
        raise UsageError(f"{text!r} does not map a network", hint='Try: --network "VM Network=DMZ"')
    return NetworkMap(source, target)
