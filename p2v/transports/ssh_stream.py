"""A command on the source with an open line in both directions: one thread may write while another reads."""

from __future__ import annotations

import threading

import paramiko

from p2v.errors import ConnectionLost
from p2v.model import KiB, MiB
from p2v.transports.ssh_auth import printable
from p2v.transports.ssh_packets import WINDOW, received

STALL_SECONDS = 60.0
EXIT_SECONDS = 1.0
TAIL_BYTES = 4000
TAIL_READ = 64 * KiB
# OpenSSH takes packets of 32 KiB; a larger slice would be copied again for each of them.
WRITE_SLICE = 32 * KiB
READ_SLICE = 4 * MiB
WAKE_SIZE = 64 * KiB
"""Reads of less than this share packets."""

BROKEN = (paramiko.SSHException, OSError, EOFError)
"""What paramiko raises when the line is gone; its time limits are OSErrors, too."""


class Stream:
    """The standard input and output of a remote command. `place` names the source in errors.

    When no byte moves for `stall_timeout` seconds, or the line breaks, reads and writes raise ConnectionLost.
    """

    def __init__(self, channel: paramiko.Channel, place: str, *, stall_timeout: float) -> None:
        self._channel = channel
        self._place = place
        self._ahead = memoryview(b"")
        self._tail = b""
        self._tail_lock = threading.Lock()
        self.stall_after(stall_timeout)
        # paramiko opens the window for each tenth of it: a packet to send for every 1.6 MiB.
        channel.in_window_threshold = WINDOW // 4

    def stall_after(self, seconds: float) -> None:
        """From now on, so long without a byte is the end."""
        self._stall = seconds
        self._channel.settimeout(seconds)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Raises ConnectionLost."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self._send(bytes(view[:WRITE_SLICE])) :]

    def _send(self, piece: bytes) -> int:
        try:
            sent = self._channel.send(piece)
        except TimeoutError as error:
            raise self._stalled("took") from error
        except BROKEN as error:
            raise self._lost() from error
        if sent == 0:
            raise self._lost()
        return sent

    def finish_writing(self) -> None:
        """The command sees the end of its input."""
        try:
            self._channel.shutdown_write()
        except BROKEN as error:
            raise self._lost() from error

    def readinto(self, view: memoryview) -> None:
        """Fill the view. Raises ConnectionLost, also when the command ends before."""
        rest = memoryview(view).cast("B")
        while rest:
            if not self._ahead and len(rest) < WAKE_SIZE:
                # A packet as it came: small answers stand in it side by side.
                self._ahead = memoryview(self._receive(READ_SLICE))
                if not self._ahead:
                    raise self._lost()
            rest = rest[self._move(rest) :]

    def _move(self, view: memoryview) -> int:
        if not self._ahead:
            return self._receive_into(view)
        piece = self._taken(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def _receive_into(self, view: memoryview) -> int:
        """As much as is there, past paramiko's `recv`: its window is opened once for all of it."""
        self._drain()
        try:
            size = received(self._channel, view)
        except TimeoutError as error:
            raise self._stalled("sent") from error
        except BROKEN as error:
            raise self._lost() from error
        if size == 0:
            raise self._lost()
        return size

    def _taken(self, size: int) -> memoryview:
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece

    def read(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes; empty when the command has closed its output."""
        piece = bytes(self._taken(size)) or self._receive(size)
        if not piece and self._exit_code() is None and not self._connected():
            raise self._lost()
        return piece

    def _receive(self, size: int) -> bytes:
        self._drain()
        try:
            return self._channel.recv(min(size, READ_SLICE))
        except TimeoutError as error:
            raise self._stalled("sent") from error
        except BROKEN as error:
            raise self._lost() from error

    def wait(self, timeout: float) -> int:
        """The exit code of the command; -1 for one that a signal ended. Raises ConnectionLost."""
        self._channel.status_event.wait(timeout)
        code = self._exit_code()
        if code is not None:
            return code
        if self._channel.closed and self._connected():
            return -1
        raise self._lost()

    def _exit_code(self) -> int | None:
        known = self._channel.status_event.is_set() and self._channel.exit_status >= 0
        return self._channel.exit_status if known else None

    def _connected(self) -> bool:
        transport = self._channel.get_transport()
        return bool(transport.is_active())

    def stderr_tail(self) -> str:
        """The end of what the command wrote to its standard error, safe to print."""
        self._drain()
        text = self._tail.decode(errors="replace")
        return "\n".join(filter(None, (printable(line, TAIL_BYTES) for line in text.splitlines())))

    def _drain(self) -> None:
        """Take standard error off the line: what nobody reads would fill the window of the data."""
        with self._tail_lock:
            while self._channel.recv_stderr_ready():
                try:
                    piece = self._channel.recv_stderr(TAIL_READ)
                except BROKEN:
                    return
                self._tail = (self._tail + piece)[-TAIL_BYTES:]

    def _stalled(self, verb: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self._place} {verb} nothing for {self._stall:.0f} s",
            hint="Check the network between here and the source, then: p2v resume RUN",
        )

    def _lost(self) -> ConnectionLost:
        if self._connected():  # the exit code of a command comes a moment after the end of its output
            self._channel.status_event.wait(EXIT_SECONDS)
        code, said = self._exit_code(), self.stderr_tail()
        ended = f"The command on {self._place} ended early (exit code {code})"
        reason = f"The connection to {self._place} was lost" if code is None else ended
        return ConnectionLost(f"{reason}: {said}" if said else reason, hint="Try: p2v resume RUN")
