"""Where the volumes of a Windows guest are in its one tree of files, and the bytes of the volumes themselves.

The volume of Windows is `/`. Its loader may be on another one, which Windows gives no letter.
"""

from __future__ import annotations

from typing import Protocol

ROOT = "/"
ESP = "/@esp"
"""The EFI system partition of a machine with UEFI."""
BOOT = "/@boot"
"""The active partition of a machine with a BIOS, where it is not that of Windows."""


class VolumeBytes(Protocol):
    """The volumes below their files: boot sectors are no files. `place` is ROOT, ESP or BOOT."""

    def read_volume(self, place: str, offset: int, count: int) -> bytes:
        """`count` bytes of the partition. Raises GuestError where it is not there or cannot be read."""

    def write_volume(self, place: str, offset: int, content: bytes) -> None:
        """Raises GuestError."""
