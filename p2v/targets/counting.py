"""How Linux counts disks."""

from __future__ import annotations

import string


def letters(number: int) -> str:
    """0 is `a`, 25 `z`, 26 `aa`: how Linux and libvirt count disks."""
    head, last = divmod(number, 26)
    return (letters(head - 1) if head else "") + string.ascii_lowercase[last]
