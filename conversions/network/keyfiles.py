"""NetworkManager's own profiles. Format: nm-settings-keyfile(5); lists are separated by semicolons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conversions.changes import Changes
from conversions.network.cards import Card, Seen, is_card_name, met, plain_mac
from conversions.network.texts import Line, files, lines, matches, read, values

PROFILES = "/etc/NetworkManager/system-connections/*"
ETHERNET = ("ethernet", "802-3-ethernet")
MATCH = "match"
PLACES = ("path", "driver")
REASON = "the virtual card has another slot and another driver"


def seen(changes: Changes) -> Iterator[Seen]:
    """The cards that profiles are bound to, by name and by permanent address."""
    for path in files(changes, PROFILES):
        found = lines(read(changes, path))
        if not {"", *ETHERNET} & {*values(found, "connection", "type")[:1]}:
            continue
        name = next(iter(values(found, "connection", "interface-name")), "")
        mac = next((mac for section in ETHERNET for mac in values(found, section, "mac-address")), "")
        if is_card_name(name) or plain_mac(mac):
            yield Seen(path, name if is_card_name(name) else "", plain_mac(mac))


def adapt(changes: Changes, cards: Sequence[Card]) -> None:
    """Let profiles that find their card by slot or driver find it by name."""
    for path in files(changes, PROFILES):
        found = lines(read(changes, path))
        if any(_is_place(line) for line in found):
            _adapt(changes, path, found, cards)


def _is_place(line: Line) -> bool:
    return line.section == MATCH and line.key in PLACES and bool(line.value)


def _adapt(changes: Changes, path: str, found: Sequence[Line], cards: Sequence[Card]) -> None:
    chosen = _chosen(found, cards)
    if chosen is None:
        changes.warn(f"{path} finds its card by slot or driver, which the virtual machine does not have")
    elif chosen:
        names = "".join(f"{card.name};" for card in chosen)
        changes.write_text(path, "".join(_rewritten(found, f"interface-name={names}\n")), REASON)


def _chosen(found: Sequence[Line], cards: Sequence[Card]) -> tuple[Card, ...] | None:
    """The cards that the profile fits; None where slot or driver of one is not known and others are there."""
    names = [*values(found, "connection", "interface-name"), *_list(found, "interface-name")]
    candidates = [card for card in cards if matches(names, card.name)]
    bound = values(found, "connection", "interface-name") and len(candidates) == 1
    among = candidates if bound else cards
    return met(among, candidates, paths=_list(found, "path"), drivers=_list(found, "driver"))


def _list(found: Sequence[Line], key: str) -> list[str]:
    words = (word.strip() for value in values(found, MATCH, key) for word in value.split(";"))
    return [word.lstrip("|&") for word in words if word]


def _rewritten(found: Sequence[Line], replacement: str) -> Iterator[str]:
    written = False
    for line in found:
        if _is_place(line) and not written:
            written = True
            yield f"# {line.text}" if line.text.endswith("\n") else f"# {line.text}\n"
            yield replacement
        elif _is_place(line) or (line.section == MATCH and line.key == "interface-name"):
            yield f"# {line.text}"
        else:
            yield line.text
