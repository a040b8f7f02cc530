"""The frames between the local side and the remote writer, and what is believed of an answer.

One table of constants, the same as in `remote_writer.py`, which runs elsewhere and cannot import this; a
test compares the two.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum

from p2v.disk.device import BlockRequest
from p2v.errors import PlanRefused, TransportError, VerifyError
from p2v.transports.frames import MAX_JSON, PAIR, REQUEST, RESPONSE, Codec

CONTENT = struct.Struct("!BI32s")
SPAN = struct.Struct("!QB")


class DiskBusy(PlanRefused):
    """Somebody uses a disk; after a lost connection perhaps the writer of before, which ends soon."""


class WriterOp(IntEnum):
    OPEN = 1
    HASH = 3
    QUIT = 6
    WRITE = 8
    CLEAR = 9
    FLUSH = 10
    REREAD = 11
    TRY = 12


class WriterStatus(IntEnum):
    OK = 0
    ERROR = 1
    DIFFERS = 3
    REFUSED = 4
    BUSY = 5


class Clear(IntEnum):
    """What becomes of a range: the disk may forget what is there, or it becomes zero."""

    FORGET = 0
    ZERO = 1


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A block on its way to a disk: `payload` unpacks to the bytes of the request's pairs, joined.

    `digest` is the SHA-256 of the block in which everything outside the pairs is zero. A block of nothing but
    zeros has no payload.
    """

    request: BlockRequest
    codec: Codec
    payload: bytes | memoryview
    digest: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer; `size` bytes follow it on the line."""

    status: WriterStatus
    tag: int
    size: int
    digest: bytes


def pack(op: WriterOp, tag: int, disk: int = 0, offset: int = 0) -> bytes:
    """A request without pairs and content."""
    return REQUEST.pack(op, tag, disk, offset, 0, 0)


def pack_open(tag: int, path: str, size: int, serial: str, wwn: str) -> bytes:
    words = json.dumps({"path": path, "size": size, "serial": serial, "wwn": wwn}).encode()
    return REQUEST.pack(WriterOp.OPEN, tag, 0, 0, len(words), 0) + words


def pack_clear(tag: int, disk: int, offset: int, length: int, kind: Clear) -> bytes:
    return pack(WriterOp.CLEAR, tag, disk, offset) + SPAN.pack(length, kind)


def pack_block(op: WriterOp, tag: int, disk: int, request: BlockRequest) -> bytes:
    """A request for the pairs of a block; the content of a write follows."""
    head = REQUEST.pack(op, tag, disk, request.offset, request.length, len(request.pairs))
    return head + b"".join(PAIR.pack(start, size) for start, size in request.pairs)


def pack_content(block: PackedBlock) -> bytes:
    """What stands before the payload."""
    return CONTENT.pack(block.codec, len(block.payload), block.digest)


def parse_answer(head: bytes) -> Answer:
    """Raises TransportError for anything that is not an answer."""
    status, tag, _codec, _raw, size, digest = RESPONSE.unpack(head)
    try:
        answer = Answer(WriterStatus(status), tag, size, digest)
    except ValueError as error:
        raise TransportError("The writer on the machine answered something that is not a frame") from error
    if size > MAX_JSON:
        raise TransportError(f"The writer on the machine announced {size} bytes")
    return answer


def refuse(answer: Answer, said: bytes, what: str) -> None:
    """Raise what an answer that is not OK means.

    PlanRefused: the disk is another one or in use, nothing was written. VerifyError: a block did not arrive
    as it was sent. TransportError: the disk cannot be written or read.
    """
    words = "".join(char for char in said[:500].decode("utf-8", "replace") if char.isprintable())
    match answer.status:
        case WriterStatus.OK:
            return
        case WriterStatus.BUSY:
            raise DiskBusy(words, hint="Is the machine started from the rescue system? p2v rescue build")
        case WriterStatus.REFUSED:
            raise PlanRefused(words, hint="Look at what is there: p2v scan ssh://RESCUE")
        case WriterStatus.DIFFERS:
            raise VerifyError(f"{what}: {words}", hint="Try: p2v resume RUN")
        case WriterStatus.ERROR:
            raise TransportError(f"{what}: {words}", hint="Is the disk sound? On the machine: dmesg | tail")
