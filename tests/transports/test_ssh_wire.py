"""The byte line below SSH: buffers, stalls, and children that end."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NoReturn

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.buffered_pipe import PipeTimeout

from p2v.transports import ssh_packets, ssh_wire
from p2v.transports.ssh_packets import LARGEST, ChunkPipe
from p2v.transports.ssh_wire import ProxyLine, Wire, close_quietly, within


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 40)))
def test_the_buffer_gives_what_it_took(pieces: list[bytes], sizes: list[int]) -> None:
    pipe = ChunkPipe()
    for piece in pieces:
        pipe.feed(piece)
    pipe.close()
    out = b"".join(pipe.read(size) for size in sizes)
    assert len(out) <= sum(sizes)
    assert len(pipe) == len(b"".join(pieces)) - len(out)
    assert pipe.read_ready() == (len(pipe) > 0)
    assert out + pipe.empty() == b"".join(pieces)
    assert pipe.read(1) == b""


def test_a_read_waits_for_data_and_no_longer_than_asked() -> None:
    pipe = ChunkPipe()
    with pytest.raises(PipeTimeout):
        pipe.read(1, 0.05)
    threading.Timer(0.05, pipe.feed, [b"abc"]).start()
    assert pipe.read(2, 5) == b"ab"
    threading.Timer(0.05, pipe.close).start()
    assert pipe.read(5, 5) == b"c"
    assert pipe.read(5, 5) == b""


def test_a_server_that_ignores_the_window_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_packets, "WINDOW", 1000)
    pipe = ChunkPipe()
    pipe.feed(bytes(2000))
    with pytest.raises(paramiko.SSHException, match="more than was asked"):
        pipe.feed(b"x")


class Stuck:
    """A socket whose peer takes nothing."""

    def send(self, data: bytes) -> int:
        raise TimeoutError

    def recv(self, size: int) -> bytes:
        raise TimeoutError

    def settimeout(self, seconds: float | None) -> None: ...

    def close(self) -> None: ...


def test_a_send_that_makes_no_progress_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_wire, "SEND_STALL_SECONDS", 0.05)
    wire = Wire(Stuck())
    with pytest.raises(TimeoutError):
        wire.send(b"x")
    time.sleep(0.1)
    with pytest.raises(BrokenPipeError):
        wire.send(b"x")


def test_calls_without_a_limit_get_one() -> None:
    with pytest.raises(TimeoutError):
        within(0.05, lambda: time.sleep(1))
    with pytest.raises(ZeroDivisionError):
        within(1, lambda: 1 / 0)
    assert within(1, lambda: "done") == "done"
    assert close_quietly(lambda: 1 / 0)


def test_the_end_of_a_proxy_command_is_noticed_and_nothing_is_left_of_it() -> None:
    line = ProxyLine("sh -c 'cat; echo bye >&2; exit 2'")
    line.settimeout(5)
    child = line._child
    assert line.send(b"hello") == 5
    assert line.recv(100) == b"hello"
    line.close()
    assert child.returncode is not None
    ended = ProxyLine("echo bye >&2")
    ended.settimeout(5)
    while True:
        try:
            assert ended.recv(10) == b""
            break
        except TimeoutError:
            continue
    ended.close()
    assert not Path(f"/proc/{ended._child.pid}").exists()


def send_on(line: ProxyLine) -> NoReturn:
    while True:
        line.send(bytes(65536))


def test_a_proxy_command_that_takes_nothing_does_not_block() -> None:
    line = ProxyLine("sleep 30")
    line.settimeout(0.05)
    with pytest.raises(TimeoutError):
        send_on(line)
    line.close()


def test_what_stands_still_is_noticed_however_much_has_come() -> None:
    """A reader that waits for much has got some: nothing more for the time limit is a stall, at once."""
    pipe = ChunkPipe()
    for _ in range(5):
        pipe.feed(b"x" * 10)
    view = memoryview(bytearray(100))
    began = time.monotonic()
    with pytest.raises(PipeTimeout):
        pipe.read_into(view, timeout=0.2, wake=100)
    assert time.monotonic() - began < 0.5
    assert pipe.read_into(view, timeout=0.2) == 50


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 40)))
def test_views_are_filled_with_what_came(pieces: list[bytes], sizes: list[int]) -> None:
    pipe = ChunkPipe()
    for piece in pieces:
        pipe.feed(memoryview(piece))
    pipe.close()
    out = b""
    for size in sizes:
        view = memoryview(bytearray(size))
        out += bytes(view[: pipe.read_into(view, wake=size)])
    assert out == b"".join(pieces)[: sum(sizes)]


class Pieces:
    """A socket that gives these pieces, then nothing for a while, then the end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece == b"wait":
            raise TimeoutError
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def settimeout(self, seconds: float | None) -> None: ...

    def close(self) -> None: ...


def test_a_wire_reads_ahead_and_keeps_what_came_before_a_pause() -> None:
    wire = Wire(Pieces(b"abc", b"wait", b"defgh"))
    with pytest.raises(TimeoutError):
        wire.peek(5)
    assert wire.waiting == 3
    assert bytes(wire.peek(5)) == b"abcde"
    wire.skip(4)
    assert (wire.recv(1), wire.recv(100), wire.recv(100)) == (b"e", b"fgh", b"")
    with pytest.raises(EOFError):
        wire.peek(1)


def test_the_largest_packet_has_room_wherever_it_begins() -> None:
    """A buffer that was full to its end would read nothing, which is how a line ends."""
    largest = LARGEST + 20
    assert largest < ssh_wire.READ_AHEAD
    for before in range(ssh_wire.READ_AHEAD - largest - 2, ssh_wire.READ_AHEAD, 521):
        line = bytes(before) + b"x" * largest
        # What came before is taken, and a piece of the packet is there already.
        wire = Wire(Pieces(line[: before + 1], line[before + 1 :]))
        wire.peek(1)
        while wire.waiting < before + 1:
            wire.peek(wire.waiting + 1)
        wire.skip(before)
        assert bytes(wire.peek(largest)) == b"x" * largest


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.lists(st.integers(1, 64), max_size=200))
def test_a_wire_loses_nothing_where_its_buffer_goes_round(pieces: list[bytes], sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh_wire, "READ_AHEAD", 64)
        wire = Wire(Pieces(*pieces))
        whole, out = b"".join(pieces), b""
        for size in sizes:
            if len(whole) - len(out) < size:
                break
            out += bytes(wire.peek(size))
            wire.skip(size)
        assert out == whole[: len(out)]
