"""The ifcfg files of Red Hat (initscripts, NetworkManager) and of SUSE (ifup, wicked): shell assignments.

Red Hat names the card in DEVICE, SUSE in the name of the file. SUSE before 11 also knows files by the card's
address (`ifcfg-eth-id-…`) and by its slot (`ifcfg-eth-bus-pci-…`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from conversions.changes import Changes
from conversions.network.cards import Card, Seen, is_card_name, plain_mac
from conversions.network.texts import files, read

RED_HAT = "/etc/sysconfig/network-scripts/ifcfg-*"
SUSE = "/etc/sysconfig/network/ifcfg-*"
ASSIGNMENT = re.compile(r"^[ \t]*([A-Z_][A-Z0-9_]*)=[\"']?([^\"'#\n]*?)[\"']?[ \t]*$", re.MULTILINE)
NO_CARD = ("VLAN", "BONDING_MASTER", "BRIDGE_PORTS", "ETHERDEVICE", "TUNNEL", "TEAM_CONFIG", "BONDING_OPTS")
ETHERNET = ("", "ethernet")
BY_ADDRESS = re.compile(r"eth-id-([0-9a-fA-F:]{17})")
BY_SLOT = re.compile(r"eth-bus-pci-([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])")


def seen(changes: Changes) -> Iterator[Seen]:
    """The cards that the files configure, with the address where a file holds one."""
    for path in files(changes, RED_HAT):
        values = assignments(read(changes, path))
        if values.get("TYPE", "").lower() in ETHERNET and not any(key in values for key in NO_CARD):
            yield from _seen(path, values.get("DEVICE", "") or suffix(path), values.get("HWADDR", ""))
    for path in files(changes, SUSE):
        values = assignments(read(changes, path))
        by_address = BY_ADDRESS.fullmatch(suffix(path))
        if by_address:
            yield Seen(path, mac=plain_mac(by_address[1]))
        elif not any(key in values for key in (*NO_CARD, "BRIDGE")):
            yield from _seen(path, suffix(path), values.get("HWADDR", ""))


def _seen(path: str, name: str, mac: str) -> Iterator[Seen]:
    if is_card_name(name) and not BY_SLOT.fullmatch(name):
        yield Seen(path, name, plain_mac(mac))


def assignments(text: str) -> dict[str, str]:
    """What a file of shell assignments sets, quotes removed, nothing expanded."""
    return dict(ASSIGNMENT.findall(text))


def suffix(path: str) -> str:
    return posixpath.basename(path).removeprefix("ifcfg-")


def adapt(changes: Changes, cards: Sequence[Card]) -> None:
    """Files of old SUSE systems that mean a card by its slot, or by an address that is given up."""
    for path in files(changes, SUSE):
        by_slot, by_address = BY_SLOT.fullmatch(suffix(path)), BY_ADDRESS.fullmatch(suffix(path))
        if by_slot:
            _rename(changes, path, _in_slot(cards, by_slot[1]))
        elif by_address:
            mac = plain_mac(by_address[1])
            moved = [card for card in cards if card.mac == mac and card.new_mac != mac]
            for card in moved:
                _rename(changes, path, card)


def _in_slot(cards: Sequence[Card], slot: str) -> Card | None:
    known = [card for card in cards if card.path == f"pci-{slot}"]
    if len(cards) == 1:
        return cards[0]
    return known[0] if len(known) == 1 else None


def _rename(changes: Changes, path: str, card: Card | None) -> None:
    if card is None:
        changes.warn(f"{path} means a card by its slot; which of the virtual cards that is is not known")
        return
    place = f"{posixpath.dirname(path)}/ifcfg-eth-id-{card.new_mac}"
    reason = "the virtual card is known by its address"
    changes.write_text(place, read(changes, path), reason)
    changes.remove(path, reason)
