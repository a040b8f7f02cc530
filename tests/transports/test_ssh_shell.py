"""A source without Python over a real sshd: found out by itself, and the same copy as with it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v import command
from p2v.disk import salvage
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.device import BlockRequest
from p2v.disk.extents import block_requests
from p2v.disk.salvage import SalvageDevice
from p2v.disk.used import disk_map
from p2v.errors import ConnectionLost, ReadError, TransportError
from p2v.model import Disk, Extent, MiB, Severity
from p2v.transports import SshOptions, Transport, open_transport
from p2v.transports.ssh import SshTransport
from p2v.transports.ssh_shell import SLOW_WAY, ShellTransport
from tests.conftest import need_tools
from tests.disk.bad_disk import bad_loop
from tests.sshd import Sshd, private_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(120)]

TOOLS = (
    "sh",
    "dd",
    "id",
    "uname",
    "grep",
    "sed",
    "stat",
    "sync",
    "readlink",
    "sha256sum",
    "tr",
    "ip",
    "echo",
)
SIZE = 96 * MiB


def only(folder: Path, busybox: bool) -> Path:
    """A folder for PATH that has no Python; of busybox, or of what is on this machine."""
    folder.mkdir()
    for name in (*TOOLS, "blockdev", "cut", "true"):
        target = "/usr/bin/busybox" if busybox else shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if target:
            (folder / name).symlink_to(target)
    return folder


@contextmanager
def served(folder: Path, tools: Path) -> Iterator[Sshd]:
    """A server whose commands find these tools first, and Python nowhere."""
    wrapper = folder / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nPATH={tools}\nexport PATH\nexec {tools}/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    wrapper.chmod(0o755)
    with private_sshd(folder / "sshd", extra=[f"ForceCommand {wrapper}"]) as server:
        yield server


@pytest.fixture(scope="module", params=["busybox", "usual tools"])
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen", "busybox")
    if os.geteuid() != 0:
        pytest.skip("the disk must be read as root")
    folder = tmp_path_factory.mktemp("bare")
    with served(folder, only(folder / "tools", request.param == "busybox")) as server:
        yield server


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    with private_sshd(tmp_path_factory.mktemp("usual")) as server:
        yield server


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """An ext4 filesystem with files that shrink, files that do not, and holes between them."""
    need_tools("mkfs.ext4")
    folder = tmp_path_factory.mktemp("disk")
    content = folder / "content"
    content.mkdir()
    chance = random.Random(5)
    for number in range(60):
        size = chance.choice((100, 5000, 70_000, 1_500_000))
        noise = chance.randbytes(size) if number % 2 else b"line of a log\n" * (size // 14)
        (content / f"file{number}").write_bytes(noise)
    image = folder / "disk.img"
    image.touch()
    os.truncate(image, SIZE)
    make = ["mkfs.ext4", "-q", "-b", "4096", "-d", str(content), str(image)]
    command.check(make, timeout=60, reason="make a filesystem")
    return Disk(str(image), SIZE)


@contextmanager
def reached(server: Sshd) -> Iterator[Transport]:
    options = SshOptions(
        identity=server.identity, known_hosts=server.known_hosts, config_file=Path("/dev/null")
    )
    with open_transport(server.url, options) as transport:
        yield transport


def captured(transport: Transport, disk: Disk, folder: Path) -> tuple[str, str, list[tuple[int, int]]]:
    """Digest over the digests, digest of the image, and where the image has data."""
    files = ImageFiles(folder / "disk0.raw", folder / "disk0.digest")
    with transport.open_disk(disk) as device:
        used = disk_map(device, disk)
        assert used.data_size < disk.size
        found = capture_disk(device, used.extents, files, progress=lambda _: None)
    verify_image(files.partial_image, found.table, progress=lambda _: None)
    with files.partial_image.open("rb") as image:
        whole = hashlib.file_digest(image, "sha256").hexdigest()
        return found.table.summary, whole, data_of(image.fileno())


def data_of(handle: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    at = 0
    while True:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            return ranges
        at = os.lseek(handle, start, os.SEEK_HOLE)
        ranges.append((start, at))


def test_the_same_copy_as_with_python(bare: Sshd, usual: Sshd, disk: Disk, tmp_path: Path) -> None:
    with reached(usual) as transport:
        assert isinstance(transport, SshTransport)
        folder = tmp_path / "usual"
        folder.mkdir()
        wanted = captured(transport, disk, folder)
    with reached(bare) as transport:
        assert isinstance(transport, ShellTransport)
        assert captured(transport, disk, tmp_path) == wanted
        # And once more onto what is there: both sides hash, nothing is fetched.
        assert captured(transport, disk, tmp_path) == wanted


def test_the_same_machine_with_a_warning(bare: Sshd, usual: Sshd) -> None:
    with reached(usual) as transport:
        wanted = transport.survey()
    with reached(bare) as transport:
        found = transport.survey()
        assert transport.boot_id == wanted.boot_id
        with pytest.raises(TransportError, match="held still"):
            transport.open_guard()
    assert found.machine.findings == (SLOW_WAY,)
    assert SLOW_WAY.severity is Severity.WARNING
    assert found.mounts == wanted.mounts
    for name in ("hostname", "kernel", "memory", "cpus", "nics", "os", "uuid", "firmware"):
        assert getattr(found.machine, name) == getattr(wanted.machine, name)
    assert [one.path for one in found.machine.disks] == [one.path for one in wanted.machine.disks]


def test_bad_sectors(bare: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dd goes on behind them: the rest of the disk comes, and what does not is known to the sector."""
    monkeypatch.setattr(salvage, "PAUSES", (0.05,))
    content = os.urandom(9 * MiB)
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    bad = (5 * MiB + 4096, 4096)
    files = ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest")
    with bad_loop(image, tmp_path) as (loop, sectors), reached(bare) as transport:
        sectors.set(bad)
        with transport.open_disk(Disk(str(loop), len(content))) as device:
            with pytest.raises(ReadError, match=f"cannot be read at byte {bad[0]}"):
                list(SalvageDevice(device, name="sdx").fetch(whole(device.size)))
            safe = SalvageDevice(device, name="sdx", fill=True)
            capture_disk(safe, [Extent(0, device.size)], files, progress=lambda _: None)
    assert safe.bad == (Extent(*bad),)
    assert files.partial_image.read_bytes() == content[: bad[0]] + bytes(bad[1]) + content[sum(bad) :]


def whole(size: int) -> list[BlockRequest]:
    return list(block_requests([Extent(0, size)], size=size))


def test_a_cut_line_is_a_lost_connection(bare: Sshd, disk: Disk) -> None:
    with reached(bare) as transport, transport.open_disk(disk) as device:
        bare.cut()
        with pytest.raises(ConnectionLost):
            list(device.fetch(whole(disk.size)))
