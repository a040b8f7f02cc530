"""A login on the first serial port: the place where an administrator looks when the network is gone."""

from __future__ import annotations

import re

from conversions import grub
from conversions.changes import Changes

INITTAB = "/etc/inittab"
SECURETTY = "/etc/securetty"
SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
GETTY = "T0:23:respawn:/sbin/getty -L ttyS0 115200 vt100\n"
ACTIVE_GETTY = re.compile(r"^[^#\n]*\bttyS0\b", re.MULTILINE)


def add_serial_console(changes: Changes) -> None:
    """Kernel messages, a login and root's permission on ttyS0; systemd starts the login by itself."""
    grub.add_serial_console(changes)
    if not any(changes.guest.exists(path) for path in SYSTEMD):
        _append(changes, INITTAB, GETTY, "login on the first serial port")
    _append(changes, SECURETTY, "ttyS0\n", "root may log in on the first serial port")


def _append(changes: Changes, path: str, line: str, reason: str) -> None:
    text = changes.read_text(path)
    if text and not ACTIVE_GETTY.search(text):
        changes.write_text(path, text + ("" if text.endswith("\n") else "\n") + line, reason)
