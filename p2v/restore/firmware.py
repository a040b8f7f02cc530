"""Entries of a UEFI's boot menu, written from the rescue system with its efibootmgr.

An entry is a convenience: firmware without one starts the fallback loader, which every conversion for UEFI
puts there. So what cannot be written costs a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from p2v.errors import ConnectionLost, P2VError
from p2v.restore.model import FirmwareEntry

RunRemote = Callable[[Sequence[str], float], str]
"""Runs a program of the rescue system within so many seconds, and returns what it printed. Raises P2VError.
"""

SECONDS = 60.0
TITLE_LIMIT = 60
ORDER = re.compile(r"^BootOrder: ([0-9A-F]{4})", re.MULTILINE)
LINE = re.compile(r"^Boot(?P<number>[0-9A-F]{4})\*? (?P<title>[^\t\n]*)\t(?P<place>.*)$", re.MULTILINE)
"""As `efibootmgr --verbose` prints an entry; one that is inactive has no asterisk."""
PARTITION = re.compile(r"HD\([^)]*\)")
"""The partition in a device path as text (UEFI specification 2.10, 10.6.1.6): number, GUID, place."""
LOADER = re.compile(r"(?:\\[\w.+-]{1,80}){1,8}")
DISK = re.compile(r"/dev/[\w/!:.+-]{1,200}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the menu: `place` is its device path as text."""

    number: str
    title: str
    place: str

    @property
    def partition(self) -> str:
        found = PARTITION.search(self.place)
        return found[0] if found else ""


def write_entries(
    entries: Sequence[FirmwareEntry], disks: Mapping[int, str], run: RunRemote
) -> tuple[str, ...]:
    """Write `entries`, the first one first in the order; warnings for what could not be done.

    `disks` are the paths of the disks in the rescue system by their index. Entries of the same title for the
    same partition give way to the new one, so that doing it twice leaves one; another disk's stay.
    Raises ConnectionLost; then all of it can be done again.
    """
    return tuple(warning for entry in reversed(entries) for warning in _write(entry, disks, run))


def _write(entry: FirmwareEntry, disks: Mapping[int, str], run: RunRemote) -> Iterator[str]:
    title, disk = plain_title(entry.title), disks.get(entry.disk, "")
    if not LOADER.fullmatch(entry.loader) or not DISK.fullmatch(disk):
        yield f"The boot entry {title} was not written: {entry.loader} on {disk or 'no disk'} is no place"
        return
    try:
        run(_command(title, disk, entry), SECONDS)
        menu = run(("efibootmgr", "--verbose"), SECONDS)
        made = _first(menu)
        if made is None or made.title != title or entry.loader.lower() not in made.place.lower():
            # Firmware may say that it wrote, and keep an order of its own.
            yield f"The firmware does not keep the boot entry {title} first: choose it in its setup"
            return
        for number in _older(menu, made):
            run(("efibootmgr", "--quiet", "--bootnum", number, "--delete-bootnum"), SECONDS)
    except ConnectionLost:
        raise
    except P2VError as error:
        yield f"The boot menu of the firmware was not written ({error.message}); it starts its fallback"


def _command(title: str, disk: str, entry: FirmwareEntry) -> tuple[str, ...]:
    place = ("--disk", disk, "--part", str(entry.partition))
    return ("efibootmgr", "--quiet", "--create", *place, "--label", title, "--loader", entry.loader)


def _entries(menu: str) -> Iterator[_Entry]:
    return (_Entry(one["number"], one["title"].strip(), one["place"]) for one in LINE.finditer(menu))


def _first(menu: str) -> _Entry | None:
    order = ORDER.search(menu)
    return next((one for one in _entries(menu) if order and one.number == order[1]), None)


def _older(menu: str, made: _Entry) -> Iterator[str]:
    """Numbers of the entries that lead to the same partition under the same title."""
    for one in _entries(menu):
        same = (one.title, one.partition) == (made.title, made.partition)
        if made.partition and same and one.number != made.number:
            yield one.number


def plain_title(title: str) -> str:
    """As every firmware shows it."""
    plain = "".join(char if char.isascii() and char.isprintable() else " " for char in title)
    return " ".join(plain.split())[:TITLE_LIMIT].strip() or "Linux"
