"""A login on the first serial port: the place where an administrator looks when the network is gone."""

from __future__ import annotations

import re

from conversions.changes import Changes

INITTAB = "/etc/inittab"
SECURETTY = "/etc/securetty"
SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
UPSTART = ("/etc/init/rc.conf", "/etc/init/rcS.conf")
"""Upstart takes no logins from inittab; Red Hat 6 starts one on the port that the kernel talks on by itself.
"""
PROGRAMS = ("/sbin/getty", "/sbin/agetty")
GETTY = "T0:2345:respawn:{program} -L ttyS0 115200 vt100\n"
ACTIVE_GETTY = re.compile(r"^[^#\n]*\bttyS0\b", re.MULTILINE)


def add_login(changes: Changes) -> None:
    """A login and root's permission on ttyS0; systemd starts the login by itself."""
    if not any(changes.guest.exists(path) for path in (*SYSTEMD, *UPSTART)):
        program = next((path for path in PROGRAMS if changes.guest.exists(path)), PROGRAMS[0])
        _append(changes, INITTAB, GETTY.format(program=program), "login on the first serial port")
    _append(changes, SECURETTY, "ttyS0\n", "root may log in on the first serial port")


def _append(changes: Changes, path: str, line: str, reason: str) -> None:
    text = changes.read_text(path)
    if text and not ACTIVE_GETTY.search(text):
        changes.write_text(path, text + ("" if text.endswith("\n") else "\n") + line, reason)
