"""A machine after a lost connection: what makes it the same one, its disks, and what was typed before."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.errors import ConnectionLost, TransportError
from p2v.model import Disk, Machine, MiB, OperatingSystem
from p2v.rediscovery import Answers, Rediscovery
from tests.plans import make_machine
from tests.sources import Files

SIZE = 4 * MiB


@pytest.fixture
def planned() -> Machine:
    return make_machine()


def again(now: Machine, planned: Machine) -> Rediscovery:
    return Rediscovery(now, planned, Files(), rebooted=False)


def test_the_uuid_of_the_hardware_decides(planned: Machine) -> None:
    again(replace(planned, hostname="renamed", disks=()), planned)
    with pytest.raises(TransportError, match="Another machine answers now: web01") as caught:
        again(replace(planned, uuid="4c4c4544-0000-1000-8000-000000000002"), planned)
    assert not isinstance(caught.value, ConnectionLost)


def test_without_it_the_machine_id_then_the_name(planned: Machine) -> None:
    ours = OperatingSystem("debian", "12", "Debian", "debian", machine_id="a" * 32)
    known = replace(planned, uuid="", os=ours)
    again(replace(known, hostname="renamed"), known)
    with pytest.raises(TransportError, match="Another machine"):
        again(replace(known, os=replace(ours, machine_id="b" * 32)), known)
    bare = replace(planned, uuid="", os=None)
    again(bare, bare)
    with pytest.raises(TransportError, match="Another machine"):
        again(replace(bare, hostname="other"), bare)


def test_disks_are_known_by_serial_and_wwn_wherever_they_are(planned: Machine) -> None:
    first, second = Disk("/dev/sda", SIZE, serial="A"), Disk("/dev/sdb", SIZE, wwn="0x5", serial="B")
    moved = replace(planned, disks=(replace(second, path="/dev/sda"), replace(first, path="/dev/sdb")))
    found = again(moved, planned)
    assert found.disk(first).path == "/dev/sdb"
    assert found.disk(second).path == "/dev/sda"
    for gone in (replace(first, serial="C"), replace(first, size=2 * SIZE), replace(second, wwn="")):
        with pytest.raises(TransportError, match="no disk any more"):
            found.disk(gone)


def with_table(path: Path, signature: int) -> Disk:
    sector = bytearray(512)
    struct.pack_into("<I", sector, 440, signature)
    struct.pack_into("<BxxxBxxxII", sector, 446, 0, 0x83, 2048, 1024)
    sector[510:] = b"\x55\xaa"
    path.write_bytes(sector)
    os.truncate(path, SIZE)
    return Disk(str(path), SIZE, table_id=f"{signature:08x}")


def test_a_disk_without_a_serial_is_known_by_its_table(planned: Machine, tmp_path: Path) -> None:
    one, other = with_table(tmp_path / "sda", 0x11111111), with_table(tmp_path / "sdb", 0x22222222)
    seen = tuple(replace(disk, table_id="") for disk in (one, other))
    found = again(replace(planned, disks=seen), planned)
    swapped = replace(one, path=other.path), replace(other, path=one.path)
    assert [found.disk(disk).path for disk in swapped] == [one.path, other.path]
    with pytest.raises(TransportError, match="no disk any more"):
        found.disk(replace(one, table_id="33333333"))


def test_without_serial_and_table_the_name_is_all_there_is(planned: Machine) -> None:
    disk = Disk("/dev/vda", SIZE)
    found = again(replace(planned, disks=(disk,)), planned)
    assert found.disk(disk) == disk
    with pytest.raises(TransportError):
        found.disk(replace(disk, path="/dev/vdb"))


def test_what_was_typed_once_is_not_asked_again_but_for_another_try() -> None:
    typed = iter(["wrong", "right", "changed"])
    answers = Answers(lambda prompt: next(typed))
    first = answers.start()
    assert first
    assert [first("Password: "), first("Password: ")] == ["wrong", "right"]
    second = answers.start()
    assert second
    assert [second("Password: "), second("Password: ")] == ["right", "changed"]
    third = answers.start()
    assert third
    assert third("Password: ") == "changed"
    assert Answers(None).start() is None
