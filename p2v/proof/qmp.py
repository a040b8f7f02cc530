"""The control line to a running QEMU: the QEMU Machine Protocol, JSON lines over a Unix socket.

https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 20.0
LINE_LIMIT = 1024 * 1024
POLL_SECONDS = 0.05


class QmpError(Exception):
    """QEMU refused a command, hung up or did not answer. The callers turn it into a verdict."""


class Qmp:
    """A connected control line. Commands are asked one at a time; of the events, only the last
    shutdown's reason is kept."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reader = line.makefile("rb")
        self.shutdown_reason = ""

    def close(self) -> None:
        self._reader.close()

    def greet(self) -> None:
        """Take QEMU's greeting and leave the negotiation mode. Raises QmpError."""
        try:
            self.read()
        except OSError as error:
            raise QmpError(f"QEMU did not greet: {error}") from error
        self.ask("qmp_capabilities")

    def ask(self, name: str, **arguments: object) -> Any:
        """Run a command and return its answer. Raises QmpError."""
        request = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            self._line.sendall(json.dumps(request).encode() + b"\n")
            while time.monotonic() < deadline:
                message = self.read()
                self._note(message)
                if "return" in message:
                    return message["return"]
                if "error" in message:
                    raise QmpError(f"{name}: {message['error'].get('desc', 'refused')}")
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        raise QmpError(f"{name}: no answer within {ANSWER_SECONDS:.0f} s")

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("event") == "SHUTDOWN":
            self.shutdown_reason = str(message.get("data", {}).get("reason", ""))

    def read(self) -> dict[str, Any]:
        """The next message, whatever it is."""
        text = self._reader.readline(LINE_LIMIT)
        if not text.endswith(b"\n"):
            raise QmpError("QEMU closed the control line")
        try:
            message = json.loads(text)
        except ValueError as error:
            raise QmpError("QEMU sent something that is not JSON") from error
        if not isinstance(message, dict):
            raise QmpError("QEMU sent something that is not a message")
        return message


@contextlib.contextmanager
def connect(path: Path, *, alive: Callable[[], bool]) -> Iterator[Qmp]:
    """Connect to the socket at `path` as soon as it is there, while QEMU is `alive`. Raises QmpError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(ANSWER_SECONDS)
        _connect(line, path, alive)
        with contextlib.closing(Qmp(line)) as qmp:
            qmp.greet()
            yield qmp


def _connect(line: socket.socket, path: Path, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            line.connect(str(path))
        except OSError as error:
            if time.monotonic() >= deadline or not alive():
                raise QmpError(f"QEMU opened no control line: {error}") from error
            time.sleep(POLL_SECONDS)
        else:
            return
