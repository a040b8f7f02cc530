"""The frames between the local side and the remote reader, and what is believed of an answer.

One table of constants, the same as in `remote_reader.py`, which runs elsewhere and cannot import this; a
test compares the two. Everything that arrives is hostile: sizes are checked before memory is given.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import zstandard

from p2v.errors import TransportError
from p2v.model import BLOCK_SIZE, MiB

MAGIC = b"\x00P2V1\x00"
REQUEST = struct.Struct("!BIHQII")
PAIR = struct.Struct("!II")
RESPONSE = struct.Struct("!BIBII32s")
MAX_LENGTH = 16 * MiB
"""Largest block of one request, bytes."""
MAX_COUNT = 65536
MAX_JSON = 16 * MiB
MAX_HELLO = 64 * 1024
_ZEROS = bytes(BLOCK_SIZE)


class Op(IntEnum):
    OPEN = 1
    READ = 2
    HASH = 3
    SYNC = 5
    QUIT = 6
    COMPOSE = 7


class Status(IntEnum):
    OK = 0
    ERROR = 1
    READ_ERROR = 2


class Codec(IntEnum):
    NONE = 0
    ZLIB = 1
    ZERO = 2
    ZSTD = 3


@dataclass(frozen=True, slots=True)
class Response:
    """The head of an answer; `payload_size` bytes follow it on the line."""

    status: Status
    tag: int
    codec: Codec
    raw_size: int
    payload_size: int
    digest: bytes


def pack_request(
    op: Op,
    tag: int,
    *,
    disk: int = 0,
    offset: int = 0,
    length: int = 0,
    pairs: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """One request; `pairs` are (start in the block, length) in bytes."""
    head = REQUEST.pack(op, tag, disk, offset, length, len(pairs))
    return head + b"".join(PAIR.pack(start, size) for start, size in pairs)


def pack_open(tag: int, path: str) -> bytes:
    name = path.encode("utf-8", "surrogateescape")
    return REQUEST.pack(Op.OPEN, tag, 0, 0, len(name), 0) + name


def pack_compose(tag: int, path: str, pieces: Sequence[tuple[int, int, str, int]]) -> bytes:
    """`pieces` are (start, length, path of another device, offset there) in bytes."""
    words = json.dumps([path, pieces]).encode()
    if len(words) > MAX_LENGTH:
        raise TransportError(f"{path} is made of too many pieces to be read with its snapshots")
    return REQUEST.pack(Op.COMPOSE, tag, 0, 0, len(words), 0) + words


def parse_response(head: bytes, *, limit: int) -> Response:
    """Read an answer's head. Raises TransportError for anything that is not one, or announces more than
    `limit`.
    """
    status, tag, codec, raw_size, payload_size, digest = RESPONSE.unpack(head)
    try:
        response = Response(Status(status), tag, Codec(codec), raw_size, payload_size, digest)
    except ValueError as error:
        raise TransportError("The reader on the source answered something that is not a frame") from error
    if raw_size > limit or payload_size > limit:
        raise TransportError(
            f"The reader on the source announced {max(raw_size, payload_size)} bytes, more than asked"
        )
    return response


def decode(response: Response, payload: bytes | memoryview, *, expected: int) -> bytes | memoryview:
    """The bytes behind a payload, exactly `expected` of them. Raises TransportError where they are not."""
    if response.raw_size != expected:
        raise TransportError(f"The reader on the source sent {response.raw_size} bytes instead of {expected}")
    data: bytes | memoryview
    match response.codec:
        case Codec.NONE:
            data = payload
        case Codec.ZERO:
            data = _zeros(expected)
        case Codec.ZLIB:
            data = _inflate(payload, expected)
        case Codec.ZSTD:
            data = _expand(payload, expected)
    if len(data) != expected:
        raise TransportError(f"The reader on the source sent {len(data)} bytes instead of {expected}")
    return data


def _zeros(size: int) -> memoryview:
    # The same ones each time: to clear fresh memory for every empty block takes longer than all the rest.
    return memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else memoryview(bytes(size))


def _inflate(payload: bytes | memoryview, expected: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than expected is enough to notice a bomb without filling memory with it.
        return inflater.decompress(payload, expected + 1)
    except zlib.error as error:
        raise TransportError(f"The reader on the source sent damaged data: {error}") from error


def _expand(payload: bytes | memoryview, expected: int) -> bytes:
    try:
        # The frame names its size, and the library takes that much memory: look first.
        if zstandard.frame_content_size(payload) != expected:
            raise TransportError("The reader on the source sent data of another size than it says")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise TransportError(f"The reader on the source sent damaged data: {error}") from error
