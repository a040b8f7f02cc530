"""Addresses of cards in the files of the guest: replaced where the virtual machine gets new ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from conversions.changes import Changes
from conversions.network.cards import Card, Seen
from conversions.network.texts import files, read

PLACES = (
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/netplan/*.yaml",
    "/etc/systemd/network/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/NetworkManager/conf.d/*.conf",
    "/etc/NetworkManager/NetworkManager.conf",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/wicked/ifconfig/*.xml",
    "/etc/udev/rules.d/*.rules",
    "/etc/mactab",
    "/etc/iftab",
    "/etc/cloud/cloud.cfg.d/*.cfg",
)
REASON = "the card has a new address in the virtual machine"


def replace_addresses(changes: Changes, cards: Sequence[Card]) -> None:
    """Write the new address of a card wherever a network file holds the old one; nothing where it is kept."""
    moved = {card.mac: card.new_mac for card in cards if card.mac != card.new_mac}
    if not moved:
        return
    either = re.compile("|".join(mac.replace(":", "[:-]") for mac in moved), re.IGNORECASE)
    for path in files(changes, *PLACES):
        text = read(changes, path)
        if text:
            changes.write_text(path, either.sub(lambda found: _as_written(found[0], moved), text), REASON)


def _as_written(old: str, moved: dict[str, str]) -> str:
    new = moved[old.lower().replace("-", ":")]
    new = new.upper() if old != old.lower() else new
    return new.replace(":", "-") if "-" in old else new


def warn_of_strangers(changes: Changes, cards: Sequence[Card], seen: Sequence[Seen]) -> None:
    """A file that asks for an address which no card has configures nothing."""
    known = {mac for card in cards for mac in (card.mac, card.new_mac)}
    for one in seen:
        if cards and one.mac and one.mac not in known:
            changes.warn(
                f"{one.file} is for a card with the address {one.mac}, which the machine does not have"
            )
