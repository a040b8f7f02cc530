"""The byte line below an SSH connection: a socket, a channel through a jump host, or a proxy command.

Each gives up where paramiko would wait for ever; so do the helpers that put a limit on calls without one.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import paramiko

from p2v import command
from p2v.model import KiB

SEND_STALL_SECONDS = 60.0
CLOSE_SECONDS = 3.0
PROXY_WORDS = 2000
READ_AHEAD = 512 * KiB
"""One question of the kernel serves several packets; more than the largest of them."""

SMALL_PIECE = 4 * KiB
"""Less than this is words, not data of a disk."""

T = TypeVar("T")


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
    """A socket that reads ahead, and reports a peer which takes no byte for `SEND_STALL_SECONDS`.

    paramiko retries a send for ever and holds its write lock meanwhile, so that nothing can be closed either.
    """

    def __init__(self, inner: Socket) -> None:
        self._inner = inner
        self._waiting_since: float | None = None
        self._ahead = memoryview(bytearray(READ_AHEAD))
        self._from = 0
        self._to = 0
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
        if self._from == self._to and not self._read_on(1):
            return b""
        piece = bytes(self._ahead[self._from : min(self._to, self._from + size)])
        self._from += len(piece)
        return piece

    @property
    def waiting(self) -> int:
        """How many bytes were read ahead."""
        return self._to - self._from

    def peek(self, size: int) -> memoryview:
        """The next `size` bytes, at most READ_AHEAD, good until the next call; `skip` takes them.

        Raises TimeoutError when the socket does, and keeps what has come; EOFError at the end of the line.
        """
        while self._to - self._from < size:
            if not self._read_on(size):
                raise EOFError
        return self._ahead[self._from : self._from + size]

    def skip(self, size: int) -> None:
        self._from += size

    def _read_on(self, wanted: int) -> int:
        """Read what there is, with room for `wanted` bytes in a row; its size, 0 at the end of the line."""
        if self._from == self._to:
            self._from = self._to = 0
        elif self._from + wanted > READ_AHEAD:
            rest = self.waiting
            self._ahead[:rest] = self._ahead[self._from : self._to]
            self._from, self._to = 0, rest
        got = self._receive(self._ahead[self._to :])
        self._to += got
        return got

    def _receive(self, room: memoryview) -> int:
        if isinstance(self._inner, socket.socket):
            got = self._inner.recv_into(room)
            if got < SMALL_PIECE:
                acknowledge(self._inner)
            return got
        piece = self._inner.recv(len(room))
        room[: len(piece)] = piece
        return len(piece)

    def settimeout(self, seconds: float | None) -> None:
        self._inner.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        self._inner.close()


def acknowledge(line: socket.socket) -> None:
    """Say at once what has come (Linux): sshd sends its next small packet only then (RFC 896), for it has not
    asked for anything else, and the kernel would wait 40 ms for words of ours to say it with.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


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
