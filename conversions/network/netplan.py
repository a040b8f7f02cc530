"""netplan: YAML in /etc/netplan. A card that is matched by its driver is matched by its address instead.

Format: netplan's reference for YAML. The text is edited where the parser says that a value stands, so that
comments and order stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import yaml

from conversions.changes import Changes
from conversions.network.cards import Card, Seen, is_card_name, met, plain_mac
from conversions.network.texts import files, matches, read

PLANS = "/etc/netplan/*.yaml"
YAML_LIMIT = 128 * 1024
"""Characters; the parser takes about a second for them."""
REASON = "the virtual card has another driver"


@dataclass(frozen=True, slots=True)
class Pair:
    """A key of a mapping and its value, with the places of both in the text."""

    key: str
    value: yaml.Node
    start: int
    end: int

    @property
    def words(self) -> tuple[str, ...]:
        nodes = self.value.value if isinstance(self.value, yaml.SequenceNode) else [self.value]
        scalars = [node.value for node in nodes if isinstance(node, yaml.ScalarNode)]
        return tuple(word for scalar in scalars for word in scalar.split())


@dataclass(frozen=True, slots=True)
class Ethernet:
    """One entry below `ethernets:`, with the pairs below its `match:`."""

    name: str
    set_name: str
    match: tuple[Pair, ...]

    def words(self, key: str) -> tuple[str, ...]:
        return next((pair.words for pair in self.match if pair.key == key), ())

    @property
    def mac(self) -> str:
        return plain_mac(next(iter(self.words("macaddress")), ""))


def seen(changes: Changes) -> Iterator[Seen]:
    """The cards that have an entry: by its own name, or by that which the entry gives to an address."""
    for path in files(changes, PLANS):
        for entry in ethernets(changes, path, read(changes, path)):
            globs = entry.words("name")
            name = entry.set_name or (globs[0] if globs else "" if entry.match else entry.name)
            if is_card_name(name) or entry.mac:
                yield Seen(path, name if is_card_name(name) else "", entry.mac)


def adapt(changes: Changes, cards: Sequence[Card]) -> None:
    """Match by address, or by the beginning of the name, what was matched by driver."""
    for path in files(changes, PLANS):
        text = read(changes, path)
        edits = [_edit(changes, path, entry, cards) for entry in ethernets(changes, path, text)]
        for pair, replacement in sorted((edit for edit in edits if edit), key=lambda edit: -edit[0].start):
            text = text[: pair.start] + replacement + text[pair.end :]
        if any(edits):
            changes.write_text(path, text, REASON)


def _edit(changes: Changes, path: str, entry: Ethernet, cards: Sequence[Card]) -> tuple[Pair, str] | None:
    """Where to put what instead of a driver, or nothing."""
    pair = next((pair for pair in entry.match if pair.key == "driver"), None)
    if pair is None:
        return None
    chosen = _chosen(entry, pair.words, cards)
    if chosen == ():
        return None
    replacement = _replacement(entry, chosen, cards) if chosen else ""
    if replacement:
        return pair, replacement
    changes.warn(
        f"{path} finds the cards of {entry.name} by their driver, which is another one in the virtual machine"
    )
    return None


def _chosen(entry: Ethernet, drivers: Sequence[str], cards: Sequence[Card]) -> tuple[Card, ...] | None:
    """The cards that the entry meets; None where the driver of one is not known and others are there."""
    candidates = [
        card
        for card in cards
        if matches(entry.words("name"), card.name) and entry.mac in ("", card.mac, card.new_mac)
    ]
    return met(candidates if entry.mac else cards, candidates, drivers=drivers)


def _replacement(entry: Ethernet, chosen: Sequence[Card], cards: Sequence[Card]) -> str:
    """A pair that means the same cards, empty where none does."""
    if not entry.mac and len(chosen) == 1:
        return f'macaddress: "{chosen[0].new_mac}"'
    if entry.words("name"):
        return ""
    if entry.mac:
        return 'name: "*"'
    prefix = _beginning([card.name for card in chosen])
    others = [card for card in cards if card not in chosen and card.name.startswith(prefix)]
    return f'name: "{prefix}*"' if len(prefix) >= 2 and not others else ""


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def ethernets(changes: Changes, path: str, text: str) -> tuple[Ethernet, ...]:
    """The entries below `ethernets:`; none, with a warning, where the file is no YAML that p2v can read."""
    if len(text) > YAML_LIMIT:
        changes.warn(f"{path} was left as it is: it is longer than any network plan")
        return ()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        changes.warn(f"{path} was left as it is: it is not YAML that can be read")
        return ()
    return tuple(
        _ethernet(entry)
        for network in _pairs(root)
        if network.key == "network"
        for kind in _pairs(network.value)
        if kind.key == "ethernets"
        for entry in _pairs(kind.value)
    )


def _ethernet(entry: Pair) -> Ethernet:
    body = {pair.key: pair for pair in _pairs(entry.value)}
    given = body["set-name"].words if "set-name" in body else ()
    match = tuple(_pairs(body["match"].value)) if "match" in body else ()
    return Ethernet(entry.key, given[0] if given else "", match)


def _pairs(node: yaml.Node | None) -> Iterator[Pair]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield Pair(key.value, value, key.start_mark.index, value.end_mark.index)
