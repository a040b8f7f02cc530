"""Below the SSH session: the byte line to a server, and paramiko tuned for moving disks.

Four things differ from plain paramiko, each for a measured or met reason: AES-GCM and larger windows and
packets, a receive buffer that does not move its whole content for each read, rare key renewals that cannot
lock up, and a line that gives up where paramiko waits for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import paramiko
from paramiko.buffered_pipe import PipeTimeout
from paramiko.message import Message
from paramiko.packet import Packetizer

from p2v import command
from p2v.model import GiB, KiB, MiB

WINDOW = 16 * MiB
PACKET = 256 * KiB
# Far below what RFC 4344 section 3.2 and RFC 5647 allow for AES. paramiko renews keys every 512 MiB.
REKEY_BYTES = 4 * GiB

SEND_STALL_SECONDS = 60.0
CLOSE_SECONDS = 3.0
PROXY_WORDS = 2000

# Without CBC and 3DES, which paramiko would still offer.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
    "aes192-ctr",
)

T = TypeVar("T")


def quiet_paramiko() -> None:
    """Nothing of paramiko's own log may reach the terminal; what matters of it is in our errors."""
    logger = logging.getLogger("paramiko")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.propagate = False


def start_thread(call: Callable[[], T]) -> Future[T]:
    """Run a call beside us; its thread does not keep the process alive."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="p2v-ssh-call").start()
    return future


def within(seconds: float, call: Callable[[], T]) -> T:
    """Run a call that has no time limit of its own; raises TimeoutError and leaves it to its thread."""
    return start_thread(call).result(timeout=seconds)


def close_quietly(call: Callable[[], object]) -> bool:
    """Close something that may be broken already. False when it did not finish in time."""
    try:
        within(CLOSE_SECONDS, call)
    except TimeoutError:
        return False
    except Exception:
        return True
    return True


class Socket(Protocol):
    """What paramiko needs of a socket; a TCP socket, a channel through a jump host, a proxy command."""

    def send(self, data: bytes, /) -> int: ...

    def recv(self, size: int, /) -> bytes: ...

    def settimeout(self, seconds: float | None, /) -> None: ...

    def close(self) -> None: ...


class Wire:
    """A socket that reports a peer which takes no byte for `SEND_STALL_SECONDS`.

    paramiko retries a send for ever and holds its write lock meanwhile, so that nothing can be closed either.
    """

    def __init__(self, inner: Socket) -> None:
        self._inner = inner
        self._waiting_since: float | None = None
        self._closed = False  # paramiko reads this name

    def send(self, data: bytes) -> int:
        try:
            sent = self._inner.send(data)
        except (TimeoutError, BlockingIOError) as error:
            self._give_up_when_stalled(error)
            raise TimeoutError from error
        self._waiting_since = None
        return sent

    def _give_up_when_stalled(self, cause: OSError) -> None:
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > SEND_STALL_SECONDS:
            raise BrokenPipeError(f"nothing was taken for {SEND_STALL_SECONDS:.0f} s") from cause

    def recv(self, size: int) -> bytes:
        return self._inner.recv(size)

    def settimeout(self, seconds: float | None) -> None:
        self._inner.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        self._inner.close()


def tune_socket(line: socket.socket) -> None:
    """Send at once, and let the kernel end a connection whose peer has gone silent (Linux)."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_STALL_SECONDS * 1000))


class ProxyLine:
    """The user's ProxyCommand as a socket.

    The child is paramiko's (its words come from the user's own ssh_config); reading and writing are not, for
    paramiko's loop never notices that the child has ended.
    """

    def __init__(self, proxy_command: str) -> None:
        # `exec` in a shell, as ssh runs it.
        self._proxy = paramiko.ProxyCommand(f"/bin/sh -c {shlex.quote('exec ' + proxy_command)}")
        self._child = self._proxy.process
        self._in, self._out, self._err = (
            stream.fileno()
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr)
            if stream is not None
        )
        os.set_blocking(self._in, False)
        self._seconds: float | None = None
        self._said = b""
        self._err_open = True

    def words(self) -> str:
        """The end of what the command wrote to its standard error, be it after the end of its output."""
        while self._err_open and self._poll({self._err: select.POLLIN}):
            self._listen()
        return self._said.decode(errors="replace")

    def settimeout(self, seconds: float | None) -> None:
        self._seconds = seconds

    def send(self, data: bytes) -> int:
        if not self._poll({self._in: select.POLLOUT}):
            raise TimeoutError
        return os.write(self._in, data)

    def recv(self, size: int) -> bytes:
        wanted = {self._out: select.POLLIN}
        if self._err_open:
            wanted[self._err] = select.POLLIN
        ready = self._poll(wanted)
        if self._err in ready:
            self._listen()
        if self._out not in ready:
            raise TimeoutError
        return os.read(self._out, size)

    def _poll(self, wanted: dict[int, int]) -> set[int]:
        poll = select.poll()
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        milliseconds = None if self._seconds is None else self._seconds * 1000
        return {descriptor for descriptor, _ in poll.poll(milliseconds)}

    def _listen(self) -> None:
        said = os.read(self._err, PROXY_WORDS)
        self._err_open = bool(said)
        self._said = (self._said + said)[-PROXY_WORDS:]

    def close(self) -> None:
        command.stop(self._child)


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
        self._ended = False

    def feed(self, data: bytes | str) -> None:
        piece = data.encode() if isinstance(data, str) else data
        with self._ready:
            if self._size + len(piece) > 2 * WINDOW:
                raise paramiko.SSHException("The server sends more than was asked for")
            if piece:
                self._chunks.append(piece)
                self._size += len(piece)
                self._ready.notify_all()

    def read_ready(self) -> bool:
        with self._ready:
            return self._size > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """At most `nbytes`, at least one; empty at the end of the data. Raises PipeTimeout."""
        with self._ready:
            if not self._ready.wait_for(lambda: self._size > 0 or self._ended, timeout):
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


class WireTransport(paramiko.Transport):
    """One SSH connection, tuned. Compression stays off: the reader compresses what compresses."""

    def __init__(self, wire: Wire) -> None:
        # Before the base class: it stores bound methods in its table of handlers.
        self._held: list[Message] = []
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
        # While keys are renewed, user messages wait. paramiko lets its own reading thread wait too (when it
        # answers the close of a channel), and then nobody is left to finish the renewal.
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._held.append(data)
        else:
            super()._send_user_message(data)  # type: ignore[misc]

    def _parse_channel_open_success(self, m: Message) -> None:
        # On the thread that receives, before the channel can: a server behind a jump host talks first.
        for channel in self._channels.values():  # type: ignore[attr-defined]
            use_chunks(channel)
        super()._parse_channel_open_success(m)  # type: ignore[misc]

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        held, self._held = self._held, []
        for message in held:
            self._send_user_message(message)


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
