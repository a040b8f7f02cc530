"""Packets of an SSH connection, taken off the line with less work than paramiko's own reading.

Of a capture, nearly everything that arrives is data of one channel in packets of 32 KiB. paramiko copies each
of them six times and asks two timers about it; here it is decrypted where it lies and handed on as it is.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from typing import Any

import paramiko
from paramiko.buffered_pipe import PipeTimeout
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from p2v.model import GiB, KiB, MiB
from p2v.transports.ssh_wire import Wire

WINDOW = 16 * MiB
PACKET = 256 * KiB
# Far below what RFC 4344 section 3.2 and RFC 5647 allow for AES. paramiko renews keys every 512 MiB.
REKEY_BYTES = 4 * GiB

LENGTH = struct.Struct("!I")
DATA = struct.Struct("!BBII")
"""Of a decrypted packet: length of the padding, kind, number of the channel, length of the data."""

CHANNEL_DATA = 94  # RFC 4254 section 5.2
WINDOW_ADJUST = bytes([93])
TAG_SIZE = 16
BLOCK = 16
LARGEST = PACKET + KiB
"""The largest packet that we asked for, with its head and padding (RFC 4253 section 6)."""

WAKE_SIZE = 256 * KiB
"""A reader that wants more is woken when so much has come."""


class ChunkPipe:
    """Received data as the pieces it came in; stands in for paramiko's `BufferedPipe`.

    paramiko's own buffer is one array, moved to the front at each read: a large window makes it slow. It also
    takes whatever is sent; here a server that ignores the window is cut off.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._chunks: deque[bytes | memoryview] = deque()
        self._first_at = 0
        self._size = 0
        self._wanted = 1
        self._ended = False

    def feed(self, data: bytes | memoryview | str) -> None:
        piece = data.encode() if isinstance(data, str) else data
        with self._ready:
            if self._size + len(piece) > 2 * WINDOW:
                raise paramiko.SSHException("The server sends more than was asked for")
            if piece:
                self._chunks.append(piece)
                self._size += len(piece)
                if self._size >= self._wanted:
                    self._ready.notify_all()

    def read_ready(self) -> bool:
        return self._size > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """At most `nbytes`, at least one; empty at the end of the data. Raises PipeTimeout."""
        with self._ready:
            self._wait(1, timeout)
            return bytes(self._take(nbytes)) if self._size else b""

    def read_into(self, view: memoryview, timeout: float | None = None, *, wake: int = 1) -> int:
        """Fill the view with what is there, and return its size: 0 at the end of the data. Raises
        PipeTimeout.

        Waits for `wake` bytes, as long as some keep coming: a thread that is woken for each packet costs more
        than the packet.
        """
        done = 0
        for piece in self._pieces(len(view), timeout, wake):
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _pieces(self, size: int, timeout: float | None, wake: int) -> list[bytes | memoryview]:
        taken: list[bytes | memoryview] = []
        with self._ready:
            self._wait(min(wake, size), timeout)
            while self._size and size:
                piece = self._take(size)
                taken.append(piece)
                size -= len(piece)
        return taken

    def _wait(self, wanted: int, timeout: float | None) -> None:
        while self._size < wanted and not self._ended:
            before, self._wanted = self._size, wanted
            self._ready.wait_for(lambda: self._size >= wanted or self._ended, timeout)
            self._wanted = 1
            if self._size == before and not self._ended:
                raise PipeTimeout

    def _take(self, nbytes: int) -> bytes | memoryview:
        first = self._chunks[0]
        piece = first[self._first_at : self._first_at + nbytes]
        self._first_at += len(piece)
        self._size -= len(piece)
        if self._first_at == len(first):
            self._chunks.popleft()
            self._first_at = 0
        return piece

    def empty(self) -> bytes:
        with self._ready:
            pieces = []
            while self._size:
                pieces.append(self._take(self._size))
            return b"".join(pieces)

    def close(self) -> None:
        with self._ready:
            self._ended = True
            self._ready.notify_all()

    def __len__(self) -> int:
        return self._size


class DataMessage(Message):
    """Data of a channel: what paramiko asks of it are the number of the channel, and the data."""

    def __init__(self, packet: bytes, payload_end: int) -> None:
        _, _, self._channel, size = DATA.unpack_from(packet)
        if DATA.size + size > payload_end:
            raise paramiko.SSHException("A packet announces more data than it has")
        self._data = memoryview(packet)[DATA.size : DATA.size + size]

    def get_int(self) -> int:
        return int(self._channel)

    def get_binary(self) -> memoryview:  # type: ignore[override]
        return self._data

    def asbytes(self) -> bytes:
        return LENGTH.pack(self._channel) + LENGTH.pack(len(self._data)) + bytes(self._data)


