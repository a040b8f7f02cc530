"""Writes the archives that an initramfs is made of. Format: cpio(5), "New ASCII Format"."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable, Mapping

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
FOLDER_MODE = stat.S_IFDIR | 0o755
FILE_MODE = stat.S_IFREG | 0o644


def archive(files: Mapping[str, bytes], folders: Iterable[str] = ()) -> bytes:
    """An archive of `files` by their paths, which belong to root; `folders` come first, parents before."""
    entries = [(path, FOLDER_MODE, b"") for path in folders]
    entries += [(path, FILE_MODE, content) for path, content in files.items()]
    packed = [_entry(number, *entry) for number, entry in enumerate(entries, start=1)]
    return b"".join(packed) + _entry(0, TRAILER, 0, b"")


def parents(paths: Iterable[str], *, below: str) -> tuple[str, ...]:
    """Every folder that leads from `below` to one of `paths`, parents first, `below` itself left out."""
    found: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(path)
        while folder.startswith(f"{below}/"):
            found.add(folder)
            folder = posixpath.dirname(folder)
    return tuple(sorted(found))


def _entry(number: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % value for value in fields)
    return _padded(header + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
