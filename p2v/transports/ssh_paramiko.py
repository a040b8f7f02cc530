"""paramiko, tuned for moving disks and repaired where it locks up or loses a connection.

Tuned: AES-GCM first, larger windows and packets, a receive buffer that does not move all of its content for
each read. Repaired: renewing keys, and the last words of a channel; both are told at `WireTransport`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict
from dataclasses import dataclass

import paramiko
from paramiko.message import Message

from p2v.transports.ssh_packets import PACKET, WINDOW, ChunkPipe, Packets
from p2v.transports.ssh_wire import Wire, close_quietly

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
