"""The machine as the inventory has it, compared with what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2v.model import DiskBus, MiB, NicModel, VirtualMachine
from p2v.ui import human_size
from p2v.vsphere.api import printable, vim
from p2v.vsphere.inventory import fetch_one, same
from p2v.vsphere.placement import Link, Place
from p2v.vsphere.session import Session
from p2v.vsphere.settings import Needs, Placement, Provisioning
from p2v.vsphere.spec import FIRMWARES, is_card, may_keep

PATHS = (
    "name",
    "config.firmware",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
)
BUSES = {
    DiskBus.PVSCSI: "ParaVirtualSCSIController",
    DiskBus.LSI_SAS: "VirtualLsiLogicSASController",
    DiskBus.LSI_LOGIC: "VirtualLsiLogicController",
    DiskBus.BUSLOGIC: "VirtualBusLogicController",
    DiskBus.SATA: "VirtualAHCIController",
    DiskBus.IDE: "VirtualIDEController",
    DiskBus.NVME: "VirtualNVMEController",
}
CARDS = {
    NicModel.VMXNET3: "VirtualVmxnet3",
    NicModel.E1000: "VirtualE1000",
    NicModel.E1000E: "VirtualE1000e",
    NicModel.PCNET: "VirtualPCNet32",
}


def differences(
    session: Session, entity: Any, machine: VirtualMachine, *, needs: Needs, place: Place, wished: Placement
) -> list[str]:
    """A warning for everything that is not what was asked for. Raises TargetError."""
    row = fetch_one(session, entity, PATHS)
    devices = row.get("config.hardware.device", [])
    firmware = {name: kind for kind, name in FIRMWARES.items()}.get(str(row.get("config.firmware")))
    return [
        *_differs("name", machine.name, row.name),
        *_differs("number of CPUs", machine.cpus, row.get("config.hardware.numCPU")),
        *_differs("memory in MiB", -(-machine.memory // MiB), row.get("config.hardware.memoryMB")),
        *_differs("firmware", str(machine.firmware), str(firmware or row.get("config.firmware"))),
        *_disks(devices, machine, needs, wished.provisioning),
        *_cards(devices, machine, place.links),
    ]


def _differs(what: str, asked: object, got: object) -> list[str]:
    if got == asked:
        return []
    return [f"vSphere changed the {what}: {printable(str(got))}, not {asked}"]


def _disks(
    devices: Sequence[Any], machine: VirtualMachine, needs: Needs, provisioning: Provisioning
) -> list[str]:
    disks = [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]
    warnings = _differs("number of disks", len(needs.disks), len(disks))
    controllers = {device.key: device for device in devices}
    for index, (disk, need) in enumerate(zip(disks, needs.disks, strict=False)):
        got = _capacity(disk)
        # vSphere counts in KiB and may round up; a disk that shrank would have lost its end.
        if not need.capacity <= got < need.capacity + MiB:
            warnings += _differs(f"size of disk {index}", human_size(need.capacity), human_size(got))
        if provisioning is Provisioning.THIN and not getattr(disk.backing, "thinProvisioned", False):
            warnings.append(f"disk {index} is not thin: the datastore decides that")
        if index < len(machine.disks):
            asked = BUSES.get(machine.disks[index].bus)
            warnings += _kind(f"bus of disk {index}", asked, controllers.get(disk.controllerKey))
    return warnings


def _capacity(disk: Any) -> int:
    exact = disk.capacityInBytes
    return int(exact) if exact else int(disk.capacityInKB) * 1024


def _kind(what: str, asked: str | None, device: Any) -> list[str]:
    if asked is None or device is None:
        return []
    return _differs(what, asked, type(device).__name__.rpartition(".")[2])


def _cards(devices: Sequence[Any], machine: VirtualMachine, links: Sequence[Link]) -> list[str]:
    cards = [device for device in devices if is_card(device)]
    warnings = _differs("number of network cards", len(machine.nics), len(cards))
    for index, (card, nic) in enumerate(zip(cards, machine.nics, strict=False)):
        warnings += _kind(f"model of network card {index}", CARDS.get(nic.model), card)
        if may_keep(nic.mac):
            warnings += _differs(
                f"MAC address of card {index}", nic.mac.lower(), str(card.macAddress).lower()
            )
        if not any(_on(card, link) for link in links):
            names = ", ".join(link.network.name for link in links)
            warnings.append(f"vSphere did not connect network card {index} to {names}")
    return warnings


def _on(card: Any, link: Link) -> bool:
    """A card names a standard network itself, a distributed port group by its key."""
    backing = card.backing
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return bool(link.key) and str(backing.port.portgroupKey) == link.key
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.NetworkBackingInfo):
        return same(backing.network, link.network.ref) or str(backing.deviceName) == link.network.raw_name
    # An opaque network (NSX) has no name of its own in the card.
    return isinstance(link.network.ref, vim.OpaqueNetwork)
