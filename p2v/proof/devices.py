"""The virtual hardware of a proof as QEMU arguments: the machine's own kind of disks and network cards.

Nothing here starts anything. Names that come from a guest or a user only get into arguments that are checked
or encoded as JSON, because QEMU reads commas and equal signs as options.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import DiskBus, Firmware, MiB, NicModel, VirtualDisk, VirtualMachine, VirtualNic

MIN_MEMORY = 512 * MiB
MAX_MEMORY = 2048 * MiB
"""Enough for a login prompt, whatever the machine has; the host keeps the rest."""

MAX_CPUS = 4
SATA_PORTS = 6
IDE_DISKS = 4
SCSI_TARGETS = {DiskBus.VIRTIO_SCSI: 255, DiskBus.PVSCSI: 16, DiskBus.LSI_SAS: 8}
SCSI_DEVICES = {
    DiskBus.VIRTIO_SCSI: "virtio-scsi-pci",
    DiskBus.PVSCSI: "pvscsi",
    DiskBus.LSI_SAS: "mptsas1068",
}
NIC_DEVICES = {
    NicModel.VIRTIO: "virtio-net-pci",
    NicModel.E1000: "e1000",
    NicModel.E1000E: "e1000e",
    NicModel.VMXNET3: "vmxnet3",
    NicModel.TULIP: "tulip",
    NicModel.PCNET: "pcnet",
    NicModel.NETVSC: "tulip",
}
"""Hyper-V's own card is not to be had; its legacy one is the same DEC chip."""

SAS_ADDRESS = 0x3000000000000001
"""Of the first disk, locally assigned (NAA 3). Linux passes over a port of mptsas whose disk has none; those
of VMware have one.
"""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
SERIAL_LIMIT = 20
"""virtio-blk and ATA know no longer serial number."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A TCP port of the host's loopback that leads to a port of the guest, by default at its first lease."""

    port: int
    guest_port: int = 22
    guest_address: str = ""


@dataclass(frozen=True, slots=True)
class NetworkAccess:
    """What the guest's first card reaches. Never the outside; by default nothing reaches the guest either.

    `net` (such as `192.168.7.0/24`) is for guests with a fixed address; QEMU's own default is 10.0.2.0/24.
    """

    net: str = ""
    forwards: tuple[Forward, ...] = ()


ISOLATED = NetworkAccess()


def option(value: str | Path) -> str:
    """A value inside a comma-separated argument of QEMU."""
    return str(value).replace(",", ",,")


def machine_type(vm: VirtualMachine) -> str:
    """`pc` (i440FX) where a disk is IDE, which q35 has not; else q35 without its unused AHCI controller."""
    return "pc" if any(disk.bus is DiskBus.IDE for disk in vm.disks) else "q35,sata=off"


def proof_memory(wanted: int, available: int) -> int:
    """Bytes of memory for the proof, whole MiB."""
    return max(MIN_MEMORY, min(wanted, available, MAX_MEMORY)) // MiB * MiB


def disk_arguments(disks: Sequence[VirtualDisk], overlays: Sequence[Path]) -> list[str]:
    """Block nodes, controllers and disks. Raises TargetError where a bus cannot carry that many."""
    arguments: list[str] = []
    seen: Counter[DiskBus] = Counter()
    for index, (disk, overlay) in enumerate(zip(disks, overlays, strict=True)):
        arguments += ["-blockdev", _block_node(index, overlay)]
        arguments += _controller(disk.bus, seen[disk.bus])
        # Like libvirt: only the first disk is a boot disk.
        boot = ",bootindex=1" if index == 0 else ""
        arguments += ["-device", f"{_disk_device(disk, index, seen[disk.bus])}{_serial(disk, index)}{boot}"]
        seen[disk.bus] += 1
    return arguments


def _block_node(index: int, overlay: Path) -> str:
    return json.dumps(
        {
            "driver": "qcow2",
            "node-name": f"disk{index}",
            "discard": "unmap",
            "cache": {"no-flush": True},
            "file": {"driver": "file", "filename": str(overlay), "cache": {"no-flush": True}},
        }
    )


