"""A Windows over SSH, an emulator in its place: what is found out, what is read, what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest
from p2v.errors import ConnectionLost, ReadError, TransportError
from p2v.model import BLOCK_SIZE, Disk, Firmware, MiB
from p2v.transports import Piece, SnapshotSize, Transport, open_transport
from p2v.transports.windows import WindowsDisk, WindowsTransport, whole_script
from p2v.transports.windows_shadows import REASONS
from tests.transports.sessions import bounded, options
from tests.transports.windows_source import (
    BOOT,
    DISK,
    DISK_SIZE,
    FAT_SIZE,
    FAT_START,
    NTFS_SIZE,
    NTFS_START,
    SYSTEM,
    WindowsSource,
    windows_source,
)

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]

SHADOW = "\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy1"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[WindowsSource]:
    with windows_source(tmp_path) as made:
        yield made


@contextmanager
def reached(source: WindowsSource) -> Iterator[Transport]:
    with open_transport(source.sshd.url, options(source.sshd)) as transport:
        yield transport


@contextmanager
def the_disk(source: WindowsSource) -> Iterator[WindowsDisk]:
    with reached(source) as transport, transport.open_disk(Disk(DISK, DISK_SIZE)) as device:
        assert isinstance(device, WindowsDisk)
        yield device


def test_the_machine_and_where_its_partitions_are(source: WindowsSource) -> None:
    with reached(source) as transport:
        survey = transport.survey()
    machine = survey.machine
    assert (machine.hostname, machine.live, machine.firmware) == ("DESKTOP-4L7QH2M", True, Firmware.UEFI)
    assert [(one.path, one.size, one.idle) for one in machine.disks] == [(DISK, DISK_SIZE, False)]
    assert [(one.disk, one.partition, one.place) for one in survey.mounts] == [
        (DISK, 2, "C:\\"),
        (DISK, 1, BOOT),
    ]
    assert survey.boot_id == "638400210123456789"


def test_microsofts_server_is_known_by_its_first_line(source: WindowsSource) -> None:
    """Nothing is asked before the script is sent; and the script is the one that the package carries."""
    with reached(source) as transport:
        transport.survey()
    lines = source.log().splitlines()
    assert lines[0].startswith("> powershell.exe -NoProfile -NonInteractive")
    script = whole_script()
    assert f"inventory {hashlib.sha256(script).hexdigest()}" in lines


def test_another_server_on_a_windows_is_asked(tmp_path: Path) -> None:
    with windows_source(tmp_path, extra=()) as source:
        with reached(source) as transport:
            assert isinstance(transport, WindowsTransport)
        assert source.log().splitlines() == ["> id -u", "> echo %OS% $env:OS"]


def test_bytes_and_digests_are_those_of_the_disk(source: WindowsSource) -> None:
    content = source.image.read_bytes()
    requests = [
        BlockRequest(0, 0, BLOCK_SIZE, ((0, 8192), (MiB, 65536))),
        BlockRequest(2, 2 * BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),)),
        BlockRequest(15, 15 * BLOCK_SIZE, BLOCK_SIZE, ((4096, MiB),)),
    ]
    with the_disk(source) as device:
        assert device.size == DISK_SIZE
        assert device.read(NTFS_START + 3, 4) == b"NTFS"
        for request, block in zip(requests, device.fetch(requests), strict=True):
            whole = bytearray(BLOCK_SIZE)
            for start, size in request.pairs:
                at = request.offset + start
                whole[start : start + size] = content[at : at + size]
            assert block.digest == hashlib.sha256(whole).digest()
            assert bytes(block.data) == b"".join(bytes(whole[at : at + size]) for at, size in request.pairs)
        hashed = [digest for _, digest in device.hash_blocks(requests)]
        assert hashed == [block.digest for block in device.fetch(requests)]


def test_noise_on_both_lines_is_passed_over(source: WindowsSource) -> None:
    source.change(noise="Microsoft Windows [Version 10.0.19045]\r\nProfil geladen\r\n")
    with the_disk(source) as device:
        assert device.read(FAT_START + 510, 2) == b"\x55\xaa"


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"hello": {"administrator": False}}, "is no administrator", "Administrators"),
        ({"language": "ConstrainedLanguage"}, "language mode ConstrainedLanguage", "Application Control"),
        (
            {"hello": {"problem": "Add-Type does not work: denied"}},
            "Add-Type does not work",
            "PSVersionTable",
        ),
        ({"hello": {"problem": "it has PowerShell 4.0, and 5.1 is needed"}}, "5.1 is needed", "PSVersion"),
    ],
)
def test_who_may_not_or_cannot_is_told_why(
    source: WindowsSource, values: dict[str, object], message: str, hint: str
) -> None:
    source.change(**values)
    with reached(source) as transport, pytest.raises(TransportError, match=message) as caught:
        transport.survey()
    assert hint in caught.value.hint


@pytest.mark.parametrize("fault", ["killed@reader", "killed@block 2", "nonsense@block 2", "too much@block 2"])
def test_faults_of_the_reader_are_errors_of_the_transport(source: WindowsSource, fault: str) -> None:
    source.change(fault=fault)
    with bounded(60), pytest.raises(TransportError):
        read_twice(source)
    assert read_twice(source) == b"NTFS"


def test_a_reader_that_says_nothing_is_not_waited_for_for_ever(
    source: WindowsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2v.transports.windows.STALL_SECONDS", 2.0)
    source.change(fault="silence@block 2")
    with bounded(30), pytest.raises(ConnectionLost, match="nothing for 2 s"):
        read_twice(source)


def read_twice(source: WindowsSource) -> bytes:
    with the_disk(source) as device:
        assert device.read(0, 512)[510:] == b"\x55\xaa"
        return device.read(NTFS_START + 3, 4)


def test_a_bad_sector_is_told_with_its_place(source: WindowsSource) -> None:
    source.change(bad=NTFS_START + 3 * MiB)
    request = BlockRequest(2, NTFS_START, BLOCK_SIZE, ((0, BLOCK_SIZE),))
    with the_disk(source) as device:
        with pytest.raises(ReadError, match="cyclic redundancy") as caught:
            list(device.fetch([request]))
        assert caught.value.offset == NTFS_START
        assert device.read(0, 512)[510:] == b"\x55\xaa"


def create(source: WindowsSource) -> tuple[str, ...]:
    with reached(source) as transport, transport.open_snapshots() as keeper:
        made = keeper.create([SnapshotSize("", SYSTEM, 0)])
        assert len(source.shadows()) == 1
        return made.devices


def test_snapshots_go_at_the_end_whatever_happens(source: WindowsSource) -> None:
    assert create(source) == (SHADOW,)
    source.wait_until_clean()


def test_a_snapshot_of_each_volume(source: WindowsSource) -> None:
    """One after the other: the receipt says how far they are apart."""
    sizes = [SnapshotSize("", SYSTEM, 0), SnapshotSize("", BOOT, 0)]
    with reached(source) as transport, transport.open_snapshots() as keeper:
        made = keeper.create(sizes)
        assert made.devices == (SHADOW, SHADOW[:-1] + "2")
        assert 0 < made.span < 60
        assert [path.stat().st_size for path in source.shadows()] == [NTFS_SIZE, FAT_SIZE]
        removed = keeper.remove()
        assert (removed.overflown, removed.left) == ((), ())
        assert not source.shadows()


def test_snapshots_go_when_the_session_is_killed(source: WindowsSource) -> None:
    with pytest.raises(ConnectionLost):
        create_and_cut(source)
    source.wait_until_clean()


def create_and_cut(source: WindowsSource) -> None:
    with reached(source) as transport, transport.open_snapshots() as keeper:
        keeper.create([SnapshotSize("", SYSTEM, 0)])
        assert source.shadows()
        source.sshd.cut()
        keeper.remove()


@pytest.mark.parametrize("code", [*REASONS, 99])
def test_each_refusal_of_a_snapshot_has_its_reason(source: WindowsSource, code: int) -> None:
    source.change(vss={SYSTEM: code})
    with pytest.raises(TransportError, match="no snapshot") as caught:
        create(source)
    assert caught.value.hint
    assert (REASONS[code].text if code in REASONS else "99") in caught.value.message


def test_pieces_come_from_the_snapshot_and_the_tail_from_the_disk(source: WindowsSource) -> None:
    """What is written after the snapshot is not seen, but for what is behind the filesystem."""
    source.change(tail=4096)
    with reached(source) as transport, transport.open_snapshots() as keeper:
        made = keeper.create([SnapshotSize("", SYSTEM, 0)])
        before = source.image.read_bytes()
        with source.image.open("r+b") as disk:
            disk.seek(NTFS_START + MiB)
            disk.write(b"later" * 1000)
            disk.seek(NTFS_START + NTFS_SIZE - 4096)
            disk.write(b"tail")
        with transport.open_disk(Disk(DISK, DISK_SIZE)) as device:
            assert isinstance(device, WindowsDisk)
            composed = device.composed([Piece(NTFS_START, NTFS_SIZE, made.devices[0], 0)])
            assert device.read(NTFS_START + MiB, 5) == b"later"
            assert composed.read(NTFS_START, 2 * MiB) == before[NTFS_START : NTFS_START + 2 * MiB]
            assert composed.read(NTFS_START + NTFS_SIZE - 4096, 4) == b"tail"
            assert composed.read(NTFS_START - 512, 1024) == before[NTFS_START - 512 : NTFS_START + 512]
