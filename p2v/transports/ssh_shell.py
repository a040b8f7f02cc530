"""The slow way: a machine over SSH that has no Python, served by `sh` and `dd` (`shell_scripts.py`).

One long-lived shell for each disk answers requests that are sent ahead. What it says is believed as little as
what the reader says: sizes are checked before memory is given.
"""

from __future__ import annotations

import json
import shlex
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count

from p2v.disk.device import BlockData, BlockDevice, BlockRequest, digest_of_parts
from p2v.errors import ReadError, TransportError
from p2v.model import Disk, Finding, MiB, Severity
from p2v.transports import frames, shell_scripts
from p2v.transports.base import Guard, SnapshotKeeper, Survey, Took
from p2v.transports.inventory import parse_inventory
from p2v.transports.shell_answers import Codec, Incoming, Line, Op, read_head, read_tail
from p2v.transports.shell_inventory import read_facts
from p2v.transports.ssh_session import SshSession

SURVEY_SECONDS = 120.0
BYTES_IN_FLIGHT = 16 * MiB
WORDS_IN_FLIGHT = 32 * 1024
"""Bytes of questions: those that the shell has not read yet must fit into its pipe (64 KiB), or both wait."""

SIZES = (MiB, 65536, 4096, 512)
"""Sizes of a read by dd: large ones for the inside of an extent, small ones up to its edges."""

SLOW_WAY = Finding(
    Severity.WARNING,
    "The source has no Python 3.4 or newer: its disks are read with sh and dd, which is slower and can "
    "neither freeze filesystems nor take snapshots",
    "Where you may install it, on the source: apt install python3, or dnf install python3",
)


class ShellTransport:
    """One SSH session; each disk gets a channel and a shell of its own."""

    def __init__(self, session: SshSession, took: Took | None) -> None:
        self._session = session
        self._took = took
        self._boot_id = ""

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def survey(self) -> Survey:
        command = self._command(shell_scripts.INVENTORY)
        said = self._session.run(command, timeout=SURVEY_SECONDS)
        facts = read_facts(said.stdout.decode("utf-8", "replace"))
        require_root(facts)
        survey = parse_inventory(facts)
        self._boot_id = survey.boot_id
        findings = (*survey.machine.findings, SLOW_WAY)
        unguarded = "without Python on the source nothing on it can be held still"
        return replace(survey, machine=replace(survey.machine, findings=findings, unguarded=unguarded))

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        with self._session.open_stream(self._command(shell_scripts.DISK, disk.path)) as line:
            yield ShellDisk(line, disk.path, sector_size=disk.sector_size, took=self._took)

    @contextmanager
    def open_disks(self, disks: Sequence[Disk]) -> Iterator[Sequence[BlockDevice]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self.open_disk(disk)) for disk in disks]

    def open_guard(self) -> AbstractContextManager[Guard]:
        raise TransportError(
            "Without Python on the source its filesystems cannot be held still",
            hint="Try: --consistency fuzzy, or a rescue system on the source",
        )

    def open_snapshots(self) -> AbstractContextManager[SnapshotKeeper]:
        raise TransportError(
            "Without Python on the source no snapshots can be made", hint="Try: --consistency fuzzy"
        )

    def _command(self, script: str, *words: str) -> str:
        return self._session.privilege_prefix + shlex.join(["sh", "-c", script, "p2v", *words])


