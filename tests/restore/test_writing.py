"""An image onto a disk over a real sshd: what is there then, what a fault leaves, and what is refused."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v import command
from p2v.disk import digests
from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import ConnectionLost, PlanRefused, TransportError, VerifyError
from p2v.model import BLOCK_SIZE, Disk, Extent, KiB, MiB
from p2v.restore.writing import DiskJob, DiskWriter, DiskWritten
from p2v.transports.frames import Codec
from p2v.transports.writer_client import WriterClient
from p2v.transports.writer_frames import Clear, PackedBlock
from tests.conftest import need_tools
from tests.restore.metal import loop_device, rescue
from tests.sshd import Sshd

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(120)]

SIZE = 80 * MiB


def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Noise, text, zeros, and a hole; the end is no whole block."""
    path = tmp_path / "image.raw"
    with path.open("wb") as file:
        file.write(random_bytes(10 * MiB, 1))
        file.write(b"what compresses well\n" * 400_000)
        file.write(bytes(6 * MiB))
        file.seek(60 * MiB)
        file.write(random_bytes(3 * MiB, 2))
        file.truncate(SIZE - 8 * KiB)
    return path


USED = (Extent(0, 30 * MiB), Extent(33 * MiB, 64 * KiB), Extent(58 * MiB, SIZE - 58 * MiB - 8 * KiB))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target.disk"
    path.write_bytes(random_bytes(SIZE, 3))
    return path


@contextmanager
def writer(sshd: Sshd) -> Iterator[WriterClient]:
    with rescue(sshd) as machine, machine.open_writer() as client:
        yield client


def write(
    sshd: Sshd, image: Path, disk: Disk, *, compare: bool = False, journal: Path | None = None
) -> DiskWritten:
    journal = journal or image.with_name("disk0.written")
    with writer(sshd) as client, open_file_device(image) as device:
        job = DiskJob(device, USED, disk, journal, compare=compare)
        return DiskWriter(job, client, client.open(disk)).run()


def used_of(content: bytes) -> bytes:
    return b"".join(content[extent.start : extent.end] for extent in USED)


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_what_is_used_arrives_and_what_is_free_stays(sshd: Sshd, image: Path, target: Path) -> None:
    before = target.read_bytes()
    done = write(sshd, image, Disk(str(target), SIZE))
    after, wanted = target.read_bytes(), image.read_bytes()
    assert used_of(after) == used_of(wanted)
    assert after[30 * MiB : 33 * MiB] == before[30 * MiB : 33 * MiB]
    assert after[34 * MiB : 58 * MiB] == before[34 * MiB : 58 * MiB]
    assert done.sent_size == done.verified_size == done.data_size == sum(one.length for one in USED)
    # Zeros do not travel, and most of the text does as less.
    assert done.wire_size < 25 * MiB


def test_the_end_of_a_larger_disk_is_cleared(sshd: Sshd, image: Path, target: Path) -> None:
    with target.open("ab") as file:
        file.write(random_bytes(20 * MiB, 4))
    write(sshd, image, Disk(str(target), SIZE + 20 * MiB))
    content = target.read_bytes()
    assert content[-MiB:] == bytes(MiB)
    assert content[-2 * MiB : -MiB] != bytes(MiB)


def test_a_block_device_is_written_past_the_cache(sshd: Sshd, image: Path, target: Path) -> None:
    with loop_device(target) as disk:
        write(sshd, image, disk)
        after = Path(disk.path).read_bytes()
    assert used_of(after) == used_of(image.read_bytes())
    # A disk that can forget has forgotten what was there.
    assert after[40 * MiB : 50 * MiB] == bytes(10 * MiB)
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())


def test_only_what_differs_travels(sshd: Sshd, image: Path, target: Path) -> None:
    content = bytearray(SIZE)
    content[: SIZE - 8 * KiB] = image.read_bytes()
    for at in (5 * MiB + 300, 61 * MiB, 61 * MiB + 700 * KiB):
        content[at] ^= 0xFF
    target.write_bytes(content)
    done = write(sshd, image, Disk(str(target), SIZE), compare=True)
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())
    assert done.sent_size == 3 * 64 * KiB
    assert done.kept_size == done.data_size - done.sent_size
    # The blocks with the changes are read back whole.
    assert done.verified_size == 2 * BLOCK_SIZE


