"""Which computer this is, so that a ledger copied to another one shows."""

from __future__ import annotations

import hashlib
from pathlib import Path

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

ID_LENGTH = 32
DIGITS = frozenset("0123456789abcdef")


def this_host() -> str:
    """A name for this installation of the operating system, empty where it has none (some containers).

    A digest of the machine id with a word of ours in front: machine-id(5) asks not to show the id itself.
    """
    for path in MACHINE_ID_FILES:
        found = _machine_id(path)
        if found:
            return hashlib.sha256(f"p2v license ledger\n{found}".encode()).hexdigest()[:ID_LENGTH]
    return ""


def _machine_id(path: Path) -> str:
    """The 32 digits; empty also for `uninitialized`, which images of systems have."""
    try:
        text = path.read_text(encoding="ascii").strip().lower()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(text) == ID_LENGTH and set(text) <= DIGITS else ""
