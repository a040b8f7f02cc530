"""Keep the names of network cards: a new card in a new slot gets a new name, and the addresses are lost.

The names are bound to MAC addresses, which the virtual machine keeps: systemd.link(5), or udev's older
70-persistent-net.rules where udev has no .link files (before systemd 197).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conversions.changes import Changes
from p2v.model import PlannedNic

INTERFACES = "/etc/network/interfaces"
INTERFACES_PARTS = "/etc/network/interfaces.d/*"
LINK_FOLDER = "/etc/systemd/network"
UDEV_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
OWN_NAMES = ("/etc/systemd/network/*.link", "/etc/udev/rules.d/*net*.rules")
LINK_SUPPORT = ("/lib/systemd/network/99-default.link", "/usr/lib/systemd/network/99-default.link")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}")
MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
KERNEL_NAME = re.compile(r"eth\d+")
IFACE = re.compile(r"^[ \t]*iface[ \t]+(\S+)[ \t]+\S+", re.MULTILINE)
NOT_CARDS = re.compile(r"(?:lo|br|bond|team|dummy|tun|tap|vlan|wg|virbr|vnet|docker|ppp)\d*")
NETPLAN_NAME = re.compile(r"^(?P<indent> +)(?P<name>[A-Za-z0-9_-]+):[ \t]*$")

LINK = """# The name of this card on the physical machine, kept by p2v.
[Match]
MACAddress={mac}
Type=ether

[Link]
Name={name}
"""
UDEV_RULE = (
    'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", ATTR{{type}}=="1",'
    ' NAME="{name}"\n'
)
REASON = "the card keeps the name that the network configuration uses"


@dataclass(frozen=True, slots=True)
class _Pin:
    name: str
    mac: str


def keep_names(changes: Changes, nics: Sequence[PlannedNic]) -> None:
    """Bind the name of each card to its MAC address, unless the guest does so itself."""
    pins = [pin for pin in _pins(changes, nics) if not _is_pinned(changes, pin.mac)]
    if any(changes.guest.exists(path) for path in LINK_SUPPORT):
        for pin in pins:
            text = LINK.format(mac=pin.mac, name=pin.name)
            changes.write_text(f"{LINK_FOLDER}/10-p2v-{pin.name}.link", text, REASON)
    elif pins:
        rules = "".join(UDEV_RULE.format(mac=pin.mac, name=pin.name) for pin in pins)
        text = changes.read_text(UDEV_RULES)
        changes.write_text(
            UDEV_RULES, text + ("" if text.endswith("\n") or not text else "\n") + rules, REASON
        )
    if sum(KERNEL_NAME.fullmatch(pin.name) is not None for pin in pins) > 1:
        changes.warn(
            "Several cards have names such as eth0, which the kernel gives out, too: check the addresses"
            " after the first boot"
        )


def _pins(changes: Changes, nics: Sequence[PlannedNic]) -> Iterator[_Pin]:
    macs = [nic.mac.lower() for nic in nics]
    for nic in _named(changes, nics):
        mac = nic.mac.lower()
        if not NAME.fullmatch(nic.source_name) or not MAC.fullmatch(mac):
            changes.warn(f"The card {nic.mac} keeps no name: {nic.source_name or 'none'} is not a usable one")
        elif macs.count(mac) > 1:
            changes.warn(f"Several cards have the address {mac}: {nic.source_name} may get another name")
        else:
            yield _Pin(nic.source_name, mac)


def _named(changes: Changes, nics: Sequence[PlannedNic]) -> list[PlannedNic]:
    """Cards with their names; where a name is not known, the next one that the guest configures."""
    named = [nic for nic in nics if nic.source_name]
    taken = {nic.source_name for nic in named}
    unnamed = [nic for nic in nics if not nic.source_name]
    free = [name for name in configured_names(changes) if name not in taken]
    assumed = [replace(nic, source_name=name) for nic, name in zip(unnamed, free, strict=False)]
    for nic in assumed:
        changes.warn(f"The name {nic.source_name} was given to the card {nic.mac}: nobody saw the real one")
    return named + assumed


def configured_names(changes: Changes) -> tuple[str, ...]:
    """The cards that the guest configures, by ifupdown or netplan, in the order of the files."""
    paths = (INTERFACES, *changes.guest.glob(INTERFACES_PARTS))
    names = [name for path in paths for name in IFACE.findall(changes.read_text(path))]
    for path in changes.guest.glob("/etc/netplan/*.yaml"):
        names.extend(_netplan_names(changes.read_text(path)))
    return tuple(
        dict.fromkeys(name for name in names if NAME.fullmatch(name) and not NOT_CARDS.fullmatch(name))
    )


def _netplan_names(text: str) -> Iterator[str]:
    """The keys one level below `ethernets:`. By lines, as only the names are wanted of a hostile text."""
    inside = ""
    level: str | None = None
    for line in text.splitlines():
        found = NETPLAN_NAME.match(line)
        if found is None:
            continue
        indent = found["indent"]
        if found["name"] == "ethernets":
            inside, level = indent, None
        elif inside and len(indent) <= len(inside):
            inside = ""
        elif inside and (level is None or indent == level):
            level = indent
            yield found["name"]


def _is_pinned(changes: Changes, mac: str) -> bool:
    """Whether a file of the guest, or of a conversion before this, names the card with this address."""
    paths = [path for pattern in OWN_NAMES for path in changes.guest.glob(pattern)]
    return any(mac in changes.read_text(path).lower() for path in paths)
