"""The log of XFS: whether it was closed by an unmount, and which buffers wait in it to be written back.

Source: `fs/xfs/libxfs/xfs_log_format.h`, and `fs/xfs/xfs_log_recover.c` for how head and tail are found. The
log is a ring of blocks of 512 bytes. The first word of each is the number of the turn in which it was written
(its cycle), or the magic of a record header with the cycle behind it; records say which words stood there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.model import KiB, MiB

BLOCK = 512
MAGIC = 0xFEEDBABE
UNMOUNT = 0x20
"""Flag of the one operation of an unmount record."""
BUFFER_ITEM = 0x123C
LARGEST_RECORD = 256 * KiB
IN_FLIGHT = 2 * MiB
"""Eight buffers of the largest record: how far writes may have overtaken each other when the power went."""
LARGEST_ACTIVE = 256 * MiB
CYCLES_PER_HEADER = 64
HEADER_COVERS = CYCLES_PER_HEADER * BLOCK
FORMAT_LINUX_LE = 1
PROBES = 16


@dataclass(frozen=True, slots=True)
class Log:
    """Where the log stands on the device, in bytes."""

    start: int
    size: int

    @property
    def blocks(self) -> int:
        return self.size // BLOCK


@dataclass(frozen=True, slots=True)
class Record:
    """A record header. `at` and `tail` are blocks of the log, `size` is bytes of data behind the headers."""

    at: int
    cycle: int
    size: int
    headers: int
    operations: int
    tail: int
    little_endian: bool

    @property
    def blocks(self) -> int:
        return self.headers + -(-self.size // BLOCK)


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The end of the log: the block behind the newest record, that record, and whether it is an unmount."""

    head: int
    newest: Record | None
    clean: bool


def find_end(device: BlockDevice, log: Log) -> LogEnd:
    """Raises MapUnknown where the log contradicts itself, TransportError."""
    first, last = (_cycle(raw) for raw in device.read_many([(log.start, BLOCK), (_byte(log, -1), BLOCK)]))
    if first == 0:
        return LogEnd(0, None, clean=True)  # never written: zeroed by a repair
    if last not in (0, first, first - 1):
        raise MapUnknown("its log is damaged")
    head = log.blocks if last == first else _search(device, log, first)
    newest, clean = _newest(device, log, head)
    return LogEnd(head, newest, clean and not _overtaken(device, log, head, first))


def waiting_buffers(
    device: BlockDevice, log: Log, end: LogEnd, wanted: Callable[[int], bool]
) -> frozenset[int]:
    """Buffers (sector of 512 bytes) that the log holds and that may be older where they belong.

    Only those for which `wanted` is true. Raises MapUnknown where a record cannot be followed.
    """
    if end.newest is None or end.clean:
        return frozenset()
    count = (end.head - end.newest.tail) % log.blocks or log.blocks
    if end.newest.tail >= log.blocks or count * BLOCK > LARGEST_ACTIVE:
        raise MapUnknown("its log is too full to be followed")
    found: set[int] = set()
    for record, data in _records(device, log, end.newest.tail, count):
        found.update(buffer for buffer in _buffers(record, data) if wanted(buffer))
    return frozenset(found)


def _byte(log: Log, block: int) -> int:
    return log.start + block % log.blocks * BLOCK


def _cycle(raw: bytes) -> int:
    word, behind = struct.unpack_from(">II", raw)
    return int(behind if word == MAGIC else word)


