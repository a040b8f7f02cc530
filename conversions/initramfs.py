"""An initramfs read as data: concatenated cpio archives, plain or compressed; nothing of it is run.

Format: Documentation/driver-api/early-userspace/buffer-format.rst and cpio(5) "New ASCII Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from conversions.unpack import PIECE, detect, unpack
from p2v.errors import GuestError

MAGICS = (b"070701", b"070702")
HEADER_SIZE = 110
TRAILER = "TRAILER!!!"
MAX_CONTENT = 2 * 1024**3
MAX_ENTRIES = 200_000
MAX_NAME = 4096
MAX_SETTINGS = 64 * 1024
MAX_ALL_SETTINGS = 1024 * 1024
MODULE = re.compile(
    r"(?:.*/)?lib/modules/(?P<version>[^/]+)/(?:.*/)?(?P<name>[^/]+)\.ko(?:\.(?:gz|xz|zst|bz2))?"
)
SETTINGS = re.compile(r"(?:\./)?(?:conf/.*|cryptroot/crypttab|etc/crypttab|etc/fstab)")


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module of an initramfs: for which kernel, and its name with `_` for `-`."""

    version: str
    name: str


@dataclass(frozen=True, slots=True)
class Initramfs:
    """What matters of an initramfs. `settings` is the text of its configuration, file after file."""

    all_modules: tuple[Module, ...]
    settings: str = ""

    def modules(self, version: str) -> frozenset[str]:
        """The names of the modules for kernel `version`."""
        return frozenset(module.name for module in self.all_modules if module.version == version)


@dataclass(slots=True)
class Budget:
    """What may still come, over all archives together: bytes, entries, bytes of settings."""

    content: int = MAX_CONTENT
    entries: int = MAX_ENTRIES
    settings: int = MAX_ALL_SETTINGS


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    body: bytes


class _Stream:
    """Pieces of bytes, read as a file that only goes forward."""

    def __init__(self, pieces: Iterator[bytes], budget: Budget) -> None:
        self._pieces = pieces
        self._budget = budget
        self._buffer = b""
        self._offset = 0
        self.position = 0

    def _fill(self) -> bool:
        while self._offset == len(self._buffer):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._buffer, self._offset = piece, 0
        return True

    def _advance(self, step: int) -> None:
        self._offset += step
        self.position += step
        self._budget.content -= step
        if self._budget.content < 0:
            raise GuestError("The initramfs is too large when unpacked")

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size and self._fill():
            parts.append(self._buffer[self._offset : self._offset + size])
            size -= len(parts[-1])
            self._advance(len(parts[-1]))
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size and self._fill():
            step = min(size, len(self._buffer) - self._offset)
            self._advance(step)
            size -= step

    def skip_zeros(self) -> bool:
        """Go to the next byte that is not zero; False at the end."""
        while self._fill():
            rest = self._buffer[self._offset :]
            step = len(rest) - len(rest.lstrip(b"\0"))
            self._advance(step)
            if step < len(rest):
                return True
        return False


def read_initramfs(data: bytes, budget: Budget | None = None) -> Initramfs:
    """Names of modules and text of settings. Raises GuestError where it is damaged, too large or unknown."""
    modules: dict[Module, None] = {}
    settings: list[bytes] = []
    for entry in _entries(memoryview(data), budget or Budget()):
        found = MODULE.fullmatch(entry.name)
        if found:
            modules[Module(found["version"], module_name(found["name"]))] = None
        if entry.body:
            settings.append(entry.body)
    if not modules and not settings:
        raise GuestError("The initramfs holds neither modules nor settings")
    return Initramfs(tuple(modules), b"\n".join(settings).decode("utf-8", "replace"))


def module_name(name: str) -> str:
    """A module's name as the kernel compares it."""
    return name.replace("-", "_")


def _entries(data: memoryview, budget: Budget) -> Iterator[_Entry]:
    """Plain archives first; the first compressed stream is the last segment, as all tools write them."""
    position = 0
    while position < len(data):
        kind = detect(data[position : position + 8])
        if kind is not None:
            yield from _archives(_Stream(unpack(data[position:], kind), budget), budget)
            return
        if data[position : position + 6] not in MAGICS and data[position] != 0:
            raise GuestError("The initramfs is compressed in a way that is not known")
        stream = _Stream(_plain(data, position), budget)
        if stream.skip_zeros() and bytes(data[position + stream.position :][:6]) in MAGICS:
            yield from _archive(stream, budget)
        position += stream.position


def _plain(data: memoryview, start: int) -> Iterator[bytes]:
    return (bytes(data[offset : offset + PIECE]) for offset in range(start, len(data), PIECE))


def _archives(stream: _Stream, budget: Budget) -> Iterator[_Entry]:
    while stream.skip_zeros():
        yield from _archive(stream, budget)


def _archive(stream: _Stream, budget: Budget) -> Iterator[_Entry]:
    """The entries of one archive up to its trailer."""
    while True:
        budget.entries -= 1
        if budget.entries < 0:
            raise GuestError("The initramfs has too many entries")
        entry = _entry(stream, budget)
        if entry.name == TRAILER:
            return
        yield entry


def _entry(stream: _Stream, budget: Budget) -> _Entry:
    header = stream.read(HEADER_SIZE)
    if len(header) != HEADER_SIZE or header[:6] not in MAGICS:
        raise GuestError("The initramfs is damaged: no cpio header where one should be")
    size, name_size = _field(header, 6), _field(header, 11)
    if not 1 <= name_size <= MAX_NAME:
        raise GuestError("The initramfs is damaged: a name of impossible length")
    name = stream.read(name_size).rstrip(b"\0").decode("utf-8", "replace")
    stream.skip(-(HEADER_SIZE + name_size) % 4)
    body = _body(stream, name, size, budget)
    stream.skip(-size % 4)
    return _Entry(name, body)


def _body(stream: _Stream, name: str, size: int, budget: Budget) -> bytes:
    if size <= min(MAX_SETTINGS, budget.settings) and SETTINGS.fullmatch(name):
        budget.settings -= size
        return stream.read(size)
    stream.skip(size)
    return b""


def _field(header: bytes, index: int) -> int:
    """Field `index`: inode, mode, uid, gid, nlink, mtime, size, 4 device numbers, name size, checksum."""
    digits = header[6 + 8 * index : 14 + 8 * index]
    if not re.fullmatch(rb"[0-9A-Fa-f]{8}", digits):
        raise GuestError("The initramfs is damaged: a number that is none")
    return int(digits, 16)
