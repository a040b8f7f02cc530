"""SSH servers that OpenSSH cannot easily be: one that takes passwords and plays commands, and broken ones."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_PARTIALLY_SUCCESSFUL, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.server import InteractiveQuery

SECRET = "correct-horse-7"  # what the fake server takes, looked for in every message


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(slots=True)
class FakeServer:
    """What the server lets pass, and what it saw. `answers` are its commands; others end with 127."""

    methods: str = "password"
    prompts: tuple[str, ...] = ("Password:",)
    replies: tuple[str, ...] = (SECRET,)
    second_step: bool = False
    answers: Mapping[str, Answer] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    port: int = 0
    host_key: paramiko.PKey = field(default_factory=paramiko.ECDSAKey.generate)


class FakeInterface(paramiko.ServerInterface):
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._passed: set[str] = set()

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive" if "password" in self._passed else self._server.methods

    def check_auth_password(self, username: str, password: str) -> int:
        self._server.attempts.append("password")
        if password != SECRET:
            return AUTH_FAILED
        self._passed.add("password")
        return AUTH_PARTIALLY_SUCCESSFUL if self._server.second_step else AUTH_SUCCESSFUL

    def check_auth_interactive(self, username: str, submethods: str) -> int | InteractiveQuery:
        self._server.attempts.append("keyboard-interactive")
        query = InteractiveQuery("", "")
        for prompt in self._server.prompts:
            query.add_prompt(prompt, False)
        return query

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        right = tuple(responses) == self._server.replies
        return AUTH_SUCCESSFUL if right else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        answer = self._server.answers.get(command.decode(), Answer(127, stderr=b"sh: not found\n"))
        # Not before paramiko has confirmed the request, which it does when this method has returned.
        threading.Timer(0.05, play, args=(channel, answer)).start()
        return True


def play(channel: paramiko.Channel, answer: Answer) -> None:
    with contextlib.suppress(OSError, EOFError):
        channel.sendall(answer.stdout)
        channel.sendall_stderr(answer.stderr)
        channel.send_exit_status(answer.code)
        channel.close()


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on 127.0.0.1 that hands every connection to `serve`; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def fake_server(server: FakeServer) -> Iterator[FakeServer]:
    transports: list[paramiko.Transport] = []

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transports.append(transport)
        transport.add_server_key(server.host_key)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=FakeInterface(server))

    with listening(serve) as port:
        server.port = port
        try:
            yield server
        finally:
            for transport in transports:
                transport.packetizer.complete_handshake()
                transport.close()


def known_hosts_for(server: FakeServer, path: Path) -> Path:
    path.write_text(
        f"[127.0.0.1]:{server.port} {server.host_key.get_name()} {server.host_key.get_base64()}\n"
    )
    return path