class Packets(Packetizer):
    """Reads packets under AES-GCM (RFC 5647) by itself, and leaves all others to paramiko."""

    REKEY_BYTES = REKEY_BYTES

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)  # type: ignore[arg-type]
        self._wire = wire
        self._engine: Any = None
        self._fixed, self._counter = b"", 0
        self._bytes, self._packets, self._beyond = 0, 0, 0
        self._number = 0
        self._settled = False

    def complete_handshake(self) -> None:
        """paramiko says so after each packet; once is enough."""
        if not self._settled:
            super().complete_handshake()
            self._settled = True

    def reset_seqno_in(self) -> None:
        """What paramiko calls after each change of keys where both sides know the strict exchange."""
        super().reset_seqno_in()
        self._number = 0

    def set_inbound_cipher(self, block_engine: Any, *rest: Any, **named: Any) -> None:
        """What paramiko calls at each change of keys; `aead` and `iv_in` are among the named ones."""
        super().set_inbound_cipher(block_engine, *rest, **named)
        iv = named.get("iv_in") or b""
        self._engine = block_engine if named.get("aead") and len(iv) == 12 else None
        self._fixed, self._counter = iv[:4], int.from_bytes(iv[4:], "big")
        self._bytes, self._packets, self._beyond = 0, 0, 0

    def read_message(self) -> tuple[int, Message]:
        """The next packet: its kind and what is in it. Raises SSHException, EOFError, NeedRekeyException."""
        if self._engine is None:
            found = super().read_message()
            self._number += 1
            return found
        packet = self._next_packet()
        end = len(packet) - packet[0]
        if end < 2:
            raise paramiko.SSHException("A packet is nothing but padding")
        kind = packet[1]
        if kind == CHANNEL_DATA and end >= DATA.size:
            return kind, DataMessage(packet, end)
        message = Message(packet[2:end])
        message.seqno = self._number - 1
        return kind, message

    def _next_packet(self) -> bytes:
        """Decrypted, without its length; the first byte is the length of the padding at its end."""
        (size,) = LENGTH.unpack(self._peek(LENGTH.size, check_rekey=True))
        if size > LARGEST or size < BLOCK or size % BLOCK:
            raise paramiko.SSHException(f"The server sends a packet of {size} bytes")
        whole = self._peek(LENGTH.size + size + TAG_SIZE, check_rekey=False)
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        packet: bytes = self._engine.decrypt(nonce, whole[LENGTH.size :], whole[: LENGTH.size])
        self._wire.skip(len(whole))
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        self._count(len(whole))
        return packet

    def _peek(self, size: int, *, check_rekey: bool) -> memoryview:
        """Wait for so many bytes; the socket returns every now and then, so that others are heard."""
        while True:
            if self._wire.waiting < size and self.handshake_timed_out():
                raise EOFError
            try:
                return self._wire.peek(size)
            except (TimeoutError, BlockingIOError):
                if self.closed:
                    raise EOFError from None
                if check_rekey and not self._wire.waiting and self.need_rekey():
                    raise NeedRekeyException from None
                self._check_keepalive()  # type: ignore[attr-defined]
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise

    def _count(self, size: int) -> None:
        """Ask for other keys when it is time, and end a connection whose server gives none."""
        self._number += 1
        self._bytes += size
        self._packets += 1
        if self.need_rekey():
            self._beyond += size
            if self._beyond >= self.REKEY_BYTES_OVERFLOW_MAX:
                raise paramiko.SSHException("The server gives no new keys")
        elif self._bytes >= self.REKEY_BYTES or self._packets >= self.REKEY_PACKETS:
            self._trigger_rekey()  # type: ignore[attr-defined]


def received(channel: paramiko.Channel, view: memoryview) -> int:
    """Fill the view with what has come on a channel that has our buffers; 0 at the end.

    As `Channel.recv` does it, for as many packets as there are. Raises TimeoutError, OSError, SSHException.
    """
    pipe = channel.in_buffer
    if not isinstance(pipe, ChunkPipe):
        piece = channel.recv(len(view))
        view[: len(piece)] = piece
        return len(piece)
    try:
        size = pipe.read_into(view, channel.timeout, wake=WAKE_SIZE)
    except PipeTimeout:
        raise TimeoutError from None
    room = channel._check_add_window(size)  # type: ignore[attr-defined]
    if room > 0:
        message = Message()
        message.add_byte(WINDOW_ADJUST)
        message.add_int(channel.remote_chanid)
        message.add_int(room)
        channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]
    return size
