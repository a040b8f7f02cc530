"""An SSH connection to a source: run commands with limits, open streams, know whether to say `sudo`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import paramiko

from p2v.errors import ConnectionLost, TransportError
from p2v.model import MiB
from p2v.transports.ssh_auth import printable
from p2v.transports.ssh_config import HostKeyPolicy, SshAddress, SshOptions, parse_address
from p2v.transports.ssh_connect import Connection, connect
from p2v.transports.ssh_paramiko import shut
from p2v.transports.ssh_stream import BROKEN, STALL_SECONDS, Stream
from p2v.transports.ssh_wire import close_quietly, start_thread, within

__all__ = (
    "CommandResult",
    "HostKeyPolicy",
    "SshAddress",
    "SshOptions",
    "SshSession",
    "Stream",
    "open_session",
    "parse_address",
)

OUTPUT_LIMIT = 16 * MiB
STDERR_LIMIT = 64 * 1024
OPEN_SECONDS = 30.0
PROBE_SECONDS = 30.0
POLL_SECONDS = 0.1
SHOWN_COMMAND = 80


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a remote command left: -1 stands for the end by a signal; `stderr` is its last 64 KiB."""

    code: int
    stdout: bytes
    stderr: str


@contextlib.contextmanager
def open_session(address: SshAddress, options: SshOptions) -> Iterator[SshSession]:
    """Connect and log in; the connection ends with the block, whatever its state, within seconds.

    Raises TransportError with the reason and the next thing to try.
    """
    with connect(address, options) as connection:
        yield SshSession(connection)


class SshSession:
    """A logged-in connection. Several threads may run commands and streams on it at once.

    OpenSSH allows ten at a time (MaxSessions).
    """

    def __init__(self, connection: Connection) -> None:
        self._transport = connection.transport
        self._hop = connection.hop

    @property
    def place(self) -> str:
        """`user@host:port` as it was reached."""
        return f"{self._hop.user}@{self._hop.place}"

    @property
    def host(self) -> str:
        return self._hop.host

    @property
    def server_version(self) -> str:
        """How the server names itself before anybody has logged in: `SSH-2.0-OpenSSH_9.2`."""
        return str(self._transport.remote_version)

    @property
    def cipher(self) -> str:
        """The negotiated cipher from the source to here."""
        return self._transport.cipher

    @cached_property
    def user_is_root(self) -> bool:
        """Whether the login is uid 0. Raises TransportError where `id` does not say."""
        result = self.run("id -u", timeout=PROBE_SECONDS)
        # The last word: a login script may talk before.
        words = result.stdout.split()
        if result.code != 0 or not words or not words[-1].isdigit():
            raise TransportError(
                f"{self.place} does not tell its user number: {printable(result.stderr) or 'no answer'}",
                hint="Is it a Unix system with a usual shell? Try: ssh HOST id -u",
            )
        return int(words[-1]) == 0

    @cached_property
    def privilege_prefix(self) -> str:
        """What stands before a command that needs root: nothing, or `sudo -n `. Raises TransportError."""
        if self.user_is_root:
            return ""
        result = self.run("sudo -n true", timeout=PROBE_SECONDS)
        if result.code == 0:
            return "sudo -n "
        user = self._hop.user
        raise TransportError(
            f"{user} on {self._hop.place} is not root, and sudo does not work without a password: "
            f"{printable(result.stderr) or 'no reason given'}",
            hint=f"Try: ssh://root@{self._hop.place}, or on the source: "
            f"echo '{user} ALL=(root) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/p2v",
        )

    def run(
        self, command: str, *, timeout: float, input: bytes = b"", output_limit: int = OUTPUT_LIMIT
    ) -> CommandResult:
        """Run a command to its end, `input` on its standard input, and return what it said.

        `timeout` is seconds for all of it, `output_limit` bytes of standard output.
        Raises TransportError when a limit is passed, ConnectionLost when the line breaks.
        """
        run = CommandRun(self, command, time.monotonic() + timeout, output_limit)
        with self._channel(command, min(timeout, OPEN_SECONDS)) as channel:
            channel.settimeout(min(timeout, POLL_SECONDS))
            return run.finish(channel, input)

    @contextlib.contextmanager
    def open_stream(self, command: str, *, stall_timeout: float = STALL_SECONDS) -> Iterator[Stream]:
        """A command with an open line; both end with the block. Raises ConnectionLost from its methods."""
        with self._channel(command, OPEN_SECONDS) as channel:
            yield Stream(channel, self.place, stall_timeout=stall_timeout)

    @contextlib.contextmanager
    def _channel(self, command: str, seconds: float) -> Iterator[paramiko.Channel]:
        channel = self._open_channel(seconds)
        try:
            self._start(channel, command, seconds)
            yield channel
        finally:
            if not close_quietly(channel.close):
                self.abandon()

    def _open_channel(self, seconds: float) -> paramiko.Channel:
        try:
            return self._transport.open_channel("session", timeout=seconds)
        except paramiko.ChannelException as error:
            raise TransportError(
                f"{self.place} allows no further command on this connection: {printable(error.text)}",
                hint="Check MaxSessions in /etc/ssh/sshd_config on the source",
            ) from error
        except BROKEN as error:
            raise self.lost() from error

    def _start(self, channel: paramiko.Channel, command: str, seconds: float) -> None:
        try:
            # paramiko waits for the answer without any limit.
            within(seconds, lambda: channel.exec_command(command))
        except TimeoutError as error:
            raise ConnectionLost(f"{self.place} did not start a command within {seconds:.0f} s") from error
        except BROKEN as error:
            if not self._transport.is_active():
                raise self.lost() from error
            raise TransportError(
                f"{self.place} refuses to run commands", hint="Does its user have a shell? Try: ssh HOST true"
            ) from error

    def connected(self) -> bool:
        return bool(self._transport.is_active())

    def lost(self) -> ConnectionLost:
        return ConnectionLost(f"The connection to {self.place} was lost", hint="Try: p2v resume RUN")

    def abandon(self) -> None:
        """End the whole connection at once; everything that waits on it fails with ConnectionLost."""
        shut(self._transport)


