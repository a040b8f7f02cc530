"""ifupdown's /etc/network/interfaces, of Debian, Alpine and busybox. Format: interfaces(5).

Files include others, `source PATTERN` and `source-directory FOLDER`, also in circles.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from conversions.changes import Changes
from conversions.network.cards import Seen, is_card_name
from conversions.network.texts import files, read

INTERFACES = "/etc/network/interfaces"
PARTS = "/etc/network/interfaces.d/*"
INCLUDE = re.compile(r"^[ \t]*source(?P<folder>-dir(?:ectory)?)?[ \t]+(?P<path>[^\s$`;|&]+)", re.MULTILINE)
IFACE = re.compile(r"^[ \t]*iface[ \t]+(\S+)", re.MULTILINE)
BONDED = re.compile(
    r"^[ \t]*(?:bond[-_]slaves|slaves|bridge[-_]ports|bond-members)[ \t]+([^\n]+)", re.MULTILINE
)
RAW = re.compile(r"^[ \t]*(?:vlan-raw-device|vlan_raw_device)[ \t]+(\S+)", re.MULTILINE)
MAX_FILES = 200


def texts(changes: Changes) -> Iterator[tuple[str, str]]:
    """Each file with its text, once, however often and in whatever circle it is included."""
    waiting = [INTERFACES, *files(changes, PARTS)]
    done: set[str] = set()
    while waiting and len(done) < MAX_FILES:
        path = waiting.pop(0)
        if path in done:
            continue
        done.add(path)
        text = read(changes, path)
        yield path, text
        waiting.extend(_included(changes, path, text))
    if waiting:
        changes.warn(f"{INTERFACES} includes more than {MAX_FILES} files; the rest was not looked at")


def _included(changes: Changes, path: str, text: str) -> Iterator[str]:
    for found in INCLUDE.finditer(text):
        place = posixpath.join(posixpath.dirname(path), found["path"])
        yield from files(changes, f"{place.rstrip('/')}/*" if found["folder"] else place)


def seen(changes: Changes) -> Iterator[Seen]:
    """The cards that have a paragraph, and those that a bond, a bridge or a VLAN is built on."""
    for path, text in texts(changes):
        ports = [word for line in BONDED.findall(text) for word in line.split()]
        for name in dict.fromkeys((*IFACE.findall(text), *ports, *RAW.findall(text))):
            if is_card_name(name) and name not in ("none", "all", "regex"):
                yield Seen(path, name)
