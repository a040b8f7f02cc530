"""Archives that the kernel unpacks at its start: cpio of the kind `newc` (its early-userspace/buffer-
format.rst).

Written straight to a file, whatever the size of what goes in.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Self

MAGIC = "070701"
ALIGNMENT = 4
FOLDER, FILE = 0o040755, 0o100000
TRAILER = "TRAILER!!!"


class Archive:
    """One archive, appended to `handle`; it is whole once the block has ended well."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._inode = 0

    def __enter__(self) -> Self:
        self._align()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._head(TRAILER, 0, 0)

    def folder(self, name: str) -> None:
        self._head(name, FOLDER, 0)

    def text(self, name: str, content: bytes, *, mode: int = 0o644) -> None:
        self._head(name, FILE | mode, len(content))
        self._handle.write(content)
        self._align()

    def file(self, name: str, source: Path, *, mode: int = 0o644) -> None:
        """The content of `source`, smaller than 4 GiB. Raises OSError."""
        self._head(name, FILE | mode, source.stat().st_size)
        with source.open("rb") as opened:
            shutil.copyfileobj(opened, self._handle, 1 << 20)
        self._align()

    def _head(self, name: str, mode: int, size: int) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        links, owner, time, device, check = 1, 0, 0, 0, 0
        fields = (self._inode, mode, owner, owner, links, time, size, *(device,) * 4, len(encoded), check)
        self._handle.write((MAGIC + "".join(f"{field:08X}" for field in fields)).encode() + encoded)
        self._align()

    def _align(self) -> None:
        self._handle.write(bytes(-self._handle.tell() % ALIGNMENT))
