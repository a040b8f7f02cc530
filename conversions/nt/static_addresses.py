"""The network settings of a Windows that somebody typed, and the addresses (MAC) of the adapters they are
for.

They are kept for each adapter by its GUID, which no other adapter has; what finds it again on other hardware
is its MAC. Where Windows keeps which, as seen in the hive of a Windows 10 (19041):
`Services\\Tcpip\\Parameters\\Interfaces\\{GUID}`, `Services\\Tcpip6\\…` (name servers only),
`Control\\NetworkSetup2\\Interfaces\\{GUID}\\Kernel` (10 and newer), `Control\\Class\\{4d36e972-…}\\NNNN` and
`Control\\Network\\{4d36e972-…}\\{GUID}\\Connection`.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from conversions.nt.identify import number_of, text_of, texts_of
from conversions.nt.registry import Readable
from p2v.model import Nic, PlannedNic

NET_CLASS = "{4d36e972-e325-11ce-bfc1-08002be10318}"
NSI_IPV6 = "{eb004a01-9b1a-11d4-9123-0050047759bc}"
"""Below `Control\\Nsi`: what is set for IPv6, in a form of the kernel's own; `10` holds unicast addresses."""
LIMIT = 64
"""Addresses, routers or name servers of one adapter: more has no real machine."""
ADAPTERS = 1024
GUID = re.compile(r"\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")
HEX_MAC = re.compile(r"[0-9A-Fa-f]{12}")
EUI64 = re.compile(r"([0-9A-F]{6})(?:FFFF|FFFE)([0-9A-F]{6})00", re.IGNORECASE)
"""The end of a PCI device's instance id: its serial number, and device and function, as pci.sys writes it."""
SUFFIX = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})")
NONE = ("0.0.0.0", "::", "255.255.255.255")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter. `addresses` are `10.0.0.5/24`; `mac` is empty where nothing tells it.

    `guid` is as the hive spells it. `serial_mac` says that the MAC is only read off the serial number of the
    device, which the ports of one card may share.
    """

    guid: str
    mac: str = ""
    name: str = ""
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    suffix: str = ""
    serial_mac: bool = False

    @property
    def is_static(self) -> bool:
        """Whether anything of it would be lost on another adapter."""
        return bool(self.addresses or self.dns or self.suffix)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Settings for the adapter that will have this MAC; `old` are the GUIDs that had them before."""

    mac: str
    settings: Adapter
    old: tuple[str, ...]


def adapters(hive: Readable, control_set: str) -> tuple[Adapter, ...]:
    """Every adapter that has settings of its own, in the order of the hive. Raises GuestError.

    What makes no sense in it is left out: nothing that comes from here needs a second look.
    """
    interfaces = f"{control_set}\\Services\\Tcpip\\Parameters\\Interfaces"
    guids = [name for name in hive.keys(interfaces) if GUID.fullmatch(name)][:ADAPTERS]
    overrides = _overrides(hive, control_set)
    found = [_adapter(hive, control_set, guid, overrides.get(guid.lower(), "")) for guid in guids]
    return _without_shared_serials(found)


def has_ipv6_addresses(hive: Readable, control_set: str) -> bool:
    """Whether somebody typed IPv6 addresses; what they are, only the kernel that wrote them knows."""
    return bool(hive.values(f"{control_set}\\Control\\Nsi\\{NSI_IPV6}\\10"))


def assignments(
    found: Sequence[Adapter], nics: Sequence[Nic], planned: Sequence[PlannedNic]
) -> tuple[tuple[Assignment, ...], tuple[Adapter, ...]]:
    """Which adapter of the new machine gets which settings, and the settings that none can get.

    `nics` are those that the probe saw, `planned` those of the virtual machine, whose MACs may be new.
    """
    known = [_with_mac(adapter, nics) for adapter in found if adapter.is_static]
    new = {
        nic.mac: place.mac for nic in nics for place in planned if nic.mac and place.source_name == nic.name
    }
    macs = [new.get(adapter.mac, "") or _same(adapter.mac, planned) for adapter in known]
    if macs == [""] and len(planned) == 1:
        macs = [planned[0].mac]  # one of each: there is no other way
    groups: dict[str, list[Adapter]] = {}
    for mac, adapter in zip(macs, known, strict=True):
        groups.setdefault(mac, []).append(adapter)
    lost = groups.pop("", [])
    sure = [_assignment(mac, group) for mac, group in groups.items() if _agree(group)]
    lost += [adapter for group in groups.values() if not _agree(group) for adapter in group]
    return _with_ghosts(sure, lost)


def _assignment(mac: str, group: Sequence[Adapter]) -> Assignment:
    return Assignment(mac, group[0], tuple(adapter.guid for adapter in group))


def _agree(group: Sequence[Adapter]) -> bool:
    """Whether these are one card, under the GUIDs that it had at several times."""
    return len({(adapter.addresses, adapter.dns) for adapter in group}) == 1


def _with_ghosts(
    sure: Sequence[Assignment], lost: Sequence[Adapter]
) -> tuple[tuple[Assignment, ...], tuple[Adapter, ...]]:
    """What an adapter that is gone still claims is no loss where a card has it, and must be taken from it."""
    ghosts = {one.mac: [ghost.guid for ghost in lost if _is_ghost_of(ghost, one)] for one in sure}
    found = tuple(replace(one, old=(*one.old, *ghosts[one.mac])) for one in sure)
    return found, tuple(one for one in lost if not any(_is_ghost_of(one, each) for each in sure))


