"""Ways into a real OpenSSH server on the loopback: host keys, keys, jump hosts; and servers that are none."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v import command
from p2v.errors import ConnectionLost, TransportError
from p2v.model import MiB
from p2v.transports.ssh_session import HostKeyPolicy, SshAddress, SshOptions, open_session
from tests.sshd import Sshd, fingerprint, free_port, make_key, need, private_sshd, public_key
from tests.transports.fake_ssh import listening
from tests.transports.sessions import NO_CONFIG, address, bounded, options, read_on, refusal

# Host keys


@pytest.mark.ssh
def test_an_unknown_host_is_refused_before_any_login(sshd: Sshd, tmp_path: Path) -> None:
    before = sshd.log().count("Accepted publickey")
    unknown = dataclasses.replace(options(sshd), known_hosts=tmp_path / "none")
    error = refusal(address(sshd), unknown)
    assert fingerprint(sshd.host_key) in error.message
    assert "--accept-new-host-key" in error.hint
    assert sshd.log().count("Accepted publickey") == before


@pytest.mark.ssh
def test_an_accepted_host_is_known_the_next_time_to_us_and_to_ssh(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "folder" / "known"
    accepting = dataclasses.replace(
        options(sshd), known_hosts=known, host_key_policy=HostKeyPolicy.ACCEPT_NEW
    )
    with open_session(address(sshd), accepting):
        pass
    with open_session(address(sshd), dataclasses.replace(options(sshd), known_hosts=known)):
        pass
    argv = [need("ssh"), "-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
    argv += ["-o", "GlobalKnownHostsFile=none", "-i", str(sshd.identity), "-p", str(sshd.port)]
    assert command.check([*argv, "127.0.0.1", "echo on"], timeout=20, reason="log in") == "on\n"


@pytest.mark.ssh
@pytest.mark.parametrize("policy", list(HostKeyPolicy))
def test_a_changed_host_is_refused_before_any_login(
    sshd: Sshd, tmp_path: Path, policy: HostKeyPolicy
) -> None:
    other = make_key(tmp_path / "other")
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{sshd.port} {public_key(other)}\n")
    before = sshd.log().count("Accepted publickey")
    error = refusal(
        address(sshd), dataclasses.replace(options(sshd), known_hosts=known, host_key_policy=policy)
    )
    assert fingerprint(other) in error.message
    assert fingerprint(sshd.host_key) in error.message
    assert "ssh-keygen -R" in error.hint
    assert sshd.log().count("Accepted publickey") == before


@pytest.mark.ssh
def test_a_revoked_host_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(sshd.known_hosts.read_text() + f"@revoked * {public_key(sshd.host_key)}\n")
    assert "revoked" in refusal(address(sshd), dataclasses.replace(options(sshd), known_hosts=known)).message


@pytest.mark.ssh
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_host_known_by_any_of_its_keys_is_known_also_hashed(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{sshd.port} {public_key(sshd.folder / f'host_{kind}')}\n")
    command.check([need("ssh-keygen"), "-H", "-f", known], timeout=10, reason="hash the names")
    with open_session(address(sshd), dataclasses.replace(options(sshd), known_hosts=known)):
        pass


# Keys


@contextlib.contextmanager
def authorized(sshd: Sshd, private: Path) -> Iterator[None]:
    path = sshd.folder / "authorized_keys"
    before = path.read_text()
    path.write_text(before + public_key(private) + "\n")
    yield
    path.write_text(before)


@pytest.mark.ssh
def test_a_wrong_key_is_refused_with_what_was_tried(sshd: Sshd, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "id_wrong")
    error = refusal(address(sshd), dataclasses.replace(options(sshd), identity=wrong))
    assert f"key {wrong}" in error.message
    assert f"{sshd.user}@127.0.0.1" in error.message
    assert "It takes: publickey" in error.message


@pytest.mark.ssh
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_an_encrypted_key_asks_for_its_passphrase(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    locked = make_key(tmp_path / "id_locked", kind=kind, passphrase="open sesame")
    answers = ["wrong", "open sesame"]
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return answers.pop(0)

    with authorized(sshd, locked):
        asking = dataclasses.replace(options(sshd), identity=locked, ask_password=ask)
        with open_session(address(sshd), asking):
            pass
    assert prompts == [f"Passphrase for key {locked}: "] * 2


@pytest.mark.ssh
def test_an_encrypted_key_that_stays_locked_is_named_without_the_passphrases(
    sshd: Sshd, tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "id_locked", passphrase="open sesame")
    asking = dataclasses.replace(options(sshd), identity=locked, ask_password=lambda _: "hunter2")
    error = refusal(address(sshd), asking)
    assert "encrypted" in error.message
    assert "hunter2" not in str(error)
    assert "encrypted" in refusal(address(sshd), dataclasses.replace(asking, ask_password=None)).message


@pytest.mark.ssh
def test_default_keys_of_the_user_count(sshd: Sshd, home: Path) -> None:
    (home / ".ssh").mkdir()
    mine = make_key(home / ".ssh/id_ed25519")
    without = dataclasses.replace(options(sshd), identity=None)
    with authorized(sshd, mine), open_session(address(sshd), without):
        pass


@pytest.mark.ssh
def test_keys_of_an_agent_count(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "agent"
    with command.start([need("ssh-agent"), "-D", "-a", agent]):
        while not agent.exists():
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        environment = {"SSH_AUTH_SOCK": str(agent)}
        command.check([need("ssh-add"), sshd.identity], timeout=10, reason="add the key", env=environment)
        with open_session(address(sshd), dataclasses.replace(options(sshd), identity=None)):
            pass


@pytest.mark.ssh
def test_a_login_under_a_deadline_of_keys_is_explained(sshd: Sshd, tmp_path: Path) -> None:
    """MaxAuthTries is 6: a user with more keys is thrown out in the middle, and must learn why."""
    keys = [make_key(tmp_path / f"id_{number}") for number in range(8)]
    config = tmp_path / "config"
    config.write_text("".join(f"IdentityFile {key}\n" for key in keys))
    many = dataclasses.replace(options(sshd), identity=None, config_file=config)
    error = refusal(address(sshd), many)
    assert "closed the connection during the login" in error.message
    assert "--identity" in error.hint


# Ways there


@pytest.mark.ssh
def test_through_a_jump_host_with_both_host_keys_checked(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    with private_sshd(tmp_path / "gate") as gate:
        config.write_text(
            f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n IdentityFile {gate.identity}\n"
            f"Host inner\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump {gate.user}@gate\n"
        )
        known = tmp_path / "known"
        jumping = SshOptions(identity=sshd.identity, known_hosts=known, config_file=config)
        target = SshAddress("inner", user=sshd.user)

        known.write_text(sshd.known_hosts.read_text())
        assert f"127.0.0.1:{gate.port} is not known" in refusal(target, jumping).message
        known.write_text(gate.known_hosts.read_text())
        assert f"127.0.0.1:{sshd.port} is not known" in refusal(target, jumping).message

        known.write_text(gate.known_hosts.read_text() + sshd.known_hosts.read_text())
        with open_session(target, jumping) as session:
            digest = hashlib.sha256(bytes(8 * MiB)).hexdigest()
            assert session.run("sha256sum", timeout=20, input=bytes(8 * MiB)).stdout.startswith(
                digest.encode()
            )
            with session.open_stream("cat /dev/zero") as stream, bounded(10):
                stream.readinto(memoryview(bytearray(8 * MiB)))
                gate.cut()
                with pytest.raises(ConnectionLost):
                    read_on(stream)

        nowhere = dataclasses.replace(target, port=free_port())
        assert "jump host cannot reach" in refusal(nowhere, jumping).message


RELAY = "import socket,sys,os,threading\n\
s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n\
def up():\n\
 while d:=os.read(0,65536): s.sendall(d)\n\
threading.Thread(target=up,daemon=True).start()\n\
while d:=s.recv(65536): os.write(1,d)\n"


@pytest.mark.ssh
def test_through_a_proxy_command(sshd: Sshd, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    config = tmp_path / "config"
    config.write_text(f"ProxyCommand {sys.executable} {relay} %p 2>/dev/null\n")
    through = dataclasses.replace(options(sshd), config_file=config)
    with open_session(address(sshd), through) as session:
        data = os.urandom(4 * MiB)
        assert session.run("cat", timeout=20, input=data).stdout == data
        with bounded(5), session.open_stream("cat /dev/zero") as stream:
            sshd.cut()
            with pytest.raises(ConnectionLost):
                read_on(stream)


@pytest.mark.parametrize("proxy", ["echo no-way-through >&2; exit 1", "printf no-way-through >&2"])
def test_a_proxy_command_that_fails_is_quoted(tmp_path: Path, proxy: str) -> None:
    config = tmp_path / "config"
    config.write_text(f"ProxyCommand sh -c '{proxy}'\n")
    with bounded(5):
        error = refusal(SshAddress("web1", user="root"), SshOptions(config_file=config))
    assert "no-way-through" in error.message


@pytest.mark.ssh
def test_a_server_without_a_common_cipher_is_explained(tmp_path: Path) -> None:
    with private_sshd(tmp_path / "strict", extra=["Ciphers chacha20-poly1305@openssh.com"]) as strict:
        error = refusal(address(strict), options(strict))
    assert "no SSH algorithm in common" in error.message
    assert "Ciphers" in error.hint


def refused_by(port: int, *, host: str = "127.0.0.1", seconds: float = 15.0) -> TransportError:
    return refusal(SshAddress(host, port, "root"), SshOptions(config_file=NO_CONFIG, connect_timeout=seconds))


def test_a_port_where_nobody_listens() -> None:
    port = free_port()
    assert f"127.0.0.1:{port} refused the connection" in refused_by(port).message


def test_a_name_without_an_address() -> None:
    assert "No address is known for" in refused_by(22, host="no-such-host.invalid").message


def test_a_server_of_another_kind() -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"220 \x1b[2Jmail.example.com ESMTP\r\n" * 200)
        connection.close()

    with listening(serve) as port, bounded(5):
        assert f"127.0.0.1:{port} is not an SSH server" in refused_by(port).message


@pytest.mark.slow
@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH_9.9\r\n"])
def test_a_server_that_says_nothing_more(banner: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(banner)
            time.sleep(10)

    with listening(serve) as port, bounded(8):
        assert "did not answer within 1 s" in refused_by(port, seconds=1.0).message


@pytest.mark.slow
def test_a_server_that_talks_without_end() -> None:
    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x")
                time.sleep(0.01)

    with listening(serve) as port, bounded(8):
        assert "did not answer within 1 s" in refused_by(port, seconds=1.0).message


def test_a_server_that_hangs_up() -> None:
    with listening(socket.socket.close) as port, bounded(5):
        assert "is not an SSH server" in refused_by(port).message


@pytest.mark.parametrize("banner", [b"SSH-1.5-old\r\n", b"SSH-2.0-x\r\n" + base64.b64encode(bytes(3000))])
def test_a_server_that_speaks_something_like_ssh(banner: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(banner)
            connection.recv(4096)

    with listening(serve) as port, bounded(8):
        refused_by(port, seconds=3.0)
