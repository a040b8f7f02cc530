"""Sessions with a real OpenSSH server on the loopback, and with things that are none."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import paramiko
import pytest
from paramiko.message import Message

from p2v import command
from p2v.errors import ConnectionLost, TransportError
from p2v.model import MiB
from p2v.transports import ssh_paramiko, ssh_wire
from p2v.transports.ssh_session import HostKeyPolicy, SshAddress, SshOptions, SshSession, Stream, open_session
from tests.sshd import Sshd, fingerprint, free_port, make_key, need, private_sshd, public_key
from tests.transports.fake_ssh import listening

NO_CONFIG = Path(os.devnull)


def options(sshd: Sshd) -> SshOptions:
    return SshOptions(identity=sshd.identity, known_hosts=sshd.known_hosts, config_file=NO_CONFIG)


def address(sshd: Sshd) -> SshAddress:
    return SshAddress("127.0.0.1", sshd.port, sshd.user)


@pytest.fixture
def session(sshd: Sshd) -> Iterator[SshSession]:
    with open_session(address(sshd), options(sshd)) as opened:
        yield opened


def read_on(stream: Stream) -> NoReturn:
    buffer = bytearray(MiB)
    while True:
        stream.readinto(memoryview(buffer))


def write_on(stream: Stream) -> NoReturn:
    while True:
        stream.write(bytes(MiB))


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """What stands inside must not take longer: the difference between an error and a hang."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def refusal(address: SshAddress, options: SshOptions) -> TransportError:
    with pytest.raises(TransportError) as caught, open_session(address, options):
        pass
    assert caught.value.hint
    return caught.value


# Commands


@pytest.mark.ssh
def test_a_command_says_all_of_it(session: SshSession) -> None:
    result = session.run("echo out; echo err >&2; exit 3", timeout=10)
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", "err\n")


@pytest.mark.ssh
def test_input_reaches_the_command_while_it_answers(session: SshSession) -> None:
    data = os.urandom(5 * MiB)
    assert session.run("cat", timeout=20, input=data).stdout == data


@pytest.mark.ssh
def test_input_that_nobody_takes_is_no_failure(session: SshSession) -> None:
    assert session.run("exec <&-; exit 0", timeout=20, input=bytes(5 * MiB)).code == 0


@pytest.mark.ssh
def test_much_standard_error_does_not_block(session: SshSession) -> None:
    result = session.run("head -c 40000000 /dev/zero | tr '\\0' e >&2; echo done", timeout=25)
    assert result.stdout == b"done\n"
    assert 0 < len(result.stderr) <= 64 * 1024


@pytest.mark.ssh
def test_the_time_limit_holds_and_the_session_goes_on(session: SshSession) -> None:
    with bounded(5), pytest.raises(TransportError, match=r"`sleep 30` on .* did not finish within 1 s"):
        session.run("sleep 30", timeout=1)
    assert session.run("echo on", timeout=10).stdout == b"on\n"


@pytest.mark.ssh
def test_endless_output_is_cut_off(session: SshSession) -> None:
    with bounded(10), pytest.raises(TransportError, match="more than 1048576 bytes"):
        session.run("yes", timeout=20, output_limit=MiB)
    assert session.run("echo on", timeout=10).stdout == b"on\n"


@pytest.mark.ssh
def test_a_command_ended_by_a_signal(session: SshSession) -> None:
    assert session.run("kill -9 $$", timeout=10).code == -1


@pytest.mark.ssh
def test_a_line_that_breaks_under_a_command(sshd: Sshd, session: SshSession) -> None:
    threading.Timer(0.5, sshd.cut).start()
    with bounded(5), pytest.raises(ConnectionLost):
        session.run("sleep 30", timeout=20)
    with bounded(5), pytest.raises(ConnectionLost):
        session.run("true", timeout=20)


