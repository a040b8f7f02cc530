"""A private OpenSSH server on 127.0.0.1: own host keys, own configuration, own authorized keys, one folder.

It serves the user who runs the tests and touches nothing of the machine's own SSH server. Use it as a context
manager (`with private_sshd(folder) as server`) or through the fixture in `tests/transports/conftest.py`.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v import command

START_SECONDS = 10.0
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server. `known_hosts` already lists its host key; `identity` may log in."""

    port: int
    pid: int
    user: str
    folder: Path
    identity: Path
    known_hosts: Path
    host_key: Path

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def sessions(self) -> tuple[int, ...]:
        """The process ids of everything that this server started, parents first."""
        return descendants(self.pid)

    def cut(self) -> None:
        """Kill every session without a goodbye; the server itself goes on listening."""
        signal_all(self.sessions(), signal.SIGKILL)

    def freeze(self) -> None:
        """Stop every session: the line stays up and nothing moves on it any more."""
        signal_all(self.sessions(), signal.SIGSTOP)

    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")


def descendants(pid: int) -> tuple[int, ...]:
    running = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    children = [one for one in running if parent_of(one) == pid]
    return tuple(one for child in children for one in (child, *descendants(child)))


def parent_of(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])


def signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def need(program: str) -> str:
    """The path of a program; without it the test fails in CI and is skipped elsewhere."""
    found = command.find_tool(program)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return found


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A fresh key pair by ssh-keygen; `path` is the private half."""
    argv: list[str | Path] = [
        need("ssh-keygen"),
        "-q",
        "-t",
        kind,
        "-N",
        passphrase,
        "-C",
        "test",
        "-f",
        path,
    ]
    command.check(argv, timeout=30, reason="make a key")
    return path


def public_key(path: Path) -> str:
    """`type base64` of a key pair, without the comment."""
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def fingerprint(path: Path) -> str:
    """SHA256:… of a key file as ssh-keygen says it."""
    return command.check([need("ssh-keygen"), "-l", "-f", path], timeout=30, reason="hash a key").split()[1]


def write_config(folder: Path, port: int, host_keys: Sequence[Path], extra: Sequence[str]) -> Path:
    path = folder / "sshd_config"
    lines = [
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        *(f"HostKey {key}" for key in host_keys),
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 100",
        "PrintMotd no",
        # The login scripts of whoever runs the tests must not take part (some need seconds).
        f"SetEnv HOME={folder}",
        *extra,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def private_sshd(
    folder: Path, *, extra: Sequence[str] = (), host_key_kinds: Sequence[str] = ("ed25519",)
) -> Iterator[Sshd]:
    """Start a server in `folder` (made when missing) and end it, with all of its sessions, at the end.

    `extra` are further lines of its configuration; the first of `host_key_kinds` goes into `known_hosts`.
    """
    program = need("sshd")
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:  # sshd run by root refuses to start without this folder
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    host_keys = [make_key(folder / f"host_{kind}", kind=kind) for kind in host_key_kinds]
    identity = make_key(folder / "id_test")
    (folder / "authorized_keys").write_text(public_key(identity) + "\n")
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {public_key(host_keys[0])}\n")
    config = write_config(folder, port, host_keys, extra)
    with command.start([program, "-D", "-f", config, "-E", folder / "sshd.log"]) as child:
        server = Sshd(port, child.pid, getpass.getuser(), folder, identity, known_hosts, host_keys[0])
        try:
            wait_until_listening(server)
            yield server
        finally:
            signal_all(server.sessions(), signal.SIGKILL)


def wait_until_listening(server: Sshd) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"sshd did not start: {server.log()}")
