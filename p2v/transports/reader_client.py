"""The local end of the remote reader: sends requests, keeps several in flight, believes nothing unchecked."""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Protocol

from p2v.disk.device import BlockData, BlockRequest
from p2v.disk.image_file import PagePool
from p2v.errors import ReadError, TransportError
from p2v.model import BLOCK_SIZE, MiB
from p2v.transports import frames
from p2v.transports.base import Piece
from p2v.transports.frames import Codec, Op, Response, Status

IN_FLIGHT = 512
"""Requests on their way at the most; small ones would else wait for one round trip after the other."""

BYTES_IN_FLIGHT = 64 * MiB
"""Bytes asked for and not yet taken, at the most: hides 500 ms of round trip at 1 Gbit/s. Here, no more of
them are ever held than the window of the SSH channel. What is on its way is fetched once more after each
sector that cannot be read, so that more than needed would make a bad disk slow.
"""

EMPTY_IN_FLIGHT = 256 * MiB
"""The same while the answers are blocks of zeros, of which nothing travels."""

BATCH_REQUESTS = 48
BATCH_BYTES = 16 * MiB
"""Requests go out together until they ask for this much: a packet for each is work on both sides. Less than
what is in flight at the most, so that an answer is never waited for whose request was not sent.
"""

PAGED = 256 * 1024
SLACK = 64 * 1024
"""How much larger than its content a compressed payload may be before it is refused."""


class Line(Protocol):
    """The two directions of an SSH channel: `write` sends everything, `readinto` fills the view or raises."""

    def write(self, data: bytes | memoryview) -> None: ...

    def readinto(self, view: memoryview) -> None: ...

    def stderr_tail(self) -> str: ...


