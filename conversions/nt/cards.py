"""The network cards of a Windows, by its SYSTEM hive: those of hardware, with their addresses.

What tells the adapters apart and what is set for each is in `conversions.nt.static_addresses`; here are the
devices behind them.
"""

from __future__ import annotations

from conversions.nt.identify import control_set, text_of
from conversions.nt.registry import Hive
from conversions.nt.static_addresses import NET_CLASS, Adapter, adapters
from p2v.model import Nic

BUSES = ("PCI\\", "VMBUS\\", "USB\\", "PCMCIA\\", "XENVIF\\", "XEN\\", "ACPI\\", "VIRTIO\\")
"""Where cards are found that are made of hardware, or stand for it; all else are tunnels and filters."""
MAX_KEYS = 1000


def cards(system: Hive) -> tuple[Nic, ...]:
    """Every card in the order of the hive, each name once. Raises GuestError for a damaged hive.

    A card whose device is gone is still in the hive, and so is here.
    """
    current = control_set(system)
    devices = _devices(system, current)
    found = (_card(system, current, adapter, devices) for adapter in adapters(system, current))
    return tuple({nic.name: nic for nic in found if nic}.values())


def _devices(system: Hive, current: str) -> dict[str, str]:
    """The device of each adapter, by GUID in lower case; since Windows 8 the key of its driver names it."""
    folder = rf"{current}\Control\Class\{NET_CLASS}"
    keys = [rf"{folder}\{name}" for name in system.keys(folder)[:MAX_KEYS] if name.isdigit()]
    return {
        text_of(system, key, "NetCfgInstanceId").lower(): text_of(system, key, "DeviceInstanceID")
        for key in keys
    }


def _card(system: Hive, current: str, adapter: Adapter, devices: dict[str, str]) -> Nic | None:
    connection = rf"{current}\Control\Network\{NET_CLASS}\{adapter.guid}\Connection"
    device = text_of(system, connection, "PnpInstanceID") or devices.get(adapter.guid.lower(), "")
    if not device.upper().startswith(BUSES):
        return None
    driver = text_of(system, rf"{current}\Enum\{device}", "Service")
    name = adapter.name or adapter.guid
    return Nic(name, adapter.mac, driver, adapter.addresses, next(iter(adapter.gateways), ""))
