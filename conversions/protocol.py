"""What a conversion may do to a guest: a small protocol, so that it is tested on a plain tree of files.

All paths are absolute inside the guest. Nothing here ever touches the host, and `run` runs inside the
guest's own system (the appliance), never on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class GuestFiles(Protocol):
    """The guest's files, mounted. Implementations: `p2v.guest.Guest` (libguestfs), a folder in the tests."""

    def exists(self, path: str) -> bool:
        """Whether something is at `path`, symbolic links followed inside the guest."""

    def is_dir(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes of a file. Raises GuestError where there is no file."""

    def read(self, path: str, *, limit: int = ...) -> bytes:
        """The whole content. Raises GuestError where there is no file or it is larger than `limit` bytes."""

    def write(self, path: str, content: bytes) -> None:
        """Replace a file's content, owner and mode kept; a new file is root's with mode 0644."""

    def mkdir(self, path: str) -> None:
        """Make a folder and its parents; no error where it exists."""

    def remove(self, path: str) -> None:
        """Remove a file; no error where there is none."""

    def glob(self, pattern: str) -> list[str]:
        """Sorted paths that match a shell pattern."""

    def sha256(self, path: str) -> str:
        """The digest of a file's content, hexadecimal; empty where there is no file."""

    def copy(self, source: str, destination: str) -> None:
        """Copy a file inside the guest, owner and mode kept."""

    def move(self, source: str, destination: str) -> None:
        """Rename a file inside the guest, replacing what is there."""

    def run(self, argv: Sequence[str]) -> str:
        """Run the guest's own program inside the guest. Raises GuestError with what it said."""

    def free_space(self, path: str) -> int:
        """Bytes free on the filesystem that holds `path`."""
