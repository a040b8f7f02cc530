"""Packets under AES-GCM: what a server may send, and what it may not."""

from __future__ import annotations

import struct
from typing import Any

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from paramiko.packet import NeedRekeyException, Packetizer

from p2v.transports.ssh_packets import LARGEST, DataMessage, Packets
from p2v.transports.ssh_wire import Wire
from tests.transports.test_ssh_wire import Pieces

KEY, IV = bytes(range(16)), bytes(range(9)) + b"\xff\xff\xfe"


class Sink:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def settimeout(self, seconds: float | None) -> None: ...

    def close(self) -> None: ...


def sent_by_paramiko(*payloads: bytes, iv: bytes = IV) -> bytes:
    """These payloads as paramiko's own writer encrypts them."""
    sink = Sink()
    writer: Any = Packetizer(sink)  # type: ignore[arg-type]
    writer.set_outbound_cipher(
        block_engine=AESGCM(KEY),
        block_size=16,
        mac_engine=None,
        mac_size=16,
        mac_key=None,
        aead=True,
        iv_out=iv,
    )
    for payload in payloads:
        message = paramiko.Message()
        message.add_bytes(payload)
        writer.send_message(message)
    return sink.sent


def packed(plain: bytes, *, counter: int = 0, size: int | None = None) -> bytes:
    """One packet, as its decrypted bytes are to be."""
    head = struct.pack("!I", len(plain) if size is None else size)
    return head + AESGCM(KEY).encrypt(bytes(4) + counter.to_bytes(8, "big"), plain, head)


def reader(*pieces: bytes, iv: bytes = bytes(12)) -> Packets:
    packets = Packets(Wire(Pieces(*pieces)))
    packets.set_inbound_cipher(
        AESGCM(KEY), block_size=16, mac_engine=None, mac_size=16, mac_key=None, aead=True, iv_in=iv
    )
    return packets


def data_of(message: paramiko.Message) -> tuple[int, bytes]:
    return message.get_int(), bytes(message.get_binary())


def channel_data(channel: int, data: bytes) -> bytes:
    return struct.pack("!BII", 94, channel, len(data)) + data


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8), st.integers(1, 5000))
def test_what_paramiko_wrote_is_read(contents: list[bytes], cut: int) -> None:
    line = sent_by_paramiko(*(channel_data(number, one) for number, one in enumerate(contents)))
    packets = reader(*(line[at : at + cut] for at in range(0, len(line), cut)), iv=IV)
    for number, one in enumerate(contents):
        kind, message = packets.read_message()
        assert kind == 94
        assert isinstance(message, DataMessage)
        assert data_of(message) == (number, one)
    with pytest.raises(EOFError):
        packets.read_message()


def test_other_packets_are_messages_as_ever() -> None:
    packets = reader(sent_by_paramiko(b"\x5a" + b"hello", channel_data(7, b"x"), b"\x14"), iv=IV)
    kind, message = packets.read_message()
    assert (kind, message.asbytes(), message.seqno) == (90, b"hello", 0)
    kind, message = packets.read_message()
    assert message.asbytes() == struct.pack("!II", 7, 1) + b"x"
    kind, message = packets.read_message()
    assert (kind, message.asbytes(), message.seqno) == (20, b"", 2)


def test_one_changed_bit_ends_the_connection() -> None:
    line = bytearray(sent_by_paramiko(channel_data(0, bytes(100))))
    line[60] ^= 1
    with pytest.raises(InvalidTag):
        reader(bytes(line), iv=IV).read_message()


def test_the_counter_of_packets_goes_round_where_it_ends() -> None:
    """RFC 5647 section 7.1: 64 bits, modulo; paramiko's own fails there."""
    last, first = (b"\x05" + channel_data(0, b"") + bytes(6) for _ in range(2))
    packets = reader(packed(last, counter=2**64 - 1) + packed(first), iv=bytes(4) + b"\xff" * 8)
    assert data_of(packets.read_message()[1]) == data_of(packets.read_message()[1]) == (0, b"")


@pytest.mark.parametrize("size", [0, 15, 17, LARGEST + 15, 0xFFFFFFF0])
def test_a_length_that_cannot_be_is_refused_before_anything_is_awaited(size: int) -> None:
    with pytest.raises(paramiko.SSHException, match="a packet of"):
        reader(struct.pack("!I", size) + bytes(64)).read_message()


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (b"\xff" + bytes(15), "nothing but padding"),
        (b"\x0f" + bytes(15), "nothing but padding"),
        (b"\x06" + channel_data(0, b"ab")[:-2] + bytes(6), "more data than it has"),
        (b"\x04" + struct.pack("!BII", 94, 0, 0xFFFFFFFF) + bytes(6), "more data than it has"),
    ],
)
def test_a_packet_that_contradicts_itself_is_refused(plain: bytes, said: str) -> None:
    with pytest.raises(paramiko.SSHException, match=said):
        reader(packed(plain)).read_message()


def test_a_pause_in_a_packet_loses_nothing() -> None:
    line = sent_by_paramiko(channel_data(1, b"content"))
    _, message = reader(line[:3], b"wait", line[3:20], b"wait", line[20:], iv=IV).read_message()
    assert data_of(message) == (1, b"content")


def test_new_keys_are_asked_for_and_a_server_that_gives_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packets, "REKEY_BYTES", 250)
    monkeypatch.setattr(Packets, "REKEY_BYTES_OVERFLOW_MAX", 300)
    line = [sent_by_paramiko(*[channel_data(0, bytes(70))] * 6)]
    packets = reader(*line, iv=IV)
    packets.read_message()
    packets.read_message()
    assert not packets.need_rekey()
    packets.read_message()
    assert packets.need_rekey()
    packets.read_message()
    packets.read_message()
    with pytest.raises(paramiko.SSHException, match="no new keys"):
        packets.read_message()


def test_who_waits_for_keys_is_told_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packets, "REKEY_BYTES", 1)
    packets = reader(sent_by_paramiko(channel_data(0, b"")), b"wait", iv=IV)
    packets.read_message()
    with pytest.raises(NeedRekeyException):
        packets.read_message()


def test_a_packetizer_that_was_closed_ends() -> None:
    packets = reader(b"wait")
    packets.close()
    with pytest.raises(EOFError):
        packets.read_message()