def _controller(bus: DiskBus, number: int) -> list[str]:
    """The controller that the `number`-th disk (from 0) of a bus needs and that is not there yet."""
    match bus:
        case DiskBus.SATA if number % SATA_PORTS == 0:
            return ["-device", f"ahci,id=sata{number // SATA_PORTS}"]
        case DiskBus.VIRTIO_SCSI | DiskBus.PVSCSI | DiskBus.LSI_SAS if number % SCSI_TARGETS[bus] == 0:
            return ["-device", f"{SCSI_DEVICES[bus]},id={_scsi_bus(bus, number)}"]
        case _:
            return []


def _scsi_bus(bus: DiskBus, number: int) -> str:
    return f"{bus.value}{number // SCSI_TARGETS[bus]}"


def _disk_device(disk: VirtualDisk, index: int, number: int) -> str:
    drive = f"drive=disk{index}"
    match disk.bus:
        case DiskBus.VIRTIO_BLK:
            return f"virtio-blk-pci,{drive}"
        case DiskBus.NVME:
            return f"nvme,{drive}"
        case DiskBus.SATA:
            return f"ide-hd,{drive},bus=sata{number // SATA_PORTS}.{number % SATA_PORTS}"
        case DiskBus.IDE:
            if number >= IDE_DISKS:
                raise TargetError(f"{disk.file} is the fifth disk on IDE, which carries four")
            return f"ide-hd,{drive},bus=ide.{number // 2},unit={number % 2}"
        case DiskBus.VIRTIO_SCSI | DiskBus.PVSCSI | DiskBus.LSI_SAS:
            target = number % SCSI_TARGETS[disk.bus]
            name = f",wwn={SAS_ADDRESS + number}" if disk.bus is DiskBus.LSI_SAS else ""
            return f"scsi-hd,{drive},bus={_scsi_bus(disk.bus, number)}.0,scsi-id={target}{name}"
        case _:
            raise TargetError(
                f"QEMU has no {disk.bus} disks, so a boot of {disk.file} on them cannot be tried",
                hint="Try it on the hypervisor itself",
            )


def _serial(disk: VirtualDisk, index: int) -> str:
    serial = re.sub(r"[^A-Za-z0-9_.+-]", "", disk.serial)[:SERIAL_LIMIT]
    if disk.bus is DiskBus.NVME and not serial:
        # QEMU refuses an NVMe disk without one.
        serial = f"p2v-disk{index}"
    return f",serial={serial}" if serial else ""


def nic_arguments(nics: Sequence[VirtualNic], network: NetworkAccess) -> list[str]:
    """Network cards, each on a network of its own that leads nowhere. Raises TargetError on a bad MAC."""
    arguments: list[str] = []
    for index, nic in enumerate(nics):
        if not MAC.fullmatch(nic.mac):
            raise TargetError(f"{nic.mac[:40]!r} is not the MAC address of a network card")
        access = network if index == 0 else ISOLATED
        arguments += ["-netdev", f"user,id=net{index},restrict=on{_access(access)}"]
        # Without a boot ROM the firmware never tries the network, so a missing disk shows at once.
        if nic.model not in NIC_DEVICES:
            raise TargetError(f"QEMU has no {nic.model} network card")
        arguments += ["-device", f"{NIC_DEVICES[nic.model]},netdev=net{index},mac={nic.mac},romfile="]
    return arguments


def _access(network: NetworkAccess) -> str:
    net = f",net={option(network.net)}" if network.net else ""
    forwards = (
        f",hostfwd=tcp:127.0.0.1:{forward.port}-{option(forward.guest_address)}:{forward.guest_port}"
        for forward in network.forwards
    )
    return net + "".join(forwards)


def firmware_arguments(firmware: Firmware, code: Path | None, variables: Path | None) -> list[str]:
    """OVMF in two flash chips: the shared code read-only, the variables a private copy. Nothing for BIOS."""
    if firmware is Firmware.BIOS:
        return []
    chips = ((0, code, "on"), (1, variables, "off"))
    drives = (
        f"if=pflash,format=raw,unit={unit},readonly={readonly},file={option(path)}"
        for unit, path, readonly in chips
        if path is not None
    )
    return [word for drive in drives for word in ("-drive", drive)]
