"""systemd-networkd: files that find their card by slot, driver or metal find it by name instead.

Formats: systemd.network(5), systemd.link(5). Lists of names are understood by every version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from conversions.changes import Changes
from conversions.network.cards import Card, Seen, is_card_name, met, plain_mac
from conversions.network.texts import Line, files, lines, matches, read, values

NETWORKS = "/etc/systemd/network/*.network"
LINKS = "/etc/systemd/network/*.link"
MATCH = "Match"
PLACES = ("Path", "Driver")
ADDRESSES = ("MACAddress", "PermanentMACAddress")
METAL = ("no", "false", "0", "!vm", "!yes", "!kvm", "!qemu")
"""Values of Virtualization= that hold on a physical machine and not in a virtual one."""
Wanted = Callable[[Card], str]
REASON = "the virtual card has another slot and another driver"


def seen(changes: Changes) -> Iterator[Seen]:
    """The cards that .network files name, and what .link files call which address."""
    for path in files(changes, NETWORKS):
        found = lines(read(changes, path))
        yield from (Seen(path, name) for name in _words(found, "Name") if is_card_name(name))
        yield from (Seen(path, mac=mac) for mac in _addresses(found))
    for path in files(changes, LINKS):
        found = lines(read(changes, path))
        names = [name for name in values(found, "Link", "Name") if is_card_name(name)]
        yield from (Seen(path, name, mac) for name in names for mac in _addresses(found))


def adapt(changes: Changes, cards: Sequence[Card]) -> None:
    """Let each file that met a card of the physical machine meet the same card of the virtual one."""
    for path in files(changes, NETWORKS):
        _adapt(changes, path, cards, key="Name", wanted=lambda card: card.name)
    for path in files(changes, LINKS):
        _adapt(changes, path, cards, key="MACAddress", wanted=lambda card: card.new_mac)


def _adapt(changes: Changes, path: str, cards: Sequence[Card], *, key: str, wanted: Wanted) -> None:
    found = lines(read(changes, path))
    if not any(_is_place(line) or _is_metal(line) for line in found):
        return
    if not any(_is_place(line) for line in found):
        changes.write_text(path, "".join(map(_without_metal, found)), REASON)
        return
    chosen = _chosen(found, cards)
    if chosen is None:
        changes.warn(f"{path} finds its card by slot or driver, which the virtual machine does not have")
    elif chosen:
        names = " ".join(map(wanted, chosen))
        changes.write_text(path, "".join(_rewritten(found, f"{key}={names}\n", key)), REASON)


def _is_place(line: Line) -> bool:
    return line.section == MATCH and line.key in PLACES and bool(line.value)


def _is_metal(line: Line) -> bool:
    return line.section == MATCH and line.key == "Virtualization" and line.value.lower() in METAL


def _without_metal(line: Line) -> str:
    return f"# {line.text}" if _is_metal(line) else line.text


def _chosen(found: Sequence[Line], cards: Sequence[Card]) -> tuple[Card, ...] | None:
    """The cards that the file met; None where slot or driver of one is not known and others are there."""
    paths, drivers = _words(found, "Path"), _words(found, "Driver")
    names, macs = _words(found, "Name"), _addresses(found)
    candidates = [
        card
        for card in cards
        if matches(names, card.name) and (not macs or {card.mac, card.new_mac} & {*macs})
    ]
    return met(cards, candidates, paths=paths, drivers=drivers)


def _addresses(found: Sequence[Line]) -> list[str]:
    return [mac for mac in map(plain_mac, _words(found, *ADDRESSES)) if mac]


def _words(found: Sequence[Line], *keys: str) -> list[str]:
    return [word for value in values(found, MATCH, *keys) for word in value.split()]


def _rewritten(found: Sequence[Line], replacement: str, key: str) -> Iterator[str]:
    """The lines, the first place replaced, all others and what said the same before commented out."""
    written = False
    for line in found:
        if _is_place(line) and not written:
            written = True
            yield f"# {line.text}" if line.text.endswith("\n") else f"# {line.text}\n"
            yield replacement
        elif _is_place(line) or _is_metal(line) or (line.section == MATCH and line.key == key):
            yield f"# {line.text}"
        else:
            yield line.text