def _is_ghost_of(adapter: Adapter, one: Assignment) -> bool:
    return bool(adapter.addresses) and set(adapter.addresses) <= set(one.settings.addresses)


def _with_mac(adapter: Adapter, nics: Sequence[Nic]) -> Adapter:
    """What the probe saw on a running machine knows more: the adapter that had one of these addresses."""
    if adapter.mac and any(nic.mac == adapter.mac for nic in nics):
        return adapter
    ours = {address.split("/")[0] for address in adapter.addresses}
    for nic in nics:
        theirs = {address.split("/")[0] for address in nic.addresses}
        if nic.mac and (ours & theirs or (not adapter.mac and adapter.name and nic.name == adapter.name)):
            return replace(adapter, mac=nic.mac)
    return adapter


def _same(mac: str, planned: Sequence[PlannedNic]) -> str:
    return next((nic.mac for nic in planned if mac and nic.mac.lower() == mac), "")


def _adapter(hive: Readable, control_set: str, guid: str, override: str) -> Adapter:
    services, control = f"{control_set}\\Services", f"{control_set}\\Control"
    key = f"{services}\\Tcpip\\Parameters\\Interfaces\\{guid}"
    dhcp = number_of(hive, key, "EnableDHCP") != 0
    ipv6 = f"{services}\\Tcpip6\\Parameters\\Interfaces\\{guid}"
    connection = f"{control}\\Network\\{NET_CLASS}\\{guid}\\Connection"
    serial = _serial_mac(text_of(hive, connection, "PnpInstanceID"))
    permanent = _hardware_mac(hive, f"{control}\\NetworkSetup2\\Interfaces\\{guid}\\Kernel")
    suffix = text_of(hive, key, "Domain")
    return Adapter(
        guid,
        mac=override or permanent or serial,
        name=text_of(hive, connection, "Name"),
        addresses=() if dhcp else _addresses(hive, key),
        gateways=() if dhcp else _hosts(texts_of(hive, key, "DefaultGateway")),
        dns=_hosts((*_split(hive, key), *_split(hive, ipv6))),
        suffix=suffix if SUFFIX.fullmatch(suffix) else "",
        serial_mac=bool(serial and not override and not permanent),
    )


def _addresses(hive: Readable, key: str) -> tuple[str, ...]:
    pairs = zip_longest(texts_of(hive, key, "IPAddress"), texts_of(hive, key, "SubnetMask"), fillvalue="")
    return tuple(dict.fromkeys(filter(None, (_interface(*pair) for pair in pairs))))[:LIMIT]


def _interface(address: str, mask: str) -> str:
    """`10.0.0.5/24`; empty where that is no address of a machine."""
    try:
        found = ipaddress.IPv4Interface(f"{address}/{mask}")
    except ValueError:
        return ""
    usable = str(found.ip) not in NONE and not found.ip.is_loopback and found.network.prefixlen > 0
    return str(found) if usable else ""


def _hosts(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (_host(text) for text in texts))))[:LIMIT]


def _host(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    # Windows knows no names for IPv6 scopes, only numbers, and those differ from boot to boot.
    scoped = isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None
    return "" if str(found) in NONE or scoped else str(found)


def _split(hive: Readable, key: str) -> list[str]:
    """Name servers stand in one text, with commas or spaces between them."""
    return re.split(r"[ ,;]+", text_of(hive, key, "NameServer"))


def _overrides(hive: Readable, control_set: str) -> dict[str, str]:
    """MACs that somebody set by hand, by GUID in lower case."""
    parent = f"{control_set}\\Control\\Class\\{NET_CLASS}"
    keys = [f"{parent}\\{name}" for name in hive.keys(parent)[:ADAPTERS] if name.isdigit()]
    return {text_of(hive, key, "NetCfgInstanceId").lower(): _override(hive, key) for key in keys}


def _override(hive: Readable, key: str) -> str:
    plain = text_of(hive, key, "NetworkAddress").replace("-", "").replace(":", "")
    return _mac(bytes.fromhex(plain)) if HEX_MAC.fullmatch(plain) else ""


def _serial_mac(instance: str) -> str:
    found = EUI64.fullmatch(instance.rpartition("\\")[2])
    return _mac(bytes.fromhex(found[1] + found[2])) if found else ""


def _hardware_mac(hive: Readable, key: str) -> str:
    value = hive.value(key, "PermanentAddress") or hive.value(key, "CurrentAddress")
    return _mac(value.data) if value else ""


def _mac(data: bytes) -> str:
    """Empty for what names no single card: of another length, zero, or for a group."""
    if len(data) != 6 or not any(data) or data[0] & 1:
        return ""
    return data.hex(":")


def _without_shared_serials(found: Sequence[Adapter]) -> tuple[Adapter, ...]:
    macs = Counter(adapter.mac for adapter in found)
    return tuple(
        replace(adapter, mac="") if adapter.serial_mac and macs[adapter.mac] > 1 else adapter
        for adapter in found
    )