def _search(device: BlockDevice, log: Log, cycle: int) -> int:
    """The first block that is not of this cycle; block 0 is, the last one is not. Many probes at a time."""
    low, high = 0, log.blocks - 1
    while high - low > 1:
        probes = sorted({low + (high - low) * part // PROBES for part in range(1, PROBES)} - {low})
        raws = list(device.read_many([(_byte(log, probe), BLOCK) for probe in probes]))
        behind = [probe for probe, raw in zip(probes, raws, strict=True) if _cycle(raw) != cycle]
        high = min(behind, default=high)
        low = max((probe for probe in probes if probe < high), default=low)
    return high


def _ring(device: BlockDevice, log: Log, first: int, count: int) -> bytes:
    """Blocks of the ring; `first` may be negative."""
    first %= log.blocks
    straight = min(count, log.blocks - first)
    parts = [(_byte(log, first), straight * BLOCK), (log.start, (count - straight) * BLOCK)]
    return b"".join(device.read_many([part for part in parts if part[1]]))


def _newest(device: BlockDevice, log: Log, head: int) -> tuple[Record | None, bool]:
    """The last record before the head, and whether it says that the filesystem was unmounted."""
    count = min(log.blocks, (LARGEST_RECORD + LARGEST_RECORD // HEADER_COVERS * BLOCK) // BLOCK + 1)
    raw = _ring(device, log, head - count, count)
    for block in range(count - 1, -1, -1):
        if raw[block * BLOCK :][:4] == MAGIC.to_bytes(4, "big"):
            record = _parse(raw[block * BLOCK : (block + 1) * BLOCK], head - count + block)
            operation = raw[(block + record.headers) * BLOCK :][:12]
            closes = block + record.blocks == count and record.operations == 1 and len(operation) == 12
            return record, closes and bool(operation[9] & UNMOUNT)
    raise MapUnknown("its log has no record where it should end")


def _overtaken(device: BlockDevice, log: Log, head: int, cycle: int) -> bool:
    """Whether something newer stands behind a gap: then the end that was found is not the end."""
    count = min(IN_FLIGHT // BLOCK, log.blocks - head)
    raw = _ring(device, log, head, count) if count > 0 else b""
    return any(_cycle(raw[at : at + 8]) == cycle for at in range(0, len(raw), BLOCK))


def _parse(raw: bytes, at: int) -> Record:
    # 0 magic, 4 cycle, 8 version, 12 data size, 16 LSN, 24 LSN of the tail, 40 operations, 44 64 cycle words,
    # 300 format, 320 size of the buffer that it was written from.
    magic, cycle, version, size, _, tail = struct.unpack_from(">IIIIQQ", raw)
    buffer_size = struct.unpack_from(">I", raw, 320)[0] if version & 2 else 0
    if magic != MAGIC or size > LARGEST_RECORD or buffer_size > LARGEST_RECORD:
        raise MapUnknown("its log has a record that is damaged")
    return Record(
        at=at,
        cycle=cycle,
        size=size,
        headers=max(1, -(-buffer_size // HEADER_COVERS)),
        operations=struct.unpack_from(">I", raw, 40)[0],
        tail=tail & 0xFFFFFFFF,
        little_endian=struct.unpack_from(">I", raw, 300)[0] == FORMAT_LINUX_LE,
    )


def _records(device: BlockDevice, log: Log, first: int, count: int) -> Iterator[tuple[Record, bytes]]:
    """Records of the ring with their data as it was before the cycles were written into it."""
    stream = _Stream(device, log, first, count)
    while stream.left:
        head = stream.take(1)
        record = _parse(head, stream.at)
        more = stream.take(record.headers - 1)
        data = bytearray(stream.take(record.blocks - record.headers))
        words = [head[44:300]] + [more[at + 4 : at + 260] for at in range(0, len(more), BLOCK)]
        _restore(data, b"".join(words))
        yield record, bytes(data[: record.size])


def _restore(data: bytearray, words: bytes) -> None:
    if len(data) // BLOCK > len(words) // 4:
        raise MapUnknown("its log has a record that is damaged")
    for block in range(len(data) // BLOCK):
        data[block * BLOCK : block * BLOCK + 4] = words[block * 4 : block * 4 + 4]


class _Stream:
    """Blocks of the ring one after the other, read a MiB at a time."""

    def __init__(self, device: BlockDevice, log: Log, first: int, count: int) -> None:
        self._device = device
        self._log = log
        self._next = first
        self._unread = count
        self._buffer = b""
        self.at = first

    @property
    def left(self) -> int:
        return self._unread + len(self._buffer) // BLOCK

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise MapUnknown("its log has a record that goes beyond its end")
        while len(self._buffer) < count * BLOCK:
            piece = min(MiB // BLOCK, self._unread)
            self._buffer += _ring(self._device, self._log, self._next, piece)
            self._next += piece
            self._unread -= piece
        taken, self._buffer = self._buffer[: count * BLOCK], self._buffer[count * BLOCK :]
        self.at += count
        return taken


def _buffers(record: Record, data: bytes) -> Iterator[int]:
    """The sectors of the buffers that the operations of a record begin to describe."""
    order = "<" if record.little_endian else ">"
    at = 0
    for _ in range(record.operations):
        if at + 12 > len(data):
            raise MapUnknown("its log has an operation that goes beyond its record")
        size = struct.unpack_from(">I", data, at + 4)[0]
        region = data[at + 12 : at + 12 + min(size, 16)]
        at += 12 + size
        if len(region) < 2 or struct.unpack_from(f"{order}H", region)[0] != BUFFER_ITEM:
            continue
        if len(region) < 16:  # cut in two by the end of a record: where it points cannot be told
            raise MapUnknown("its log splits the description of a buffer")
        yield struct.unpack_from(f"{order}Q", region, 8)[0]