def test_very_much_that_differs_is_sent_whole(
    sshd: Sshd, image: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2v.restore.writing.NARROWED", 2)
    done = write(sshd, image, Disk(str(target), SIZE), compare=True)
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())
    assert done.sent_size == done.data_size


def test_an_index_of_more_than_is_used_costs_no_block(sshd: Sshd, image: Path, target: Path) -> None:
    """Digests of a capture are of whole blocks; the map of today may find less used in them."""
    table = digests.DigestTable(SIZE - 8 * KiB)
    for index in range(digests.block_count(table.size)):
        table[index] = bytes([index]) * 32
    with writer(sshd) as client, open_file_device(image) as device:
        disk = Disk(str(target), SIZE)
        for _ in range(2):
            job = DiskJob(device, USED, disk, target.with_suffix(".written"), compare=True, index=table)
            done = DiskWriter(job, client, client.open(disk)).run()
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())
    assert done.sent_size == 0


def test_a_cut_line_is_gone_on_with(sshd: Sshd, image: Path, target: Path) -> None:
    """What the first try wrote is not sent again."""
    journal = image.with_name("disk0.written")
    cutter = threading.Thread(target=cut_when_grown, args=(sshd, journal, 2 * digests.RECORD.size))
    cutter.start()
    disk = Disk(str(target), SIZE)
    with pytest.raises(ConnectionLost), slow_lines():
        write(sshd, image, disk, journal=journal)
    cutter.join()
    assert used_of(target.read_bytes()) != used_of(image.read_bytes())
    done = write(sshd, image, disk, journal=journal)
    assert done.kept_size >= 2 * BLOCK_SIZE
    assert done.sent_size == done.data_size - done.kept_size
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())


@contextmanager
def slow_lines() -> Iterator[None]:
    """Each block takes a moment, so that there is something to cut."""
    patch = pytest.MonkeyPatch()
    honest = DiskWriter._count

    def slow(self: DiskWriter, size: int, seconds: float) -> None:
        time.sleep(0.1)
        honest(self, size, seconds)

    patch.setattr(DiskWriter, "_count", slow)
    patch.setattr("p2v.transports.writer_client.IN_FLIGHT", 2)
    try:
        yield
    finally:
        patch.undo()


def cut_when_grown(sshd: Sshd, journal: Path, size: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not journal.exists() or journal.stat().st_size < size):
        time.sleep(0.01)
    sshd.cut()


def test_a_lying_note_is_not_believed(sshd: Sshd, image: Path, target: Path) -> None:
    """A machine that lost its power after it had said that a block was written."""
    journal = image.with_name("disk0.written")
    write(sshd, image, Disk(str(target), SIZE), journal=journal)
    with target.open("r+b") as file:
        file.seek(9 * MiB)
        file.write(bytes(512))
    done = write(sshd, image, Disk(str(target), SIZE), journal=journal)
    assert done.sent_size == BLOCK_SIZE
    assert used_of(target.read_bytes()) == used_of(image.read_bytes())


def test_a_disk_that_keeps_something_else_is_noticed(sshd: Sshd, image: Path, target: Path) -> None:
    disk = Disk(str(target), SIZE)
    with writer(sshd) as client, open_file_device(image) as device:
        job = DiskJob(device, USED, disk, image.with_name("disk0.written"))
        spoiled = DiskWriter(job, Spoiling(client, target), client.open(disk))  # type: ignore[arg-type]
        with pytest.raises(VerifyError, match="Block 15 of"):
            spoiled.run()