class CommandRun:
    """One `SshSession.run` under way: collects both outputs and watches both limits."""

    def __init__(self, session: SshSession, command: str, deadline: float, output_limit: int) -> None:
        self._session = session
        self._command = command
        self._deadline = deadline
        self._started = time.monotonic()
        self._limit = output_limit
        self._stdout = bytearray()
        self._stderr = b""

    def finish(self, channel: paramiko.Channel, data: bytes) -> CommandResult:
        # Beside us: a command may say much before it takes all of its input. A command that takes none of it
        # (and ends) is no failure, so that this outcome is not asked for.
        start_thread(lambda: send_input(channel, data))
        while self._collect(channel):
            if len(self._stdout) > self._limit:
                raise TransportError(f"{self._what} said more than {self._limit} bytes")
            self._check_time()
        code = self._exit_code(channel)
        return CommandResult(code, bytes(self._stdout), self._stderr.decode(errors="replace"))

    @property
    def _what(self) -> str:
        return f"`{printable(self._command, SHOWN_COMMAND)}` on {self._session.place}"

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            limit = self._deadline - self._started
            raise TransportError(
                f"{self._what} did not finish within {limit:.0f} s",
                hint="Is the source overloaded? Try again",
            )

    def _collect(self, channel: paramiko.Channel) -> bool:
        """Take what has arrived; False at the end of the output."""
        try:
            while channel.recv_stderr_ready():
                self._stderr = (self._stderr + channel.recv_stderr(STDERR_LIMIT))[-STDERR_LIMIT:]
            piece = channel.recv(MiB)
        except TimeoutError:
            return True
        except BROKEN as error:
            raise self._session.lost() from error
        self._stdout += piece
        return bool(piece)

    def _exit_code(self, channel: paramiko.Channel) -> int:
        """Its exit code: the end of the output may come a moment before, and so may the last words."""
        while not channel.status_event.wait(POLL_SECONDS):
            self._check_time()
        while channel.recv_stderr_ready():
            self._collect(channel)
        if channel.exit_status < 0 and not self._session.connected():
            raise self._session.lost()
        return channel.exit_status


def send_input(channel: paramiko.Channel, data: bytes) -> None:
    """Everything, then the end of the input. The channel's time limit is for reading, so try again."""
    rest = memoryview(data)
    while rest:
        with contextlib.suppress(TimeoutError):
            sent = channel.send(bytes(rest[: 32 * 1024]))
            if sent == 0:
                return
            rest = rest[sent:]
    channel.shutdown_write()
