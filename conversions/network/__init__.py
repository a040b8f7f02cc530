"""The addresses of the physical machine come up on the virtual one, whichever program brings them up."""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.network import cloud_init, ifcfg, ifupdown, keyfiles, macs, netplan, networkd
from conversions.network.cards import Seen, cards_of
from conversions.network.names import addresses, keep_names
from conversions.network.texts import files, read
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Nic

__all__ = ["configured_cards", "keep_network"]

LACP_FILES = (
    "/etc/modprobe.d/*bond*",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/netplan/*.yaml",
    "/etc/systemd/network/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
)
LACP = re.compile(
    r"^[^#\n]*(?:\bmode\W{1,4}|bond[-_]mode\s+)(?:802\.3ad|4\b)|^[^#\n]*name\W{1,8}lacp\b",
    re.MULTILINE | re.IGNORECASE,
)


def keep_network(changes: Changes, request: Request) -> None:
    """Bind names to addresses, and let every file find its card again; what cannot be known is a warning."""
    seen = _seen(changes)
    cards = cards_of(changes, request, seen)
    macs.warn_of_strangers(changes, cards, seen)
    macs.replace_addresses(changes, cards)
    keep_names(changes, cards)
    for adapt in (netplan.adapt, networkd.adapt, keyfiles.adapt, ifcfg.adapt):
        adapt(changes, cards)
    cloud_init.keep_network(changes)
    _warn_of_lacp(changes)


def configured_cards(guest: GuestFiles) -> tuple[Nic, ...]:
    """The cards that the guest configures, for a disk that came without its machine.

    An address is empty where no file holds it.
    """
    changes = Changes(guest)
    seen, bound = _seen(changes), addresses(changes)
    names = dict.fromkeys(one.name for one in seen if one.name)
    found = {name: next((one.mac for one in seen if one.name == name and one.mac), "") for name in names}
    return tuple(Nic(name, mac or bound.get(name, "")) for name, mac in found.items())


def _seen(changes: Changes) -> tuple[Seen, ...]:
    sources = (ifupdown.seen, netplan.seen, networkd.seen, keyfiles.seen, ifcfg.seen)
    return tuple(one for source in sources for one in source(changes))


def _warn_of_lacp(changes: Changes) -> None:
    """Nobody at the other end of a virtual card speaks LACP."""
    for path in files(changes, *LACP_FILES):
        if LACP.search(read(changes, path)):
            changes.warn(f"{path} asks for LACP (802.3ad), which no virtual switch answers: check the bond")
