"""The network cards of a machine: what the guest calls them, and how each is known on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from conversions.changes import Changes
from conversions.network.texts import matches
from conversions.request import Request

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}")
MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
NOT_CARDS = re.compile(
    r"(?:lo|br|bond|team|dummy|tun|tap|vlan|wg|virbr|vnet|docker|ppp|veth|macvlan|ipvlan|sit|gre|nlmon)[\d.]*"
    r"|vxlan.*|ovs.*"
)
PCI_NAME = re.compile(
    r"en(?:P(?P<domain>\d+))?p(?P<bus>\d+)s(?P<slot>\d+)(?:f(?P<function>\d+))?(?:np?\d+|d\d+)?"
)


@dataclass(frozen=True, slots=True)
class Card:
    """One card. `mac` is its address on the physical machine, `new_mac` in the virtual one.

    `driver` is the kernel's name for its driver on the physical machine, empty where nobody saw it.
    """

    name: str
    mac: str
    new_mac: str
    driver: str = ""

    @property
    def path(self) -> str:
        """Its place as udev says it (`pci-0000:05:00.0`), where its name tells; else empty."""
        found = PCI_NAME.fullmatch(self.name)
        if not found:
            return ""
        numbers = [int(found[key] or 0) for key in ("domain", "bus", "slot", "function")]
        return "pci-{:04x}:{:02x}:{:02x}.{:x}".format(*numbers)


@dataclass(frozen=True, slots=True)
class Seen:
    """A card as a file of the guest speaks of it: by name, by address, or both; the other is empty."""

    file: str
    name: str = ""
    mac: str = ""


def plain_mac(text: str) -> str:
    """An address as p2v writes it, empty where it is none."""
    mac = text.strip().strip("\"'").lower().replace("-", ":")
    return mac if MAC.fullmatch(mac) else ""


def is_card_name(name: str) -> bool:
    """Whether a configured interface can be a card: no bridge, bond, VLAN, alias or tunnel by its name."""
    return NAME.fullmatch(name) is not None and NOT_CARDS.fullmatch(name) is None


def cards_of(changes: Changes, request: Request, seen: Sequence[Seen]) -> tuple[Card, ...]:
    """The cards of the virtual machine that can be told apart, each with the card that it stands for."""
    found = [
        _card(request, mac.lower(), name)
        for mac, name in ((nic.mac, nic.source_name) for nic in request.nics)
    ]
    named = _name_the_only_one(changes, found, seen)
    return tuple(card for card in named if _is_usable(changes, card, named))


def _card(request: Request, mac: str, name: str) -> Card:
    nics = request.machine.nics
    source = next((nic for nic in nics if nic.name and nic.name == name), None)
    source = source or next((nic for nic in nics if nic.mac.lower() == mac), None)
    if source is None:
        return Card(name, mac, mac)
    return Card(name, source.mac.lower() or mac, mac, source.driver)


def _name_the_only_one(changes: Changes, cards: Sequence[Card], seen: Sequence[Seen]) -> list[Card]:
    """Nobody saw the card of an image; one card and one configured name can only belong together."""
    unnamed = [card for card in cards if not card.name]
    taken = {card.name for card in cards}
    free = list(dict.fromkeys(one.name for one in seen if one.name and one.name not in taken))
    if not unnamed:
        return list(cards)
    if len(unnamed) > 1 or len(free) != 1:
        changes.warn(_unnamed(unnamed, free))
        return [card for card in cards if card.name]
    changes.warn(f"The name {free[0]} was given to the card {unnamed[0].mac}: nobody saw the real one")
    return [card if card.name else replace(card, name=free[0]) for card in cards]


def _unnamed(unnamed: Sequence[Card], free: Sequence[str]) -> str:
    macs = ", ".join(card.mac for card in unnamed)
    names = f"the guest configures {', '.join(free)}" if free else "the guest configures no card by name"
    return f"Which name the card {macs} has on the physical machine is not known: {names}"


def _is_usable(changes: Changes, card: Card, cards: Sequence[Card]) -> bool:
    if not NAME.fullmatch(card.name) or not MAC.fullmatch(card.new_mac):
        changes.warn(f"The card {card.new_mac} keeps no name: {card.name!r} is not a usable one")
        return False
    if [other.new_mac for other in cards].count(card.new_mac) > 1:
        changes.warn(f"Several cards have the address {card.new_mac}: {card.name} may get another name")
        return False
    return True


def met(
    cards: Sequence[Card],
    candidates: Sequence[Card],
    *,
    paths: Sequence[str] = (),
    drivers: Sequence[str] = (),
) -> tuple[Card, ...] | None:
    """Which of the candidates a file met by these patterns; None where that cannot be told.

    Slots and drivers are not always known. The only card of a machine is taken to be the one that is meant.
    """
    possible = [
        card
        for card in candidates
        if (not card.path or matches(paths, card.path)) and (not card.driver or matches(drivers, card.driver))
    ]
    sure = [card for card in possible if (card.path or not paths) and (card.driver or not drivers)]
    one_place = len(paths) == 1 and not set(paths[0]) & set("!*?[")
    if sure == possible or (sure and one_place):
        return tuple(sure)
    return tuple(possible) if len(cards) == 1 else None