def require_root(said: dict[str, object]) -> None:
    if said.get("uid") != 0:
        raise TransportError("The shell on the source does not run as root, so it cannot read disks")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way."""

    tag: int
    op: Op
    codec: Codec
    request: BlockRequest
    words: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """`content` is what was read, or a digest; `wire_size` the bytes that came for it."""

    request: BlockRequest
    content: bytes | memoryview
    wire_size: int


class ShellDisk:
    """A disk behind a shell as a `BlockDevice`. Not for several threads at once.

    The digest of a fetched block is made here, over what came: `dd` gives its bytes away once, and a second
    read for `sha256sum` would cost as much as the first. The line itself is protected by SSH. Digests that
    are asked for alone are made over there, where there is a `sha256sum`.
    """

    def __init__(self, line: Line, path: str, *, sector_size: int, took: Took | None = None) -> None:
        self._line = line
        self._path = path
        self._sector_size = sector_size
        self._in = Incoming(line, took)
        self._tags = count(1)
        self._owed: deque[Asked] = deque()
        about = self._hello()
        require_root(about)
        size = about.get("size")
        if not isinstance(size, int) or size <= 0:
            raise TransportError(f"The source cannot say how large {path} is")
        self._size = size
        self._can_hash = about.get("sha256sum") is True
        packers = {"zstd": Codec.ZSTD, "gzip": Codec.GZIP}
        self._packing = Packing([codec for name, codec in packers.items() if about.get(name) is True])

    def _hello(self) -> dict[str, object]:
        """Noise before it (a talkative shell profile) is passed over."""
        window = b""
        for _ in range(frames.MAX_HELLO):
            window = (window + self._in.exactly(1))[-len(frames.MAGIC) :]
            if window == frames.MAGIC:
                break
        size = struct.unpack("!I", self._in.exactly(4))[0]
        try:
            said = json.loads(self._in.exactly(min(size, frames.MAX_HELLO)))
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise TransportError(f"The source cannot open {self._path}: {self._line.stderr_tail()}")
        return said

    @property
    def size(self) -> int:
        return self._size

    @property
    def sector_size(self) -> int:
        return self._sector_size

    @property
    def live(self) -> bool:
        return True

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self.read_many([(offset, length)]))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """dd reads whole sectors: each range is read rounded outwards and cut back."""
        rounded = [self._round(offset, length) for offset, length in ranges]
        pieces = [
            [BlockRequest(-1, at, size, ((0, size),)) for at, size in _cut(start, length)]
            for start, length in rounded
        ]
        answers = self._pipeline(Op.READ, (request for group in pieces for request in group))
        for (offset, length), (start, _), group in zip(ranges, rounded, pieces, strict=True):
            data = b"".join(next(answers).content for _ in group)
            yield data[offset - start : offset - start + length]

    def _round(self, offset: int, length: int) -> tuple[int, int]:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise TransportError(f"{self._path}: bytes {offset} to {offset + length} are outside the disk")
        start = offset - offset % 4096
        end = min(offset + length + -(offset + length) % 4096, self._size)
        return start, end - start

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for answer in self._pipeline(Op.READ, requests):
            digest = digest_of_parts(answer.request, _parts(answer))
            yield BlockData(answer.request, answer.content, digest, answer.wire_size)

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        if not self._can_hash:
            yield from ((block.request, block.digest) for block in self.fetch(requests))
            return
        for answer in self._pipeline(Op.HASH, requests):
            yield answer.request, bytes(answer.content)

    def _pipeline(self, op: Op, requests: Iterable[BlockRequest]) -> Iterator[Answered]:
        """Keep several questions on their way, by their bytes and by the length of their words."""
        self._settle()
        waiting: deque[Asked] = deque()
        for request in requests:
            asked = self._question(op, request)
            while waiting and _too_much((*waiting, asked)):
                yield self._take(waiting.popleft())
            waiting.append(asked)
            self._owed.append(asked)
            self._line.write(asked.words)
        while waiting:
            yield self._take(waiting.popleft())

    def _question(self, op: Op, request: BlockRequest) -> Asked:
        codec = self._packing.choose() if op is Op.READ else Codec.PLAIN
        blocks, pieces = describe(request, zeros=op is Op.HASH, size=self._size)
        tag = next(self._tags)
        words = " ".join((op, str(tag), codec, str(blocks), *pieces)).encode() + b"\n"
        return Asked(tag, op, codec, request, words)

    def _settle(self) -> None:
        """Take answers off the line that nobody waits for any more."""
        while self._owed:
            try:
                self._receive(self._owed[0])
            except ReadError:
                continue

    def _take(self, asked: Asked) -> Answered:
        if not self._owed or self._owed[0] is not asked:
            raise TransportError("An answer of the source was taken by another question")
        return self._receive(asked)

    def _receive(self, asked: Asked) -> Answered:
        """One whole answer. Raises ReadError after all of it was taken off the line."""
        self._owed.popleft()
        before = self._in.taken
        read_head(self._in, asked.tag, asked.codec)
        if asked.op is Op.HASH:
            content: bytes | memoryview = self._in.digest()
        else:
            content = self._in.content(asked.codec, asked.request.data_size)
        problem = read_tail(self._in)
        if problem is not None:
            offset = asked.request.offset
            raise ReadError(f"The source could not read the disk at byte {offset}: {problem}", offset=offset)
        wire_size = self._in.taken - before
        if asked.op is Op.READ:
            self._packing.learn(asked.codec, asked.request.data_size, wire_size)
        return Answered(asked.request, content, wire_size)


def _too_much(asked: Sequence[Asked]) -> bool:
    size = sum(one.request.data_size for one in asked)
    return size > BYTES_IN_FLIGHT or sum(len(one.words) for one in asked) > WORDS_IN_FLIGHT


class Packing:
    """Whether the next block is compressed over there: with zstd where the last ones shrank.

    Where there is only gzip, it must also have been faster than sending blocks as they are: `gzip -1` packs
    less than 100 MB/s, which many lines outrun.
    """

    PAUSE = 16
    """Blocks that are sent as they are before compressing is tried again, and at first with gzip."""

    def __init__(self, packers: Sequence[Codec]) -> None:
        self._packer = next(iter(packers), None)
        self._plain_left = self.PAUSE if self._packer is Codec.GZIP else 0
        self._plain_rate = 0.0
        self._last = time.monotonic()

    def choose(self) -> Codec:
        if self._packer is None or self._plain_left > 0:
            self._plain_left -= 1
            return Codec.PLAIN
        return self._packer

    def learn(self, codec: Codec, raw_size: int, wire_size: int) -> None:
        """Told of each answer, in their order, when it has come."""
        now = time.monotonic()
        rate, self._last = raw_size / max(now - self._last, 1e-6), now
        if codec is Codec.PLAIN:
            self._plain_rate += (rate - self._plain_rate) * (0.25 if self._plain_rate else 1)
        elif wire_size > raw_size * 0.9 or (codec is Codec.GZIP and rate < self._plain_rate):
            self._plain_left = self.PAUSE


def describe(request: BlockRequest, *, zeros: bool, size: int) -> tuple[int, list[str]]:
    """The pieces of a request for the shell, and how many blocks of the disk they have.

    `zeros`: what is between the pairs and around them, too. Raises TransportError outside of `size` bytes.
    """
    blocks, pieces, end = 0, list[str](), 0
    for start, length in request.pairs:
        if start < end or request.offset + start + length > size:
            raise TransportError(f"Bytes from {request.offset + start} are outside the disk")
        if zeros:
            pieces += (f"z,{unit},0,{number}" for unit, _, number in split(end, start))
        first = request.offset + start
        for unit, skip, number in split(first, first + length):
            pieces.append(f"d,{unit},{skip},{number}")
            blocks += number
        end = start + length
    if zeros:
        pieces += (f"z,{unit},0,{number}" for unit, _, number in split(end, request.length))
    return blocks, pieces


def split(start: int, end: int, sizes: Sequence[int] = SIZES) -> list[tuple[int, int, int]]:
    """The bytes from `start` to `end` as (block size, first block, blocks), the largest blocks inside."""
    if start >= end:
        return []
    if not sizes:
        raise TransportError(f"Bytes {start} to {end} are not whole sectors")
    size, *rest = sizes
    first, last = -(-start // size), end // size
    if first >= last:
        return split(start, end, rest)
    inside = [(size, first, last - first)]
    return split(start, first * size, rest) + inside + split(last * size, end, rest)


def _cut(start: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + length, 4 * MiB):
        yield at, min(4 * MiB, start + length - at)


def _parts(answer: Answered) -> list[memoryview]:
    view, parts, done = memoryview(answer.content), [], 0
    for _, size in answer.request.pairs:
        parts.append(view[done : done + size])
        done += size
    return parts
