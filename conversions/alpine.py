"""Alpine Linux: extlinux or GRUB 2, mkinitfs, OpenRC, ifupdown, names of cards by busybox."""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.last_steps import LAST_STEPS
from conversions.linux import convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

IDS = ("alpine", "postmarketos")
"""`ID` and `ID_LIKE` of os-release that this family serves."""

INITTAB = "/etc/inittab"
GETTY = "ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n"
"""In busybox' inittab the first field is the terminal, where other systems have a mark of two letters."""
ACTIVE = re.compile(r"^ttyS0:", re.MULTILINE)
DORMANT = re.compile(r"^#[ \t]*(?=ttyS0:)", re.MULTILINE)


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`, with a login on the serial port in busybox' own way."""
    return convert_linux(
        guest, request, family="alpine", network=keep_network, finish=LAST_STEPS, steps=(add_serial_login,)
    )


def add_serial_login(changes: Changes, request: Request) -> None:
    """Alpine's inittab has the line for the serial port, as a comment."""
    text = changes.read_text(INITTAB)
    if not text or ACTIVE.search(text):
        return
    woken = DORMANT.sub("", text, count=1)
    if woken == text:
        woken = text + ("" if text.endswith("\n") else "\n") + GETTY
    changes.write_text(INITTAB, woken, "login on the first serial port")
