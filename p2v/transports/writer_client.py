"""The local end of the remote writer: sends blocks, keeps several in flight, believes nothing unchecked."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from p2v.disk.device import BlockRequest
from p2v.errors import TransportError
from p2v.model import Disk, MiB
from p2v.transports import writer_frames as frames
from p2v.transports.frames import RESPONSE, Codec
from p2v.transports.reader_client import Line
from p2v.transports.writer_frames import Answer, Clear, PackedBlock, WriterOp, WriterStatus

IN_FLIGHT = 128
"""Blocks on their way at the most; of answers, so many always fit into the line."""

BYTES_IN_FLIGHT = 32 * MiB
"""Bytes sent and not yet answered, at the most."""

Wrote = Callable[[int, float], None]
"""Told of the bytes of a block that were sent, and of the seconds that this took."""


class WriterClient:
    """Talks to one writer. Not for several threads at once. `codecs` are those that it can unpack."""

    def __init__(self, line: Line, hello: dict[str, object]) -> None:
        self._line = line
        self._tags = count(1)
        said = hello.get("codecs")
        self.codecs = tuple(str(name) for name in said) if isinstance(said, list) else ()

    def open(self, disk: Disk) -> int:
        """Open a disk for this writer alone: its number.

        Raises PlanRefused where it is in use, or has another size, serial or WWN; TransportError.
        """
        tag = self._next_tag()
        self._line.write(frames.pack_open(tag, disk.path, disk.size, disk.serial, disk.wwn))
        number = self._json(tag, f"{disk.path} cannot be opened").get("disk")
        if not isinstance(number, int):
            raise TransportError(f"The machine did not open {disk.path}")
        return number

    def write(self, disk: int, blocks: Iterable[PackedBlock], *, wrote: Wrote) -> Iterator[BlockRequest]:
        """Send the blocks; each comes out when it is on the disk, or in the disk's own memory."""
        return self._send(WriterOp.WRITE, disk, blocks, wrote)

    def rehearse(self, disk: int, blocks: Iterable[PackedBlock], *, wrote: Wrote) -> Iterator[BlockRequest]:
        """The same, but nothing is written: to see how fast the line is."""
        return self._send(WriterOp.TRY, disk, blocks, wrote)

    def _send(
        self, op: WriterOp, disk: int, blocks: Iterable[PackedBlock], wrote: Wrote
    ) -> Iterator[BlockRequest]:
        waiting: deque[tuple[int, PackedBlock]] = deque()
        sent = 0
        for block in blocks:
            tag = self._next_tag()
            started = time.monotonic()
            head = frames.pack_block(op, tag, disk, block.request) + frames.pack_content(block)
            self._line.write(head)
            self._line.write(block.payload)
            wrote(len(head) + len(block.payload), time.monotonic() - started)
            waiting.append((tag, block))
            sent += len(block.payload)
            while len(waiting) >= IN_FLIGHT or (sent > BYTES_IN_FLIGHT and len(waiting) > 1):
                sent -= len(waiting[0][1].payload)
                yield self._written(waiting)
        while waiting:
            yield self._written(waiting)

    def _written(self, waiting: deque[tuple[int, PackedBlock]]) -> BlockRequest:
        tag, block = waiting.popleft()
        answer, said = self._answer(tag)
        frames.refuse(answer, said, "The machine could not write")
        if answer.digest != block.digest:
            raise TransportError("The writer on the machine answered for another block")
        return block.request

    def hash_blocks(
        self, disk: int, requests: Iterable[BlockRequest]
    ) -> Iterator[tuple[BlockRequest, bytes]]:
        """The digests of what is on the disk now, each of a block with zeros outside its pairs."""
        waiting: deque[tuple[int, BlockRequest]] = deque()
        for request in requests:
            tag = self._next_tag()
            self._line.write(frames.pack_block(WriterOp.HASH, tag, disk, request))
            waiting.append((tag, request))
            if len(waiting) >= IN_FLIGHT:
                yield self._hashed(waiting)
        while waiting:
            yield self._hashed(waiting)

    def _hashed(self, waiting: deque[tuple[int, BlockRequest]]) -> tuple[BlockRequest, bytes]:
        tag, request = waiting.popleft()
        answer, said = self._answer(tag)
        frames.refuse(answer, said, "The machine could not read its disk")
        return request, answer.digest

    def clear(self, disk: int, offset: int, length: int, kind: Clear) -> bool:
        """Have a range forgotten or made zero; False where the disk cannot forget."""
        tag = self._next_tag()
        self._line.write(frames.pack_clear(tag, disk, offset, length, kind))
        return self._json(tag, "The machine could not clear its disk").get("done") is True

    def flush(self, disk: int) -> None:
        """All that was written is on the disk when this returns, and is read from there afterwards."""
        tag = self._next_tag()
        self._line.write(frames.pack(WriterOp.FLUSH, tag, disk))
        self._json(tag, "The machine could not write out what it holds in memory")

    def reread(self, disk: int) -> bool:
        """Whether the kernel over there looked at the partition table again."""
        tag = self._next_tag()
        self._line.write(frames.pack(WriterOp.REREAD, tag, disk))
        return self._json(tag, "The machine could not read its partition table").get("done") is True

    def quit(self) -> None:
        self._line.write(frames.pack(WriterOp.QUIT, 0))

    @property
    def packs(self) -> Codec:
        """How blocks are compressed for this writer."""
        return Codec.ZSTD if "zstd" in self.codecs else Codec.ZLIB

    def _next_tag(self) -> int:
        return next(self._tags) & 0xFFFFFFFF

    def _answer(self, tag: int) -> tuple[Answer, bytes]:
        answer = frames.parse_answer(self._exactly(RESPONSE.size))
        if answer.tag != tag:
            raise TransportError("The writer on the machine answered a question that was not asked")
        return answer, self._exactly(answer.size)

    def _json(self, tag: int, what: str) -> dict[str, object]:
        answer, said = self._answer(tag)
        if answer.status is not WriterStatus.OK:
            frames.refuse(answer, said, what)
        try:
            value = json.loads(said)
        except ValueError as error:
            raise TransportError("The writer on the machine answered something that is not JSON") from error
        if not isinstance(value, dict):
            raise TransportError("The writer on the machine answered JSON that is not an object")
        return value

    def _exactly(self, size: int) -> bytes:
        view = bytearray(size)
        self._line.readinto(memoryview(view))
        return bytes(view)
