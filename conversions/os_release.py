"""Which system a guest is: os-release(5), or what systems before it said. Hostile text: bounded, not
expanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from conversions import family_of
from p2v.model import OperatingSystem

ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]{0,63})=(.{0,512})")
LINE_LIMIT = 200
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
LSB_RELEASE = "/etc/lsb-release"
VERSION = re.compile(r"\d+(?:\.\d+)*")
TITLE_LIMIT = 200
RED_HATS = (
    ("centos", "centos"),
    ("scientific", "scientific"),
    ("oracle", "ol"),
    ("fedora", "fedora"),
    ("rocky", "rocky"),
    ("alma", "almalinux"),
    ("amazon", "amzn"),
    ("", "rhel"),
)
"""Words of /etc/redhat-release and the ID that os-release would give; oracle also writes oracle-release."""


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file by which a system before os-release tells itself; `title` stands before a bare number."""

    path: str
    id: str
    title: str = ""


OLD_FILES = (
    OldFile("/etc/oracle-release", "ol"),
    OldFile("/etc/redhat-release", "rhel"),
    OldFile("/etc/system-release", "rhel"),
    OldFile("/etc/SuSE-release", "suse"),
    OldFile("/etc/alpine-release", "alpine", "Alpine Linux"),
    OldFile("/etc/arch-release", "arch", "Arch Linux"),
    OldFile("/etc/gentoo-release", "gentoo", "Gentoo"),
    OldFile("/etc/slackware-version", "slackware", "Slackware"),
    OldFile("/etc/debian_version", "debian", "Debian GNU/Linux"),
)
RELEASE_FILES = (*OS_RELEASE, LSB_RELEASE, *(old.path for old in OLD_FILES))
"""Every file that says which system it is, best first."""

Reader = Callable[[str], str]
"""The start of a file as text, empty where there is none."""


def identify(read: Reader, *, architecture: str, machine_id: str) -> OperatingSystem | None:
    """The system that the files name, None where there is none of them."""
    for path in OS_RELEASE:
        system = read_os_release(read(path), architecture=architecture, machine_id=machine_id)
        if system is not None:
            return system
    name, version, title = next(_old(read), ("", "", ""))
    if not name:
        return None
    return OperatingSystem(name, version, title, family_of(name), architecture, machine_id)


def read_os_release(text: str, *, architecture: str, machine_id: str) -> OperatingSystem | None:
    """The system that an os-release names, with the family that converts it; None where it names none."""
    values = dict(assignments(text))
    os_id = values.get("ID", "").lower()
    if not os_id:
        return None
    return OperatingSystem(
        id=os_id,
        version=values.get("VERSION_ID", ""),
        name=values.get("PRETTY_NAME", "") or os_id,
        family=family_of(os_id, values.get("ID_LIKE", "")),
        architecture=architecture,
        machine_id=machine_id,
    )


def assignments(text: str) -> tuple[tuple[str, str], ...]:
    """Names and values, quotes removed, nothing expanded."""
    found = (ASSIGNMENT.fullmatch(line.strip()) for line in text.splitlines()[:LINE_LIMIT])
    return tuple((match[1], _unquote(match[2])) for match in found if match)


def _unquote(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
    plain = re.sub(r"\\([\"'$`\\])", r"\1", value[1:-1] if quoted else value)
    return _printable(plain)


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())


def _old(read: Reader) -> Iterator[tuple[str, str, str]]:
    """ID, version and title of a system without os-release."""
    for old in OLD_FILES:
        line = _printable(next(iter(read(old.path).splitlines()), "").strip())[:TITLE_LIMIT]
        if old.id == "debian":
            yield from _lsb(read)
        if line:
            yield _old_id(old, line), _version(line), f"{old.title} {line}" if _is_number(line) else line
    yield from _lsb(read)


def _lsb(read: Reader) -> Iterator[tuple[str, str, str]]:
    """Ubuntu has had a debian_version of Debian's next release, but its own name here."""
    values = dict(assignments(read(LSB_RELEASE)))
    name = values.get("DISTRIB_ID", "").lower()
    if name:
        version = values.get("DISTRIB_RELEASE", "")
        yield name, version, values.get("DISTRIB_DESCRIPTION", "") or f"{name} {version}".strip()


def _old_id(old: OldFile, line: str) -> str:
    if old.id != "rhel":
        return old.id
    return next(name for word, name in RED_HATS if word in line.lower())


def _version(line: str) -> str:
    found = VERSION.search(line)
    return found.group() if found else ""


def _is_number(line: str) -> bool:
    """`6.0.10` and `wheezy/sid` say nothing without the name of the system."""
    return " " not in line
