"""The answers of the shell on the source (`shell_scripts.DISK`), taken off the line and checked."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import zstandard

from p2v.disk.image_file import page_buffer
from p2v.errors import TransportError
from p2v.model import KiB, MiB
from p2v.transports.ssh_auth import printable

HEAD_SIZE = 18
TAIL_SIZE = 208
DIGEST_SIZE = 68

_HEAD = re.compile(rb"P2V> ([0-9]{10}) ([nzg])\n")
_TAIL = re.compile(rb"P2V< ([01]) ([^\n]{200})\n")
_DIGEST = re.compile(rb"([0-9a-f]{64})  -\n")

WINDOW = 8 * MiB
"""Largest window of a zstd frame: level 1 needs far less, and the frame says how much memory it wants."""

SLICE = KiB
"""Compressed bytes given to zstd at once: it takes no limit of what comes out, at most 32 MiB for so many."""


class Op(StrEnum):
    READ = "R"
    HASH = "H"


class Codec(StrEnum):
    PLAIN = "n"
    ZSTD = "z"
    GZIP = "g"


class Line(Protocol):
    """The two directions of an SSH channel; `read` gives what has come, `readinto` fills the view."""

    def write(self, data: bytes) -> None: ...

    def read(self, size: int) -> bytes: ...

    def readinto(self, view: memoryview) -> None: ...

    def stderr_tail(self) -> str: ...


class Incoming:
    """What comes from the shell. `taken` counts the bytes that were used so far."""

    def __init__(self, line: Line, took: Callable[[int], None] | None) -> None:
        self._line = line
        self._took = took
        self._ahead = b""
        self.taken = 0

    def exactly(self, size: int) -> bytes:
        return bytes(self._view(size))

    def _view(self, size: int) -> memoryview:
        view = page_buffer(size) if size >= 64 * KiB else memoryview(bytearray(size))
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        view[: len(ahead)] = ahead
        if len(ahead) < size:
            self._line.readinto(view[len(ahead) :])
            self._tell(size - len(ahead))
        self.taken += size
        return view

    def _tell(self, size: int) -> None:
        if self._took is not None:
            self._took(size)

    def _piece(self) -> bytes:
        """What has come, at most `SLICE` bytes; to be given back with `_give_back` where it is too much."""
        if not self._ahead:
            self._ahead = self._line.read(64 * KiB)
            self._tell(len(self._ahead))
            if not self._ahead:
                raise TransportError(f"The shell on the source ended: {self._line.stderr_tail()}")
        piece, self._ahead = self._ahead[:SLICE], self._ahead[SLICE:]
        self.taken += len(piece)
        return piece

    def _give_back(self, rest: bytes) -> None:
        self._ahead = rest + self._ahead
        self.taken -= len(rest)

    def content(self, codec: Codec, expected: int) -> bytes | memoryview:
        """The bytes of one answer, exactly `expected` of them. Raises TransportError where they are not."""
        match codec:
            case Codec.PLAIN:
                return self._view(expected)
            case Codec.ZSTD:
                return self._unpack(
                    zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj(), expected
                )
            case Codec.GZIP:
                return self._unpack(zlib.decompressobj(wbits=31), expected)

    def _unpack(self, unpacker: Unpacker, expected: int) -> memoryview:
        view, done = page_buffer(expected), 0
        try:
            while not unpacker.eof:
                data = unpacker.decompress(self._piece())
                if done + len(data) > expected:
                    raise TransportError(
                        f"The source sent more than the {expected} bytes that were asked for"
                    )
                view[done : done + len(data)] = data
                done += len(data)
        except (zlib.error, zstandard.ZstdError) as error:
            raise TransportError(f"The source sent damaged data: {error}") from error
        if done != expected:
            raise TransportError(f"The source sent {done} bytes instead of {expected}")
        self._give_back(unpacker.unused_data)
        return view

    def digest(self) -> bytes:
        found = _DIGEST.fullmatch(self.exactly(DIGEST_SIZE))
        if found is None:
            raise TransportError("The source answered something that is not a digest")
        return bytes.fromhex(found[1].decode())


class Unpacker(Protocol):
    """One frame of gzip or zstd."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def read_head(incoming: Incoming, tag: int, codec: Codec) -> None:
    """Raises TransportError unless the answer is the one that was asked for."""
    found = _HEAD.fullmatch(incoming.exactly(HEAD_SIZE))
    if found is None:
        raise TransportError("The shell on the source answered something that is not a frame")
    if int(found[1]) != tag or found[2].decode() != codec:
        raise TransportError("The shell on the source answered a question that was not asked")


def read_tail(incoming: Incoming) -> str | None:
    """None for a good answer, else what dd said of its read error."""
    found = _TAIL.fullmatch(incoming.exactly(TAIL_SIZE))
    if found is None:
        raise TransportError("The shell on the source answered something that is not a frame")
    return None if found[1] == b"0" else printable(found[2].decode("utf-8", "replace").strip())