class ReaderClient:
    """Talks to one reader. Not for several threads at once.

    `took` is told of the bytes of each answer after they came, and may wait: then so does the source, once
    the window of the channel is full (`RateLimit.take`).
    """

    def __init__(self, line: Line, *, took: Callable[[int], None] | None = None) -> None:
        self._line = line
        self._took = took
        self._tags = count(1)
        self._pages = PagePool(BLOCK_SIZE)
        self._owed: deque[int] = deque()

    def hello(self) -> dict[str, object]:
        """Wait for the reader's first words; noise before them (a talkative shell profile) is passed over."""
        window = b""
        for _ in range(frames.MAX_HELLO):
            window = (window + self._exactly(1))[-len(frames.MAGIC) :]
            if window == frames.MAGIC:
                size = struct.unpack("!I", self._exactly(4))[0]
                return self._parse(self._exactly(self._bounded(size)))
        raise TransportError(
            "The source did not start the reader",
            hint="Is Python 3 on the source? " + self._line.stderr_tail(),
        )

    def open(self, path: str) -> tuple[int, int]:
        """Open a disk over there: (its number, its size in bytes)."""
        return self._opened(path, lambda tag: frames.pack_open(tag, path))

    def compose(self, path: str, pieces: Sequence[Piece]) -> tuple[int, int]:
        """Open a disk of which some pieces are read from other devices: (its number, its size in bytes)."""
        words = [(piece.start, piece.length, piece.path, piece.offset) for piece in pieces]
        return self._opened(path, lambda tag: frames.pack_compose(tag, path, words))

    def _opened(self, path: str, pack: Callable[[int], bytes]) -> tuple[int, int]:
        answer = self._ask_json(pack)
        disk, size = answer.get("disk"), answer.get("size")
        if not isinstance(disk, int) or not isinstance(size, int) or size <= 0:
            raise TransportError(f"The source cannot say how large {path} is")
        return disk, size

    def sync(self) -> None:
        """Have the source write out what its filesystems hold in memory."""
        self._ask_json(lambda tag: frames.pack_request(Op.SYNC, tag))

    def quit(self) -> None:
        self._line.write(frames.pack_request(Op.QUIT, 0))

    def read_many(self, disk: int, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The ranges in order; a long one is cut into requests of 4 MiB."""
        pieces = [
            [(at, min(4 * MiB, offset + length - at)) for at in range(offset, offset + length, 4 * MiB)]
            for offset, length in ranges
        ]
        wanted = (_plain_request(at, size) for group in pieces for at, size in group)
        answers = self.fetch(disk, wanted)
        for group in pieces:
            yield b"".join(next(answers).data for _ in group)

    def fetch(self, disk: int, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for request, response in self._pipeline(disk, Op.READ, requests):
            payload = self._payload(response, request)
            data = frames.decode(response, payload, expected=request.data_size)
            wire_size = frames.RESPONSE.size + len(payload)
            yield BlockData(request, data, response.digest, wire_size, empty=response.codec is Codec.ZERO)

    def hash_blocks(
        self, disk: int, requests: Iterable[BlockRequest]
    ) -> Iterator[tuple[BlockRequest, bytes]]:
        for request, response in self._pipeline(disk, Op.HASH, requests):
            self._payload(response, request)
            yield request, response.digest

    def _pipeline(
        self, disk: int, op: Op, requests: Iterable[BlockRequest]
    ) -> Iterator[tuple[BlockRequest, Response]]:
        """Keep several requests on their way; the caller takes each answer's payload before the next."""
        self._settle()
        waiting: deque[tuple[int, BlockRequest]] = deque()
        batch = _Batch(self._line, self._owed)
        asked, room = 0, BYTES_IN_FLIGHT
        for request in requests:
            tag = self._next_tag()
            waiting.append((tag, request))
            batch.add(tag, _packed(disk, op, tag, request), request.data_size)
            asked += request.data_size
            while len(waiting) >= IN_FLIGHT or (asked > room and len(waiting) > 1):
                asked -= waiting[0][1].data_size
                answer = self._answer(waiting)
                room = EMPTY_IN_FLIGHT if answer[1].codec is Codec.ZERO else BYTES_IN_FLIGHT
                yield answer
        batch.send()
        while waiting:
            yield self._answer(waiting)

    def _answer(self, waiting: deque[tuple[int, BlockRequest]]) -> tuple[BlockRequest, Response]:
        tag, request = waiting.popleft()
        return request, self._head(tag, limit=frames.MAX_LENGTH + SLACK)

    def _next_tag(self) -> int:
        return next(self._tags) & 0xFFFFFFFF

    def _settle(self) -> None:
        """Take answers off the line that nobody waits for any more: a map may give up in the middle of a
        read.
        """
        while self._owed:
            response = self._head(self._owed[0], limit=frames.MAX_JSON)
            self._view(response.payload_size)

    def _head(self, tag: int, *, limit: int) -> Response:
        if not self._owed or self._owed.popleft() != tag:
            raise TransportError("An answer of the source was taken by another question")
        response = frames.parse_response(self._exactly(frames.RESPONSE.size), limit=limit)
        if response.tag != tag:
            raise TransportError("The reader on the source answered a question that was not asked")
        return response

    def _payload(self, response: Response, request: BlockRequest) -> memoryview:
        if response.codec is Codec.ZERO and response.payload_size:
            raise TransportError("The reader on the source sent data with a block of zeros")
        payload = self._view(response.payload_size)
        if response.status is Status.OK:
            return payload
        said = bytes(payload[:500]).decode("utf-8", "replace")
        if response.status is Status.READ_ERROR:
            message = f"The source could not read the disk at byte {request.offset}: {said}"
            raise ReadError(message, offset=request.offset)
        raise TransportError(f"The source could not serve the disk at byte {request.offset}: {said}")

    def _ask_json(self, pack: Callable[[int], bytes]) -> dict[str, object]:
        self._settle()
        tag = self._next_tag()
        self._owed.append(tag)
        self._line.write(pack(tag))
        response = self._head(tag, limit=frames.MAX_JSON)
        payload = self._exactly(response.payload_size)
        if response.status is not Status.OK:
            raise TransportError(f"The source said: {payload[:500].decode('utf-8', 'replace')}")
        return self._parse(payload)

    def _bounded(self, size: int) -> int:
        if size > frames.MAX_JSON:
            raise TransportError(f"The reader on the source announced {size} bytes of text")
        return size

    def _parse(self, payload: bytes) -> dict[str, object]:
        try:
            value = json.loads(payload)
        except ValueError as error:
            raise TransportError("The reader on the source answered something that is not JSON") from error
        if not isinstance(value, dict):
            raise TransportError("The reader on the source answered JSON that is not an object")
        return value

    def _exactly(self, size: int) -> bytes:
        return bytes(self._view(size))

    def _view(self, size: int) -> memoryview:
        """Data of blocks starts on a page, so that it can be written past the page cache."""
        view = self._pages.take(size) if size >= PAGED else memoryview(bytearray(size))
        self._line.readinto(view)
        if self._took is not None:
            self._took(size)
        return view


class _Batch:
    """Requests that wait to be sent together; an answer is owed to a request once it was sent."""

    def __init__(self, line: Line, owed: deque[int]) -> None:
        self._line = line
        self._owed = owed
        self._tags: list[int] = []
        self._packed: list[bytes] = []
        self._asked = 0

    def add(self, tag: int, packed: bytes, asked: int) -> None:
        """One request, which asks for `asked` bytes; sends them all when it is time."""
        self._tags.append(tag)
        self._packed.append(packed)
        self._asked += asked
        if len(self._packed) >= BATCH_REQUESTS or self._asked >= BATCH_BYTES:
            self.send()

    def send(self) -> None:
        if self._packed:
            self._owed.extend(self._tags)
            self._line.write(b"".join(self._packed))
            self._tags, self._packed, self._asked = [], [], 0


def _packed(disk: int, op: Op, tag: int, request: BlockRequest) -> bytes:
    return frames.pack_request(
        op, tag, disk=disk, offset=request.offset, length=request.length, pairs=request.pairs
    )


def _plain_request(offset: int, length: int) -> BlockRequest:
    return BlockRequest(-1, offset, length, ((0, length),))


class RemoteDisk:
    """A disk of the source as a `BlockDevice`."""

    def __init__(
        self,
        client: ReaderClient,
        path: str,
        *,
        sector_size: int,
        live: bool,
        pieces: Sequence[Piece] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._sector_size = sector_size
        self._live = live
        self._disk, self._size = client.open(path) if pieces is None else client.compose(path, pieces)

    def composed(self, pieces: Sequence[Piece]) -> RemoteDisk:
        """The same disk, with these pieces of it taken from other devices."""
        return RemoteDisk(
            self._client, self._path, sector_size=self._sector_size, live=self._live, pieces=pieces
        )

    @property
    def size(self) -> int:
        return self._size

    @property
    def sector_size(self) -> int:
        return self._sector_size

    @property
    def live(self) -> bool:
        return self._live

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self.read_many([(offset, length)]))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Direct reads want whole sectors: each range is read rounded outwards and cut back."""
        rounded = [self._round(offset, length) for offset, length in ranges]
        for (offset, length), (start, _), data in zip(
            ranges, rounded, self._client.read_many(self._disk, rounded), strict=True
        ):
            yield data[offset - start : offset - start + length]

    def _round(self, offset: int, length: int) -> tuple[int, int]:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise TransportError(f"{self._path}: bytes {offset} to {offset + length} are outside the disk")
        start = offset - offset % 4096
        end = min(offset + length + -(offset + length) % 4096, self._size)
        return start, end - start

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        return self._client.fetch(self._disk, requests)

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        return self._client.hash_blocks(self._disk, requests)
