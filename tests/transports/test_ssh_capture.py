"""A disk over a real sshd: what arrives, what a limit does, and what a cut line leaves behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.disk import digests
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.errors import TransportError
from p2v.model import BLOCK_SIZE, Disk, Extent, MiB
from p2v.transports import SshOptions, open_transport
from p2v.transports.rate import RateLimit
from tests.conftest import need_tools
from tests.sshd import Sshd, private_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(120)]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("the reader must run as root")
    with private_sshd(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(160 * MiB))
    return Disk(str(path), 160 * MiB)


def options(sshd: Sshd) -> SshOptions:
    return SshOptions(identity=sshd.identity, known_hosts=sshd.known_hosts, config_file=Path("/dev/null"))


def capture(
    sshd: Sshd, disk: Disk, folder: Path, *, limit: RateLimit | None = None
) -> tuple[ImageFiles, int]:
    """Everything but the second block; returns the files and the bytes that were taken over."""
    files = ImageFiles(folder / "disk0.raw", folder / "disk0.digest")
    used = (Extent(0, BLOCK_SIZE), Extent(2 * BLOCK_SIZE, disk.size - 2 * BLOCK_SIZE))
    took = limit.take if limit else None
    with open_transport(sshd.url, options(sshd), took=took) as transport, transport.open_disk(disk) as device:
        captured = capture_disk(device, used, files, progress=lambda _: None)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    return files, captured.stats.reused_size


def wanted(disk: Disk) -> bytes:
    content = bytearray(Path(disk.path).read_bytes())
    content[BLOCK_SIZE : 2 * BLOCK_SIZE] = bytes(BLOCK_SIZE)
    return bytes(content)


def test_what_arrives_is_what_is_there(sshd: Sshd, disk: Disk, tmp_path: Path) -> None:
    files, _ = capture(sshd, disk, tmp_path)
    assert files.partial_image.read_bytes() == wanted(disk)


def test_a_cut_line_is_an_error_and_the_next_try_goes_on(sshd: Sshd, disk: Disk, tmp_path: Path) -> None:
    """Cut three times; each try keeps what the ones before it wrote."""
    journal = tmp_path / "disk0.digest.part"
    sizes = []
    for _ in range(3):
        size = journal.stat().st_size if journal.exists() else 0
        cutter = threading.Thread(target=cut_when_grown, args=(sshd, journal, size + 2 * digests.RECORD.size))
        cutter.start()
        with pytest.raises(TransportError):
            capture(sshd, disk, tmp_path, limit=RateLimit(24 * MiB))
        cutter.join()
        sizes.append(journal.stat().st_size)
    assert sizes == sorted(sizes)
    files, reused = capture(sshd, disk, tmp_path)
    assert reused >= 4 * BLOCK_SIZE
    assert files.partial_image.read_bytes() == wanted(disk)


def cut_when_grown(sshd: Sshd, journal: Path, size: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not journal.exists() or journal.stat().st_size < size):
        time.sleep(0.01)
    sshd.cut()


def test_the_limit_is_told_of_every_byte(sshd: Sshd, disk: Disk, tmp_path: Path) -> None:
    """Random bytes do not shrink, so that at least as many came as were copied; how it waits is its own
    test.
    """
    taken: list[int] = []

    class Counts(RateLimit):
        def take(self, size: int) -> None:
            taken.append(size)

    capture(sshd, disk, tmp_path, limit=Counts(None))
    assert disk.size - BLOCK_SIZE <= sum(taken) < disk.size