@pytest.mark.ssh
def test_too_many_streams_are_explained(session: SshSession) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):  # MaxSessions of sshd
            stack.enter_context(session.open_stream("cat"))
        with pytest.raises(TransportError, match="allows no further command"):
            stack.enter_context(session.open_stream("cat"))


@pytest.mark.ssh
def test_the_fast_cipher_is_used(session: SshSession) -> None:
    offered = paramiko.Transport._preferred_ciphers  # type: ignore[attr-defined]
    expected = "aes128-gcm@openssh.com" if "aes128-gcm@openssh.com" in offered else "aes128-ctr"
    assert session.cipher == expected


# Streams


@pytest.mark.ssh
def test_a_stream_echoes_64_mib_to_a_reader_beside_the_writer(session: SshSession) -> None:
    block = os.urandom(MiB)
    with session.open_stream("cat") as stream:

        def write() -> None:
            for _ in range(64):
                stream.write(block)
            stream.finish_writing()

        writer = threading.Thread(target=write)
        writer.start()
        buffer = bytearray(MiB)
        for _ in range(64):
            stream.readinto(memoryview(buffer))
            assert buffer == block
        assert stream.read(1) == b""
        writer.join()
        assert stream.wait(10) == 0


@pytest.mark.ssh
def test_keys_are_renewed_under_way_with_commands_beside(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk needs many renewals; a channel that closes during one must not lock the connection up."""
    renewals: list[Message] = []
    renew = ssh_paramiko.WireTransport._parse_newkeys

    def count(transport: ssh_paramiko.WireTransport, m: Message) -> None:
        renewals.append(m)
        renew(transport, m)

    monkeypatch.setattr(ssh_paramiko.Packets, "REKEY_BYTES", MiB)
    monkeypatch.setattr(ssh_paramiko.WireTransport, "_parse_newkeys", count)
    with open_session(address(sshd), options(sshd)) as session, bounded(25):
        for _ in range(12):
            assert len(session.run("head -c 1000000 /dev/zero", timeout=20).stdout) == 1000000
        with session.open_stream("head -c 20000000 /dev/zero") as stream:
            for _ in range(20):
                stream.readinto(memoryview(bytearray(1000000)))
                assert session.run("echo on", timeout=10).stdout == b"on\n"
    assert len(renewals) > 10


@pytest.mark.ssh
def test_commands_that_end_while_we_write_do_not_end_the_connection(session: SshSession) -> None:
    """OpenSSH hangs up on data for a channel whose close we have answered."""
    for _ in range(40):
        with session.open_stream("head -c 100000 >/dev/null") as stream, pytest.raises(ConnectionLost):
            write_on(stream)
    assert session.run("echo on", timeout=10).stdout == b"on\n"


@pytest.mark.ssh
def test_a_message_for_a_channel_that_is_closed_is_dropped_and_one_for_its_next_life_is_not(
    sshd: Sshd,
) -> None:
    def message(kind: int, channel: int) -> Message:
        built = Message()
        built.add_byte(bytes([kind]))
        built.add_int(channel)
        return built

    with open_session(address(sshd), options(sshd)) as session:
        for _ in range(3):  # sshd gives its number 0 anew each time
            with session.open_stream("cat") as stream:
                stream.write(b"abc")
                buffer = bytearray(3)
                stream.readinto(memoryview(buffer))
                assert buffer == b"abc"
                stream.finish_writing()
                assert stream.wait(5) == 0
            for end_of_data in (96, 96):
                session._transport._send_user_message(message(end_of_data, 0))
        assert session.run("echo on", timeout=10).stdout == b"on\n"


@pytest.mark.ssh
@pytest.mark.parametrize(("command", "go_on"), [("cat /dev/zero", read_on), ("cat >/dev/null", write_on)])
def test_a_cut_line_ends_the_stream(
    sshd: Sshd, session: SshSession, command: str, go_on: Callable[[Stream], NoReturn]
) -> None:
    threading.Timer(0.5, sshd.cut).start()
    with (
        bounded(10),
        session.open_stream(command) as stream,
        pytest.raises(ConnectionLost, match="was lost"),
    ):
        go_on(stream)


@pytest.mark.ssh
def test_a_silent_command_stalls_and_says_so(session: SshSession) -> None:
    with (
        bounded(5),
        session.open_stream("sleep 30", stall_timeout=1) as stream,
        pytest.raises(ConnectionLost, match="sent nothing for 1 s"),
    ):
        read_on(stream)


@pytest.mark.ssh
def test_a_command_that_takes_nothing_stalls_and_says_so(session: SshSession) -> None:
    with (
        bounded(10),
        session.open_stream("sleep 30", stall_timeout=1) as stream,
        pytest.raises(ConnectionLost, match="took nothing for 1 s"),
    ):
        write_on(stream)


@pytest.mark.ssh
def test_a_frozen_server_cannot_hold_us(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged any more: not the data, not the close of the channel, not the goodbye."""
    monkeypatch.setattr(ssh_wire, "SEND_STALL_SECONDS", 2.0)
    with (
        bounded(20),
        open_session(address(sshd), options(sshd)) as session,
        session.open_stream("cat >/dev/null", stall_timeout=2) as stream,
    ):
        stream.write(bytes(MiB))
        sshd.freeze()
        with pytest.raises(ConnectionLost):
            write_on(stream)
    sshd.cut()


@pytest.mark.ssh
def test_a_command_that_ends_early_tells_why(session: SshSession) -> None:
    with session.open_stream("echo 'no such\x1b[31m disk' >&2; printf abc; exit 4") as stream:
        with pytest.raises(ConnectionLost, match=r"ended early \(exit code 4\).*no such \[31m disk"):
            stream.readinto(memoryview(bytearray(4)))
        assert stream.wait(5) == 4


@pytest.mark.ssh
def test_leaving_a_stream_in_the_middle_is_quick_and_harms_nothing_else(session: SshSession) -> None:
    with bounded(5):
        with session.open_stream("cat /dev/zero") as stream:
            stream.readinto(memoryview(bytearray(MiB)))
        assert session.run("echo on", timeout=10).stdout == b"on\n"


@pytest.mark.ssh
def test_abandoning_wakes_a_reader_in_another_thread(sshd: Sshd) -> None:
    outcome: list[BaseException] = []

    def read() -> None:
        try:
            stream.readinto(memoryview(bytearray(1)))
        except ConnectionLost as error:
            outcome.append(error)

    with open_session(address(sshd), options(sshd)) as session, session.open_stream("sleep 30") as stream:
        reader = threading.Thread(target=read)
        reader.start()
        session.abandon()
        reader.join(timeout=5)
    assert len(outcome) == 1


INTERRUPTED = """
import sys
from pathlib import Path
from p2v.transports.ssh_session import SshOptions, open_session, parse_address
identity, known_hosts = map(Path, sys.argv[2:])
options = SshOptions(identity=identity, known_hosts=known_hosts, config_file=Path("/dev/null"))
try:
    with open_session(parse_address(sys.argv[1]), options) as session:
        with session.open_stream("sleep 60") as stream:
            print("reading", flush=True)
            stream.readinto(memoryview(bytearray(1)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.ssh
def test_ctrl_c_comes_out_of_a_read_at_once(sshd: Sshd) -> None:
    argv = [sys.executable, "-c", INTERRUPTED, sshd.url, str(sshd.identity), str(sshd.known_hosts)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        time.sleep(0.3)
        with bounded(5):
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=10)
    assert (out, err, child.returncode) == ("interrupted\n", "", 0)


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


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH_9.9\r\n"])
def test_a_server_that_says_nothing_more(banner: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(banner)
            time.sleep(10)

    with listening(serve) as port, bounded(8):
        assert "did not answer within 1 s" in refused_by(port, seconds=1.0).message


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
