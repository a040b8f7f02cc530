"""Keep the names of network cards: a new card in a new slot gets a new name, and the addresses are lost.

Names are bound to MAC addresses by udev's 70-persistent-net.rules, which every udev since 2006 obeys. A .link
file of systemd would not do: before systemd 245 its `Type=ether` matches no card, before 243 it renames no
card that the initramfs has named, and it takes the place of the guest's own .link file with its MTU.
Without udev: /etc/mactab of busybox' nameif, and HWADDR in the files of initscripts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.network.cards import Card, plain_mac
from conversions.network.texts import files, lines, read, values

RULES = "/etc/udev/rules.d/70-persistent-net.rules"
ALL_RULES = "/etc/udev/rules.d/*.rules"
LINKS = "/etc/systemd/network/*.link"
UDEV = ("/usr/lib/udev/rules.d", "/lib/udev/rules.d")
"""Where udev has rules of its own since version 128; older ones have another language for them."""
MDEV = "/etc/mdev.conf"
MACTAB = "/etc/mactab"
NAMEIF = "-SUBSYSTEM=net;DEVPATH=.*/net/.*;.*\troot:root 600 @/sbin/nameif -s\n"
IFCFG = "/etc/sysconfig/network-scripts/ifcfg-{name}"

RULE = (
    'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", ATTR{{type}}=="1",'
    ' NAME="{name}"\n'
)
HEADER = "# The names that the cards had on the physical machine, kept by p2v.\n"
KERNEL_NAME = re.compile(r"eth\d+")
ADDRESS = re.compile(r"(?:ATTRS?|SYSFS)\{address\}==\"([^\"\n]*)\"")
GIVEN = re.compile(r"\bNAME:?=\"([^\"\n]*)\"")
PLACE = re.compile(r"\b(?:KERNELS|ID|BUS|ENV\{ID_PATH\}|DEVPATH)==\"|\bDRIVERS==\"(?!\?\*)")
HWADDR = re.compile(r"^\s*HWADDR=", re.MULTILINE)
NAMEIF_LINE = re.compile(r"^[^#\n]*\bnameif\b", re.MULTILINE)
REASON = "the card keeps the name that the network configuration uses"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of a file of rules, comments left out."""

    path: str
    text: str


def keep_names(changes: Changes, cards: Sequence[Card]) -> None:
    """Bind the name of each card to its address, unless the guest does so itself."""
    rules = _rules(changes)
    links = [read(changes, path) for path in files(changes, LINKS)]
    free = [card for card in cards if not _is_pinned(card, rules, links)]
    if _has(changes, *UDEV):
        _write_rules(changes, free)
        _warn_of_places(changes, rules)
    elif _has(changes, MDEV):
        _write_mactab(changes, cards, free)
    else:
        _write_addresses(changes, free)
    _warn_of_kernel_names(changes, cards)


def _has(changes: Changes, *paths: str) -> bool:
    return any(changes.guest.exists(path) for path in paths)


def _rules(changes: Changes) -> list[_Rule]:
    lines = ((path, line) for path in files(changes, ALL_RULES) for line in read(changes, path).splitlines())
    return [_Rule(path, line) for path, line in lines if not line.lstrip().startswith("#")]


def _is_pinned(card: Card, rules: Sequence[_Rule], links: Sequence[str]) -> bool:
    """Whether a file of the guest, or of a conversion before this, names the card by its address alone."""
    return any(_names(rule.text, card) for rule in rules) or any(_links(text, card) for text in links)


def addresses(changes: Changes) -> dict[str, str]:
    """The address that each name is bound to by the guest's own rules; the last one counts."""
    pairs = ((ADDRESS.search(rule.text), GIVEN.search(rule.text)) for rule in _rules(changes))
    return {given[1]: plain_mac(address[1]) for address, given in pairs if address and given}


def _names(rule: str, card: Card) -> bool:
    found = ADDRESS.search(rule)
    same = found is not None and plain_mac(found[1]) in (card.mac, card.new_mac)
    return same and GIVEN.search(rule) is not None and PLACE.search(rule) is None


def _links(text: str, card: Card) -> bool:
    """A .link file of the guest; one that asks for more than the address is not counted upon."""
    found = lines(text)
    keys = {line.key for line in found if line.section == "Match" and line.key}
    values_of = values(found, "Match", "MACAddress", "PermanentMACAddress")
    macs = {plain_mac(word) for value in values_of for word in value.split()}
    names = values(found, "Link", "Name")
    alone = keys <= {"MACAddress", "PermanentMACAddress"}
    return bool(names) and alone and bool({card.mac, card.new_mac} & macs)


def _write_rules(changes: Changes, cards: Sequence[Card]) -> None:
    if not cards:
        return
    text = read(changes, RULES)
    gap = "" if text.endswith("\n") or not text else "\n"
    rules = "".join(RULE.format(mac=card.new_mac, name=card.name) for card in cards)
    header = "" if HEADER in text else HEADER
    changes.write_text(RULES, f"{text}{gap}{header}{rules}", REASON)


def _warn_of_places(changes: Changes, rules: Sequence[_Rule]) -> None:
    """A rule for a slot can meet the wrong card in the virtual machine, where the slots are others."""
    for rule in rules:
        names = '"net"' in rule.text and GIVEN.search(rule.text) and PLACE.search(rule.text)
        if names and rule.path > RULES:
            changes.warn(
                f"{rule.path} names a card by its slot or driver, which are others in the virtual machine"
            )


def _write_mactab(changes: Changes, cards: Sequence[Card], free: Sequence[Card]) -> None:
    """nameif(8): a name and an address a line. The only card is eth0 by itself."""
    if [card.name for card in cards] == ["eth0"]:
        return
    text = read(changes, MACTAB)
    known = {plain_mac(word) for line in text.splitlines() for word in line.split()[1:2]}
    new = [f"{card.name}\t{card.new_mac}\n" for card in free if card.new_mac not in known]
    if not new:
        return
    changes.write_text(
        MACTAB, text + ("" if text.endswith("\n") or not text else "\n") + "".join(new), REASON
    )
    rules = read(changes, MDEV)
    if not NAMEIF_LINE.search(rules):
        changes.write_text(MDEV, NAMEIF + rules, "nameif gives the cards the names of /etc/mactab")


def _write_addresses(changes: Changes, cards: Sequence[Card]) -> None:
    """HWADDR, which initscripts before udev's persistent names rename by."""
    for card in cards:
        path = IFCFG.format(name=card.name)
        text = read(changes, path)
        if HWADDR.search(text):
            continue
        if text:
            gap = "" if text.endswith("\n") else "\n"
            changes.write_text(path, f"{text}{gap}HWADDR={card.new_mac.upper()}\n", REASON)
        elif card.name != "eth0" or len(cards) > 1:
            changes.warn(f"The guest has no udev that keeps names: {card.name} may get another one")


def _warn_of_kernel_names(changes: Changes, cards: Sequence[Card]) -> None:
    """udev cannot swap names that the kernel gives out; cards in the kernel's own order need no swap."""
    names = [card.name for card in cards]
    kernel = [name for name in names if KERNEL_NAME.fullmatch(name)]
    if len(names) > 1 and kernel and names != [f"eth{index}" for index in range(len(names))]:
        changes.warn(
            f"The kernel itself gives out names such as {', '.join(kernel)}: check the addresses after the"
            " first boot"
        )
