"""Lines that break: a proxy on the loopback that resets or swallows, and a server that comes back."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading
from collections.abc import Iterator

from p2v import command
from tests.sshd import Sshd, descendants, need, signal_all, wait_until_listening

POLL_SECONDS = 0.05


class Proxy:
    """Forwards to `port` until it is told otherwise; `forwarded` counts bytes from the server."""

    def __init__(self, port: int) -> None:
        self.forwarded = 0
        self._target = port
        self._broken = threading.Event()
        self._silent = threading.Event()
        self._cut_at: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Reset all connections once so many further bytes came from the server."""
        self._cut_at = self.forwarded + size

    def reset(self) -> None:
        """End the connections of this moment with RST, as a router does that has forgotten them."""
        self._broken.set()
        self._broken = threading.Event()

    def swallow(self) -> None:
        """Forward nothing more on the connections of this moment, and say nothing."""
        self._silent.set()
        self._silent = threading.Event()

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        broken, silent = self._broken, self._silent
        for source, sink, counts in ((client, server, False), (server, client, True)):
            # Never blocked in the kernel for long: a socket that a thread reads is not closed by another.
            source.settimeout(POLL_SECONDS)
            ends = (source, sink, broken, silent, counts)
            threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(
        self,
        source: socket.socket,
        sink: socket.socket,
        broken: threading.Event,
        silent: threading.Event,
        counts: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while not broken.is_set():
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if not silent.is_set():
                    send(sink, data, broken)
                    self._count(len(data) if counts else 0)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()

    def _count(self, size: int) -> None:
        self.forwarded += size
        if self._cut_at is not None and self.forwarded >= self._cut_at:
            self._cut_at = None
            self.reset()


def send(sink: socket.socket, data: bytes, broken: threading.Event) -> None:
    rest = memoryview(data)
    while rest and not broken.is_set():
        with contextlib.suppress(TimeoutError):
            rest = rest[sink.send(rest) :]


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    line = Proxy(port)
    try:
        yield line
    finally:
        line.close()


def kill(server: Sshd) -> None:
    """The server and everything that it started, without a goodbye."""
    signal_all((*server.sessions(), server.pid), signal.SIGKILL)


@contextlib.contextmanager
def again(server: Sshd) -> Iterator[None]:
    """The same server once more, on the same port and with the same keys."""
    argv = [
        need("sshd"),
        "-D",
        "-f",
        str(server.folder / "sshd_config"),
        "-E",
        str(server.folder / "sshd.log"),
    ]
    with command.start(argv) as child:
        wait_until_listening(server)
        try:
            yield
        finally:
            signal_all(descendants(child.pid), signal.SIGKILL)
