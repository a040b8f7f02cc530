"""The network files of a guest as texts: bounded, and never a reason to stop.

A file that cannot be read as it should costs a warning that names it: the machine boots without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from conversions.changes import Changes
from p2v.errors import GuestError

LIMIT = 1024 * 1024
"""Bytes of the largest network file that is read; a generated one with hundreds of VLANs has 100 KB."""
MANY = 500
"""Files of one kind that are looked at."""
LEFTOVERS = (
    "~",
    ".bak",
    ".old",
    ".orig",
    ".rpmsave",
    ".rpmnew",
    ".rpmorig",
    ".dpkg-old",
    ".dpkg-dist",
    ".swp",
)
SECTION = re.compile(r"\s*\[([^\]\n]*)\]\s*")
ENTRY = re.compile(r"\s*([A-Za-z][\w.-]*)\s*=\s*(.*?)\s*")


def read(changes: Changes, path: str) -> str:
    """The text of a network file, empty where there is none or where it is no text of a sensible size."""
    try:
        if not changes.guest.exists(path):
            return ""
        text = changes.guest.read(path, limit=LIMIT).decode("utf-8", "surrogateescape")
    except GuestError as error:
        changes.warn(f"{path} was left as it is: {error.message}")
        return ""
    if "\0" in text:
        changes.warn(f"{path} was left as it is: it is not written in UTF-8 or another form of ASCII")
        return ""
    return text


def files(changes: Changes, *patterns: str) -> tuple[str, ...]:
    """The files that match, without what editors and package managers leave behind."""
    found = [path for pattern in patterns for path in _glob(changes, pattern)]
    return tuple(path for path in dict.fromkeys(found) if not path.endswith(LEFTOVERS))[:MANY]


def _glob(changes: Changes, pattern: str) -> Sequence[str]:
    try:
        return changes.guest.glob(pattern)
    except GuestError as error:
        changes.warn(f"{pattern} was not looked at: {error.message}")
        return ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file of sections. `key` and `value` are empty where it sets nothing."""

    text: str
    section: str
    key: str = ""
    value: str = ""


def lines(text: str) -> tuple[Line, ...]:
    """The lines of a file of systemd or NetworkManager, their line ends kept; comments set nothing."""
    return tuple(_lines(text))


def _lines(text: str) -> Iterator[Line]:
    section = ""
    for line in text.splitlines(keepends=True):
        opened = SECTION.fullmatch(line)
        entry = ENTRY.fullmatch(line.rstrip("\r\n"))
        if opened:
            section = opened[1]
        yield Line(line, section, entry[1], entry[2]) if entry else Line(line, section)


def values(found: Sequence[Line], section: str, *keys: str) -> tuple[str, ...]:
    """What the lines of a section set these keys to, without empty values, in the order of the file."""
    return tuple(line.value for line in found if line.section == section and line.key in keys and line.value)


def matches(patterns: Sequence[str], value: str) -> bool:
    """Whether one of the shell patterns fits; a `!` before the first turns the meaning of all round."""
    if not patterns:
        return True
    inverted = patterns[0].startswith("!")
    plain = (patterns[0].removeprefix("!"), *patterns[1:])
    return any(fnmatchcase(value, pattern) for pattern in plain if pattern) is not inverted
