"""Entries of a UEFI's boot menu, written from the rescue system with its efibootmgr.

An entry is a convenience: firmware without one starts the fallback loader, which every conversion for UEFI
puts there. So what cannot be written costs a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from p2v.errors import P2VError
from p2v.restore.model import FirmwareEntry

RunRemote = Callable[[Sequence[str], float], str]
"""Runs a program of the rescue system within so many seconds, and returns what it printed. Raises P2VError.
"""

SECONDS = 60.0
TITLE_LIMIT = 60
LINE = re.compile(r"Boot(?P<number>[0-9A-F]{4})\*? (?P<title>[^\t]*)")
LOADER = re.compile(r"(?:\\[\w.+-]{1,80}){1,8}")
DISK = re.compile(r"/dev/[\w/!:.+-]{1,200}")


def write_entries(
    entries: Sequence[FirmwareEntry], disks: Mapping[int, str], run: RunRemote
) -> tuple[str, ...]:
    """Write `entries`, the first one first in the order; warnings for what could not be done.

    `disks` are the paths of the disks in the rescue system by their index. Entries of the same title give way
    to the new one, so that doing it twice leaves one.
    """
    return tuple(warning for entry in reversed(entries) for warning in _write(entry, disks, run))


def _write(entry: FirmwareEntry, disks: Mapping[int, str], run: RunRemote) -> Iterator[str]:
    title, disk = plain_title(entry.title), disks.get(entry.disk, "")
    if not LOADER.fullmatch(entry.loader) or not DISK.fullmatch(disk):
        yield f"The boot entry {title} was not written: {entry.loader} on {disk or 'no disk'} is no place"
        return
    try:
        for number in _numbers(run(("efibootmgr",), SECONDS), title):
            run(("efibootmgr", "--quiet", "--bootnum", number, "--delete-bootnum"), SECONDS)
        run(_command(title, disk, entry), SECONDS)
    except P2VError as error:
        yield (f"The boot entry {title} was not written ({error.message}); the firmware starts its fallback")


def _command(title: str, disk: str, entry: FirmwareEntry) -> tuple[str, ...]:
    place = ("--disk", disk, "--part", str(entry.partition))
    return ("efibootmgr", "--quiet", "--create", *place, "--label", title, "--loader", entry.loader)


def _numbers(said: str, title: str) -> Iterator[str]:
    """Of the entries with this title. Newer versions print the path of the loader behind a tab."""
    for line in said.splitlines():
        found = LINE.match(line)
        if found and found["title"].strip() == title:
            yield found["number"]


def plain_title(title: str) -> str:
    """As every firmware shows it."""
    plain = "".join(char if char.isascii() and char.isprintable() else " " for char in title)
    return " ".join(plain.split())[:TITLE_LIMIT].strip() or "Linux"
