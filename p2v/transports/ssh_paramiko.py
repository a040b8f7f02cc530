"""paramiko, tuned for moving disks and repaired where it locks up or loses a connection.

Tuned: AES-GCM first, larger windows and packets, a receive buffer that does not move all of its content for
each read. Repaired: renewing keys, and the last words of a channel; both are told at `WireTransport`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict, deque
from dataclasses import dataclass

import paramiko
from paramiko.buffered_pipe import PipeTimeout
from paramiko.message import Message
from paramiko.packet import Packetizer

from p2v.model import GiB, KiB, MiB
from p2v.transports.ssh_wire import Wire, close_quietly

WINDOW = 16 * MiB
PACKET = 256 * KiB
# Far below what RFC 4344 section 3.2 and RFC 5647 allow for AES. paramiko renews keys every 512 MiB.
REKEY_BYTES = 4 * GiB

# Without CBC and 3DES, which paramiko would still offer.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
    "aes192-ctr",
)

# Messages whose first field is the receiver's number of the channel (RFC 4254 section 9).
WINDOW_ADJUST, CHANNEL_CLOSE, CHANNEL_FAILURE = 93, 97, 100


def quiet_paramiko() -> None:
    """Nothing of paramiko's own log may reach the terminal; what matters of it is in our errors."""
    logger = logging.getLogger("paramiko")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.propagate = False


class ChunkPipe:
    """Received data as the pieces it came in; stands in for paramiko's `BufferedPipe`.

    paramiko's own buffer is one array, moved to the front at each read: a large window makes it slow. It also
    takes whatever is sent; here a server that ignores the window is cut off.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._first_at = 0
        self._size = 0
        self._wanted = 1
        self._ended = False

    def want(self, size: int) -> None:
        """The next read waits for so many bytes, as long as some keep coming: a thread that is woken for each
        packet costs more than the packet.
        """
        self._wanted = size

    def feed(self, data: bytes | str) -> None:
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
        with self._ready:
            return self._size > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """At most `nbytes`, at least one; empty at the end of the data. Raises PipeTimeout."""
        with self._ready:
            wanted, self._wanted = self._wanted, 1
            while self._size < wanted and not self._ended:
                before, self._wanted = self._size, wanted
                self._ready.wait_for(lambda: self._size >= wanted or self._ended, timeout)
                self._wanted = 1
                if self._size == before and not self._ended:
                    raise PipeTimeout
            return self._take(nbytes) if self._size else b""

    def _take(self, nbytes: int) -> bytes:
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
        with self._ready:
            return self._size


class Packets(Packetizer):
    REKEY_BYTES = REKEY_BYTES


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which channel (the server's number, -1 for none) a message is for, and in which of its lives."""

    channel: int
    life: int
    closes: bool


class WireTransport(paramiko.Transport):
    """One SSH connection, tuned. Compression stays off: the reader compresses what compresses.

    Two things go wrong in plain paramiko, and end the connection of every disk that uses it:

    * While keys are renewed, messages of the user wait. Its own receiving thread waits, too, when it answers
      the close of a channel, and then nobody is left to finish the renewal. Here that answer is held back.
    * A thread may send data, or the end of it, on a channel whose close another thread has just answered;
      OpenSSH ends the connection for that. Here such a message is dropped.
    """

    def __init__(self, wire: Wire) -> None:
        # Before the base class: it stores bound methods in its table of handlers.
        self._held: list[tuple[Ticket, Message]] = []
        # Per channel, up by one at its opening and at its close: odd while it is closed again.
        self._lives: defaultdict[int, int] = defaultdict(int)
        self._order = threading.Lock()
        super().__init__(
            wire,  # type: ignore[arg-type]
            default_window_size=WINDOW,
            default_max_packet_size=PACKET,
            packetizer_class=Packets,
        )
        options = self.get_security_options()
        options.ciphers = tuple(name for name in CIPHERS if name in options.ciphers)
        options.compression = ("none",)

    @property
    def cipher(self) -> str:
        """The negotiated cipher of what comes in."""
        return str(self.remote_cipher)  # type: ignore[attr-defined]

    def prefer_key_kinds(self, kinds: tuple[str, ...]) -> None:
        """Ask first for the host key types (`ssh-rsa`, …) that the server is known by."""
        options = self.get_security_options()
        names = tuple(options.key_types)
        first = [name for name in names if key_kind(name) in kinds]
        options.key_types = (*first, *(name for name in names if name not in first))

    def _send_user_message(self, data: Message) -> None:
        ticket = self._ticket(data.asbytes()[:5])
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._held.append((ticket, data))
        else:
            self._deliver(ticket, data)

    def _ticket(self, start: bytes) -> Ticket:
        if not WINDOW_ADJUST <= start[0] <= CHANNEL_FAILURE:
            return Ticket(-1, 0, closes=False)
        channel = int.from_bytes(start[1:], "big")
        return Ticket(channel, self._lives[channel], closes=start[0] == CHANNEL_CLOSE)

    def _deliver(self, ticket: Ticket, data: Message) -> None:
        # No deadlock: the receiving thread comes here only while sending is clear, so nobody waits for it.
        with self._order:
            if ticket.life % 2 or ticket.life != self._lives[ticket.channel]:
                return
            super()._send_user_message(data)  # type: ignore[misc]
            if ticket.closes:
                self._lives[ticket.channel] += 1

    def _parse_channel_open_success(self, m: Message) -> None:
        # On the thread that receives, before the channel can: a server behind a jump host talks first.
        for channel in self._channels.values():  # type: ignore[attr-defined]
            use_chunks(channel)
        _ours, theirs = m.get_int(), m.get_int()
        m.rewind()
        self._lives[theirs] += self._lives[theirs] % 2
        super()._parse_channel_open_success(m)  # type: ignore[misc]

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        held, self._held = self._held, []
        for ticket, message in held:
            self._deliver(ticket, message)


def key_kind(algorithm: str) -> str:
    """The key type of a signature algorithm: all of RSA's use `ssh-rsa` keys (RFC 8332 section 3)."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def use_chunks(channel: paramiko.Channel) -> None:
    """Give a channel our receive buffers, unless it has them."""
    if not isinstance(channel.in_buffer, ChunkPipe):
        channel.in_buffer = ChunkPipe()  # type: ignore[assignment]
        channel.in_stderr_buffer = ChunkPipe()  # type: ignore[assignment]


def shut(transport: paramiko.Transport) -> None:
    """End a connection, whatever state it is in, in bounded time."""
    # A handshake that failed leaves a timer thread behind, for which the process would wait at its end.
    with contextlib.suppress(Exception):
        transport.packetizer.complete_handshake()
    close_quietly(transport.close)
