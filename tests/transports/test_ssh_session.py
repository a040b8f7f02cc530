"""Commands and streams of a session with a real OpenSSH server on the loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import paramiko
import pytest
from paramiko.message import Message

from p2v.errors import ConnectionLost, TransportError
from p2v.model import MiB
from p2v.transports import ssh_packets, ssh_paramiko, ssh_wire
from p2v.transports.ssh_session import SshSession, Stream, open_session
from tests.sshd import Sshd
from tests.transports.sessions import address, bounded, options, read_on, write_on


@pytest.fixture
def session(sshd: Sshd) -> Iterator[SshSession]:
    with open_session(address(sshd), options(sshd)) as opened:
        yield opened


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

    monkeypatch.setattr(ssh_packets.Packets, "REKEY_BYTES", MiB)
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
