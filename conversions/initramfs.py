"""An initramfs read as data: concatenated cpio archives, plain or compressed; nothing of it is run.

Format: Documentation/driver-api/early-userspace/buffer-format.rst and cpio(5) "New ASCII Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from conversions.unpack import PIECE, Compression, Unpacking, detect
from p2v.errors import GuestError

MAGICS = (b"070701", b"070702")
HEADER_SIZE = 110
TRAILER = "TRAILER!!!"
MAX_CONTENT = 2 * 1024**3
MAX_ENTRIES = 200_000
MAX_NAME = 4096
MAX_SETTINGS = 512 * 1024
MAX_INDEX = 16 * 1024 * 1024
MAX_KEPT = 64 * 1024 * 1024
MODULE = re.compile(
    r"(?:.*/)?lib/modules/(?P<version>[^/]+)/(?:.*/)?(?P<name>[^/]+)\.ko(?:\.(?:gz|xz|zst|bz2))?"
)
SETTINGS = re.compile(
    r"(?:\./)?(?:conf/.*|cryptroot/crypttab|(?:usr/)?etc/(?:crypttab|fstab|mdadm\.conf|mdadm/.*|cmdline\.d/.*|lvm/.*))"
)
INDEX = re.compile(
    r"(?:.*/)?lib/modules/(?P<version>[^/]+)/modules\.(?:dep|alias|softdep|dep\.bin|alias\.bin)"
)
MARKS = (
    ("udev", re.compile(r"(?:.*/)?(?:systemd-udevd|udevd|udevadm)")),
    ("initramfs-tools", re.compile(r"(?:\./)?scripts/functions")),
    ("dracut", re.compile(r"(?:.*/)?lib/dracut(?:-lib\.sh|/.*)")),
    ("mkinitcpio", re.compile(r"(?:\./)?(?:buildconfig|init_functions)")),
)
"""Files that say what made an initramfs, and whether udev loads its modules."""


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module of an initramfs: for which kernel, its name with `_` for `-`, and where it is."""

    version: str
    name: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Packed:
    """A small file of an initramfs."""

    path: str
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class End:
    """How the last segment of an initramfs ends: whatever is added must fit behind it.

    `compression` is None for a plain archive; `position` is where it ends, `unpacked` the length of its
    content; `clean` is whether nothing but zeros follows it.
    """

    compression: Compression | None = None
    position: int = 0
    unpacked: int = 0
    clean: bool = True


@dataclass(frozen=True, slots=True)
class Initramfs:
    """What matters of an initramfs; of several files of one path only the last is here, as it is at boot."""

    all_modules: tuple[Module, ...]
    files: tuple[Packed, ...]
    marks: frozenset[str]
    end: End

    def modules(self, version: str) -> frozenset[str]:
        """The names of the modules for kernel `version`."""
        return frozenset(module.name for module in self.all_modules if module.version == version)

    def index(self, version: str, name: str) -> Packed | None:
        """An index of the modules of `version`: `modules.dep.bin` and the like."""
        tail = f"lib/modules/{version}/{name}"
        return next((file for file in self.files if file.path.endswith(tail)), None)

    @property
    def configuration(self) -> tuple[Packed, ...]:
        """Files of settings, without the indexes of modules."""
        return tuple(file for file in self.files if INDEX.fullmatch(file.path) is None)


@dataclass(slots=True)
class Budget:
    """What may still come, over all archives together: bytes, entries, bytes that are kept."""

    content: int = MAX_CONTENT
    entries: int = MAX_ENTRIES
    kept: int = MAX_KEPT


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
    """Modules, indexes and settings. Raises GuestError where it is damaged, too large or unknown."""
    reading = _Reading(memoryview(data), budget or Budget())
    modules: dict[Module, None] = {}
    files: dict[str, Packed] = {}
    marks: set[str] = set()
    for entry in reading.entries():
        found = MODULE.fullmatch(entry.name)
        if found:
            modules[Module(found["version"], module_name(found["name"]), entry.name)] = None
        if entry.body:
            files[entry.name] = Packed(entry.name, entry.body)
        marks.update(mark for mark, pattern in MARKS if pattern.fullmatch(entry.name))
    if not modules and not files:
        raise GuestError("The initramfs holds neither modules nor settings")
    return Initramfs(tuple(modules), tuple(files.values()), frozenset(marks), reading.end)


def module_name(name: str) -> str:
    """A module's name as the kernel compares it."""
    return name.replace("-", "_")


class _Reading:
    """One pass over the segments of an initramfs; `end` is known afterwards."""

    def __init__(self, data: memoryview, budget: Budget) -> None:
        self._data = data
        self._budget = budget
        self._position = 0
        self.end = End()

    def entries(self) -> Iterator[_Entry]:
        """Segment after segment, plain or compressed, as the kernel unpacks them."""
        while self._position < len(self._data):
            start = bytes(self._data[self._position : self._position + 8])
            kind = detect(memoryview(start))
            if kind is not None:
                yield from self._compressed(kind)
            elif start[:6] in MAGICS or start[:1] == b"\0":
                yield from self._plain()
            elif self._position == 0:
                raise GuestError("The initramfs is compressed in a way that is not known")
            else:
                self.end = replace(self.end, clean=False)
                return

    def _compressed(self, kind: Compression) -> Iterator[_Entry]:
        segment = Unpacking(self._data[self._position :], kind)
        stream = _Stream(segment.pieces(), self._budget)
        yield from _archives(stream, self._budget)
        self._position += segment.used
        self.end = End(kind, self._position, stream.position)

    def _plain(self) -> Iterator[_Entry]:
        stream = _Stream(_pieces(self._data, self._position), self._budget)
        if stream.skip_zeros() and bytes(self._data[self._position + stream.position :][:6]) in MAGICS:
            yield from _archive(stream, self._budget)
            self.end = End(None, self._position + stream.position, stream.position)
        self._position += stream.position


def _pieces(data: memoryview, start: int) -> Iterator[bytes]:
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
    limit = MAX_SETTINGS if SETTINGS.fullmatch(name) else MAX_INDEX if INDEX.fullmatch(name) else 0
    if size <= min(limit, budget.kept):
        budget.kept -= size
        return stream.read(size)
    stream.skip(size)
    return b""


def _field(header: bytes, index: int) -> int:
    """Field `index`: inode, mode, uid, gid, nlink, mtime, size, 4 device numbers, name size, checksum."""
    digits = header[6 + 8 * index : 14 + 8 * index]
    if not re.fullmatch(rb"[0-9A-Fa-f]{8}", digits):
        raise GuestError("The initramfs is damaged: a number that is none")
    return int(digits, 16)