class Spoiling:
    """A disk that forgets a byte between the flush and the reading."""

    def __init__(self, client: WriterClient, target: Path) -> None:
        self._client = client
        self._target = target

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def flush(self, disk: int) -> None:
        self._client.flush(disk)
        with self._target.open("r+b") as file:
            file.seek(60 * MiB)
            file.write(b"\0")


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (Disk("target.disk", SIZE - 4096), "bytes, not"),
        (Disk("target.disk", SIZE, serial="WD-1"), "has not the serial WD-1"),
        (Disk("target.disk", SIZE, wwn="0x5000"), "has not the wwn 0x5000"),
    ],
    ids=["size", "serial", "wwn"],
)
def test_another_disk_is_refused(sshd: Sshd, target: Path, disk: Disk, said: str) -> None:
    before = sha256(target)
    with writer(sshd) as client, pytest.raises(PlanRefused, match=said):
        client.open(Disk(str(target), disk.size, serial=disk.serial, wwn=disk.wwn))
    assert sha256(target) == before


def test_a_mounted_disk_is_refused_by_the_kernel(sshd: Sshd, target: Path, tmp_path: Path) -> None:
    need_tools("mkfs.ext4", "mount", "umount")
    command.check(["mkfs.ext4", "-q", "-F", target], timeout=30, reason="make a filesystem")
    place = tmp_path / "mounted"
    place.mkdir()
    with loop_device(target) as disk:
        command.check(["mount", disk.path, place], timeout=30, reason="mount it")
        try:
            with writer(sshd) as client, pytest.raises(PlanRefused, match="is in use"):
                client.open(disk)
        finally:
            command.check(["umount", place], timeout=30, reason="unmount it")


def test_what_arrives_wrong_is_not_written(sshd: Sshd, target: Path) -> None:
    before = sha256(target)
    request = BlockRequest(0, 0, BLOCK_SIZE, ((0, 4096),))
    wrong = PackedBlock(request, Codec.NONE, os.urandom(4096), bytes(32))
    with writer(sshd) as client:
        number = client.open(Disk(str(target), SIZE))
        with pytest.raises(VerifyError, match="another digest"):
            list(client.write(number, [wrong], wrote=lambda size, seconds: None))
    assert sha256(target) == before


@pytest.mark.parametrize(
    "request_", [BlockRequest(0, SIZE, 4096, ((0, 4096),)), BlockRequest(0, 0, 4096, ((4096, 4096),))]
)
def test_a_block_outside_of_the_disk_is_not_written(sshd: Sshd, target: Path, request_: BlockRequest) -> None:
    before = sha256(target)
    block = PackedBlock(request_, Codec.NONE, bytes(4096), hashlib.sha256(bytes(4096)).digest())
    with writer(sshd) as client:
        number = client.open(Disk(str(target), SIZE))
        with pytest.raises(TransportError, match="outside"):
            list(client.write(number, [block], wrote=lambda size, seconds: None))
        with pytest.raises(TransportError, match="outside"):
            client.clear(number, SIZE - 4096, 8192, Clear.ZERO)
    assert sha256(target) == before


def test_a_full_disk_is_the_machines_fault(sshd: Sshd, image: Path, tmp_path: Path) -> None:
    """A thin volume that is full: the kernel says ENOSPC in the middle of it."""
    need_tools("mount", "umount")
    place = tmp_path / "small"
    place.mkdir()
    command.check(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", place], timeout=30, reason="mount")
    try:
        thin = place / "thin.disk"
        with thin.open("wb") as file:
            file.truncate(SIZE)
        with pytest.raises(TransportError, match="No space left"):
            write(sshd, image, Disk(str(thin), SIZE))
    finally:
        command.check(["umount", "-l", place], timeout=30, reason="unmount")


def test_nothing_is_written_to_a_rehearsal(sshd: Sshd, image: Path, target: Path) -> None:
    before = sha256(target)
    disk = Disk(str(target), SIZE)
    with writer(sshd) as client, open_file_device(image) as device:
        job = DiskJob(device, USED, disk, image.with_name("disk0.written"), compare=True)
        one = DiskWriter(job, client, client.open(disk))
        assert one.rehearse(list(one.compare())[:3]) > 0
    assert sha256(target) == before
