"""The binary indexes of kernel modules, `modules.dep.bin` and `modules.alias.bin`: all that modprobe reads.

Format: a trie, as depmod of kmod writes it (tools/depmod.c, "Disk format"; libkmod/libkmod-index.c). Numbers
are big-endian; the upper four bits of an offset say which fields a node has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from p2v.errors import GuestError

MAGIC = 0xB007F457
VERSION_MAJOR = 2
HEADER = struct.Struct(">III")
VERSION = 0x00020001
HAS_PREFIX = 0x8000_0000
HAS_VALUES = 0x4000_0000
HAS_CHILDREN = 0x2000_0000
OFFSET = 0x0FFF_FFFF
MAX_DEPTH = 256
MAX_NODES = 2_000_000
MAX_CHILD = 127


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a key; those of the same key come in the order of their priority, the lowest first."""

    key: str
    value: str
    priority: int = 0


@dataclass(slots=True)
class _Node:
    """`prefix` follows the character that led here."""

    prefix: str = ""
    children: dict[str, _Node] = field(default_factory=dict)
    values: list[tuple[int, str]] = field(default_factory=list)


def write_index(entries: Iterable[Entry]) -> bytes:
    """An index that holds `entries`. Raises GuestError for a key that is not ASCII."""
    root = _Node()
    for entry in entries:
        if not entry.key.isascii():
            raise GuestError("The name of a kernel module is not ASCII")
        _insert(root, entry)
    out = bytearray(HEADER.size)
    start = _write(root, out)
    HEADER.pack_into(out, 0, MAGIC, VERSION, start)
    return bytes(out)


def _insert(node: _Node, entry: Entry) -> None:
    rest = entry.key
    while True:
        common = _common(node.prefix, rest)
        if common < len(node.prefix):
            _split(node, common)
        rest = rest[common:]
        if not rest:
            node.values.append((entry.priority, entry.value))
            node.values.sort(key=lambda value: value[0])
            return
        following = node.children.get(rest[0])
        if following is None:
            node.children[rest[0]] = _Node(rest[1:], {}, [(entry.priority, entry.value)])
            return
        node, rest = following, rest[1:]


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _split(node: _Node, at: int) -> None:
    below = _Node(node.prefix[at + 1 :], node.children, node.values)
    node.children = {node.prefix[at]: below}
    node.prefix, node.values = node.prefix[:at], []


def _write(node: _Node, out: bytearray) -> int:
    """Children first, as depmod does; the offset of the node with its flags."""
    codes = sorted(map(ord, node.children))
    first, last = (codes[0], codes[-1]) if codes else (0, -1)
    offsets = [
        _write(node.children[chr(code)], out) if chr(code) in node.children else 0
        for code in range(first, last + 1)
    ]
    offset = len(out)
    if node.prefix:
        offset |= HAS_PREFIX
        out += node.prefix.encode() + b"\0"
    if offsets:
        offset |= HAS_CHILDREN
        out += bytes((first, last)) + struct.pack(f">{len(offsets)}I", *offsets)
    if node.values:
        offset |= HAS_VALUES
        out += struct.pack(">I", len(node.values))
        for priority, value in node.values:
            out += struct.pack(">I", priority) + value.encode() + b"\0"
    return offset


def read_index(data: bytes) -> tuple[Entry, ...]:
    """All entries of an index. Raises GuestError where it is damaged or of another version."""
    try:
        magic, version, root = HEADER.unpack_from(data)
        if magic != MAGIC or version >> 16 != VERSION_MAJOR:
            raise GuestError("An index of kernel modules has an unknown format")
        return tuple(_Reader(data).entries(root, "", 0))
    except (struct.error, ValueError, IndexError) as bad:
        raise GuestError("An index of kernel modules is damaged") from bad


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_NODES

    def entries(self, offset: int, key: str, depth: int) -> Iterator[Entry]:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise ValueError("too many nodes")
        position = offset & OFFSET
        if offset & HAS_PREFIX:
            prefix, position = self._text(position)
            key += prefix
        children: tuple[tuple[int, int], ...] = ()
        if offset & HAS_CHILDREN:
            children, position = self._children(position)
        if offset & HAS_VALUES:
            yield from self._values(position, key)
        for code, child in children:
            yield from self.entries(child, key + chr(code), depth + 1)

    def _children(self, position: int) -> tuple[tuple[tuple[int, int], ...], int]:
        first, last = self._data[position], self._data[position + 1]
        if not first <= last <= MAX_CHILD:
            raise ValueError("impossible children")
        count = last - first + 1
        offsets = struct.unpack_from(f">{count}I", self._data, position + 2)
        found = ((first + index, offset) for index, offset in enumerate(offsets) if offset)
        return tuple(found), position + 2 + 4 * count

    def _values(self, position: int, key: str) -> Iterator[Entry]:
        (count,) = struct.unpack_from(">I", self._data, position)
        position += 4
        for _ in range(count):
            (priority,) = struct.unpack_from(">I", self._data, position)
            value, position = self._text(position + 4)
            yield Entry(key, value, priority)

    def _text(self, position: int) -> tuple[str, int]:
        end = self._data.index(b"\0", position)
        return self._data[position:end].decode("utf-8"), end + 1
