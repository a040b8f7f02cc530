"""What an OVF descriptor cannot carry into vSphere, or what servers do not take from it, set by hand."""

from __future__ import annotations

import re
import uuid
from typing import Any

from p2v.model import Firmware, VirtualMachine
from p2v.vsphere.api import vim

FIRMWARES = {Firmware.BIOS: "bios", Firmware.UEFI: "efi"}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def adjust(config: Any, machine: VirtualMachine, instance_uuid: str) -> list[str]:
    """Set UUIDs, firmware and MAC addresses in a `VirtualMachineConfigSpec`; returns warnings.

    The instance UUID is ours and new: by it the machine is found where an answer got lost.
    """
    config.instanceUuid = instance_uuid
    if _is_uuid(machine.uuid):
        config.uuid = machine.uuid.lower()
    config.firmware = FIRMWARES[machine.firmware]
    cards = [change.device for change in config.deviceChange if is_card(change.device)]
    warnings = []
    for card, nic in zip(cards, machine.nics, strict=False):
        if may_keep(nic.mac):
            card.addressType = "manual"
            card.macAddress = nic.mac.lower()
        elif nic.mac:
            warnings.append(f"vSphere reserves the MAC address {nic.mac}: the machine gets another one")
    return warnings


def is_card(device: Any) -> bool:
    return isinstance(device, vim.vm.device.VirtualEthernetCard)


def may_keep(mac: str) -> bool:
    """Whether vSphere takes a MAC address that it has not made itself.

    It keeps 00:0c:29 and 00:50:56:40 to 00:50:56:ff for those it makes (vSphere Networking, "MAC Addresses").
    """
    if not _MAC.fullmatch(mac.lower()):
        return False
    octets = bytes.fromhex(mac.replace(":", ""))
    if octets[0] & 1 or octets[:3] == b"\x00\x0c\x29":
        return False
    return octets[:3] != b"\x00\x50\x56" or octets[3] <= 0x3F


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
