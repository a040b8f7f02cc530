"""A hive behind its logs becomes what Windows would make of it: built here, and read back by others.

The vectors of Marvin32 are those of the `marvin32` crate and of SymCrypt's own test; regipy, which replays
logs too, must come to the same registry.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from regipy.recovery import apply_transaction_logs

from conversions.nt.registry import dword
from fixtures.windows.hive import editing, empty_hive
from p2v.errors import GuestError
from p2v.hive_logs import marvin32, put_checksum, replay
from p2v.hives import FolderHives
from tests.registries import listing, read_key

pytestmark = pytest.mark.tools

PAGE = 512
KEY = "ControlSet001\\Services\\viostor"


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [
        (b"", 0x82EF4D887A4E55C5, 0xB00892AC),
        (b"h", 0x82EF4D887A4E55C5, 0xF41A608E),
        (b"he", 0x82EF4D887A4E55C5, 0x11107C6B),
        (b"hel", 0x82EF4D887A4E55C5, 0x24056A46),
        (b"hell", 0x82EF4D887A4E55C5, 0x7F91E021),
        (b"hello, world!", 0x82EF4D887A4E55C5, 0x00C18515),
        ("Abcdefg".encode("utf-16-le"), 0x5D70D359C498B3F8, 0xBA627C81),
    ],
)
def test_marvin32(data: bytes, seed: int, expected: int) -> None:
    found = marvin32(data, seed)
    assert found >> 32 ^ found & 0xFFFFFFFF == expected


@pytest.fixture
def states(tmp_path: Path) -> list[bytes]:
    """A hive after each of three changes; the last one made it grow."""
    place = tmp_path / "STATES"
    place.write_bytes(empty_hive())
    found = []
    for start in (3, 0, 1):
        with editing(place) as registry:
            registry.set(KEY, Start=start)
            if start == 1:
                registry.set(f"{KEY}\\Parameters", Long=bytes(9000))
        found.append(place.read_bytes())
    assert len(found[2]) > len(found[1])
    return found


def number(hive: bytes) -> int:
    return int(struct.unpack_from("<I", hive, 8)[0])


def behind(hive: bytes) -> bytes:
    """As Windows leaves a hive in use: its first number is ahead of the second one."""
    changed = bytearray(hive)
    struct.pack_into("<I", changed, 4, number(hive) + 1)
    put_checksum(changed)
    return bytes(changed)


def entry(before: bytes, after: bytes, sequence: int) -> bytes:
    """What leads from one state to the next, as the specification has it."""
    padded = before.ljust(len(after), b"\0")
    places = [at for at in range(4096, len(after), PAGE) if padded[at : at + PAGE] != after[at : at + PAGE]]
    body = b"".join(struct.pack("<II", at - 4096, PAGE) for at in places)
    body += b"".join(after[at : at + PAGE] for at in places)
    size = (40 + len(body) + 511) // 512 * 512
    body = body.ljust(size - 40, b"\0")
    length = struct.unpack_from("<I", after, 40)[0]
    head = struct.pack("<4s5IQ", b"HvLE", size, 0, sequence, length, len(places), marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def log(hive: bytes, entries: Sequence[bytes]) -> bytes:
    base = bytearray(hive[:512])
    struct.pack_into("<I", base, 28, 6)
    put_checksum(base)
    return bytes(base) + b"".join(entries)


def start_of(hive: bytes, folder: Path) -> int:
    (folder / "READ").write_bytes(hive)
    key = read_key(folder / "READ", KEY)
    assert key is not None
    return int(key.values["start"])


def test_a_log_brings_a_hive_to_its_last_state(states: list[bytes], tmp_path: Path) -> None:
    first = number(states[0])
    entries = [entry(states[0], states[1], first), entry(states[1], states[2], first + 1)]
    made = replay(behind(states[0]), [log(states[0], entries)])
    assert made is not None
    assert made[4096:] == states[2][4096:]
    assert start_of(made, tmp_path) == 1
    assert struct.unpack_from("<II", made, 4) == (first + 1, first + 1)


def test_regipy_comes_to_the_same(states: list[bytes], tmp_path: Path) -> None:
    hive = behind(states[0])
    other = bytearray(states[0])  # of the same size: regipy lets no hive grow
    other[other.find(b"vk\5\0") + 8] = 0
    content = log(states[0], [entry(states[0], bytes(other), number(states[0]))])
    (tmp_path / "HIVE").write_bytes(hive)
    (tmp_path / "HIVE.LOG1").write_bytes(content)
    theirs: Any = apply_transaction_logs
    theirs(str(tmp_path / "HIVE"), str(tmp_path / "HIVE.LOG1"), restored_hive_path=str(tmp_path / "THEIRS"))
    made = replay(hive, [content])
    assert made is not None
    (tmp_path / "OURS").write_bytes(made)
    assert listing(tmp_path / "OURS") == listing(tmp_path / "THEIRS")
    assert start_of(made, tmp_path) == 0


def test_two_logs_and_what_is_old_or_torn_in_them(states: list[bytes], tmp_path: Path) -> None:
    first = number(states[0])
    older = entry(states[1], states[0], first - 1)
    one, two = entry(states[0], states[1], first), entry(states[1], states[2], first + 1)
    made = replay(behind(states[0]), [log(states[0], [older, two]), log(states[0], [one])])
    assert made is not None
    assert start_of(made, tmp_path) == 1
    torn = two[:-1] + bytes([two[-1] ^ 1])
    made = replay(behind(states[0]), [log(states[0], [one, torn])])
    assert made is not None
    assert start_of(made, tmp_path) == 0  # what came before it counts


def test_logs_that_do_not_continue_a_hive(states: list[bytes]) -> None:
    first = number(states[0])
    later = entry(states[1], states[2], first + 1)
    assert replay(behind(states[0]), []) is None
    assert replay(behind(states[0]), [log(states[0], [later])]) is None
    assert replay(behind(states[0]), [b"regf", b"", bytes(4096)]) is None
    damaged = bytearray(behind(states[0]))
    damaged[100] ^= 1
    assert replay(bytes(damaged), [log(states[0], [entry(states[0], states[1], first)])]) is None


def test_an_entry_whose_pages_lead_out_of_the_hive(states: list[bytes]) -> None:
    body = struct.pack("<II", 0x7FFFF000, PAGE).ljust(1024 - 40, b"\0")
    head = struct.pack("<4s5IQ", b"HvLE", 1024, 0, number(states[0]), 4096, 1, marvin32(body))
    bad = head + struct.pack("<Q", marvin32(head)) + body
    assert replay(behind(states[0]), [log(states[0], [bad])]) is None


def test_an_entry_that_would_make_gigabytes(states: list[bytes]) -> None:
    body = bytes(512 - 40)
    head = struct.pack("<4s5IQ", b"HvLE", 512, 0, number(states[0]), 0x7FFFF000, 0, marvin32(body))
    bad = head + struct.pack("<Q", marvin32(head)) + body
    assert replay(behind(states[0]), [log(states[0], [bad])]) is None


def test_a_hive_is_opened_as_its_logs_say_and_written_clean(states: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(behind(states[0]))
    opener = FolderHives(tmp_path)
    with pytest.raises(GuestError, match="do not continue"), opener.read("SYSTEM"):
        pass
    content = log(states[0], [entry(states[0], states[1], number(states[0]))])
    (tmp_path / "SYSTEM.LOG2").write_bytes(content)
    with opener.edit("SYSTEM") as hive:
        assert hive.value(KEY, "Start") == dword("Start", 0)
        hive.set(KEY, dword("Type", 1))
    first, second = struct.unpack_from("<II", (tmp_path / "SYSTEM").read_bytes(), 4)
    assert first == second > number(states[0])
    assert any("SYSTEM" in warning and "log" in warning for warning in opener.warnings)
    with FolderHives(tmp_path).read("SYSTEM") as hive:
        assert hive.value(KEY, "Start") == dword("Start", 0)
