"""A capture over a real sshd while things break: nothing that came is lost, no byte is wrong, tries end."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from p2v import command, retry, rooms
from p2v.capture import capture, is_captured
from p2v.disk import salvage
from p2v.disk.device import BlockData, BlockRequest
from p2v.disk.digests import RECORD
from p2v.errors import ConnectionLost, ExitCode, ReadError, TargetError, TransportError
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import BLOCK_SIZE, CaptureStats, Consistency, Disk, MiB, Plan, PlannedDisk, Unreadable
from p2v.run import Run, create_run
from p2v.transports import Survey
from p2v.transports.reader_client import RemoteDisk
from p2v.transports.ssh import SshTransport
from p2v.transports.ssh_session import SshSession
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.disk.bad_disk import bad_loop, forget
from tests.lines import again, kill, proxy
from tests.plans import make_plan
from tests.sshd import Sshd, private_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(120)]

SIZE = 24 * BLOCK_SIZE
SERIAL = "FAULTY-1"


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("the reader must run as root")
    with private_sshd(tmp_path / "sshd") as server:
        yield server


@dataclass
class Stage:
    """A machine with one disk that is reached over `port`, the run that captures it, and what was said."""

    sshd: Sshd
    folder: Path
    path: Path
    plan: Plan
    port: int
    ui: io.StringIO
    fetched: list[int]
    serial: str = SERIAL
    hostname: str = ""
    boot: str = ""

    @property
    def journal(self) -> Path:
        return self.folder / "runs" / "web01" / "capture" / "disk0.digest.part"

    @property
    def said(self) -> str:
        return self.ui.getvalue()

    @property
    def lost(self) -> int:
        """How often it had to try again."""
        return self.said.count("trying again")

    @property
    def kept(self) -> int:
        """Blocks in the journal."""
        return self.journal.stat().st_size // RECORD.size if self.journal.exists() else 0

    @contextmanager
    def run(self) -> Iterator[Run]:
        with create_run(
            self.folder / "runs", "web01", self.plan, job={}, order=rooms.order(self.plan)
        ) as run:
            yield run

    def capture(
        self, *, retry_for: str = "30s", allow_bad_sectors: bool = False, limit: str = ""
    ) -> CaptureStats:
        """One try as a command would do it; the image is compared with the disk."""
        job = Job(
            f"ssh://{self.sshd.user}@127.0.0.1:{self.port}",
            ("libvirt",),
            self.folder / "runs",
            identity=self.sshd.identity,
            known_hosts=self.sshd.folder / "known",
            retry_for=retry_for,
            allow_bad_sectors=allow_bad_sectors,
            limit=limit,
        )
        house = House(UI(style=ProgressStyle.LINES, stderr=self.ui), self.folder / "home")
        with self.run() as run, Source(job, house) as source:
            source.transport().survey()
            images, stats = capture(run, self.plan, source, house)
            assert is_captured(run)
            self.image = run.path / images[0].path
        return stats

    def right(self) -> bool:
        return self.image.read_bytes() == self.path.read_bytes()


@pytest.fixture
def stage(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(SIZE))
    disk = Disk(str(path), SIZE, serial=SERIAL)
    # Consistency has tests of its own: here nobody writes to the disk.
    machine = replace(make_plan().machine, uuid="", os=None, hostname=os.uname().nodename, disks=(disk,))
    plan = replace(
        make_plan(), machine=machine, disks=(PlannedDisk(0, disk, SIZE),), consistency=Consistency.OFFLINE
    )
    made = Stage(sshd, tmp_path, path, plan, sshd.port, io.StringIO(), [])
    let_in(made, sshd.port)
    dress(made, monkeypatch)
    return made


def let_in(stage: Stage, *ports: int) -> None:
    key = " ".join(stage.sshd.host_key.with_suffix(".pub").read_text().split()[:2])
    lines = [f"[127.0.0.1]:{port} {key}\n" for port in (stage.sshd.port, *ports)]
    (stage.sshd.folder / "known").write_text("".join(lines))


def dress(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that answers has the disk of the test; blocks that came are counted."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.2)
    survey, fetch = SshTransport.survey, RemoteDisk.fetch

    def dressed(self: SshTransport) -> Survey:
        found = survey(self)
        if stage.boot:
            self._boot_id = stage.boot
            found = replace(found, boot_id=stage.boot)
        machine = replace(
            found.machine,
            uuid="",
            os=None,
            hostname=stage.hostname or found.machine.hostname,
            disks=(Disk(str(stage.path), SIZE, serial=stage.serial),),
        )
        return replace(found, machine=machine)

    def counted(self: RemoteDisk, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for block in fetch(self, requests):
            stage.fetched.append(block.request.index)
            yield block

    monkeypatch.setattr(SshTransport, "survey", dressed)
    monkeypatch.setattr(RemoteDisk, "fetch", counted)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_line_that_is_reset_again_and_again(stage: Stage) -> None:
    """At any byte: in the middle of a handshake, of a question, of a block. It goes on by itself."""
    with proxy(stage.sshd.port) as line:
        stage.port = line.port
        let_in(stage, line.port)

        def cut() -> None:
            until(lambda: stage.kept > 0)
            for size in CUTS:
                before = stage.lost
                line.cut_after(size)
                until(lambda before=before: stage.lost > before)  # type: ignore[misc]

        with beside(cut):
            stats = stage.capture(limit="60M")
    assert stage.lost >= len(CUTS)
    assert stage.right()
    assert stats.reused_size > 0
    # A block that came whole is never asked for again, but for the one that the line was at.
    assert len(stage.fetched) <= SIZE // BLOCK_SIZE + len(CUTS)


CUTS = (3 * MiB, 900, 5000, 9 * MiB, 40, 4 * MiB + 13)
"""Bytes after which the line breaks: some before anybody is let in, some within a block."""


def after(blocks: int, stage: Stage, act: Callable[[], None]) -> Callable[[], None]:
    """Wait until so many blocks are kept, then act."""

    def work() -> None:
        until(lambda: stage.kept >= blocks)
        act()

    return work


def test_a_server_that_is_killed_and_comes_back(stage: Stage) -> None:
    """Gone for some seconds: refused at first, then let in again; the copy goes on where it stood."""
    back = threading.Event()

    def restart() -> None:
        until(lambda: stage.kept > 3)
        kill(stage.sshd)
        until(lambda: "refused the connection" in stage.said)
        with again(stage.sshd):
            back.wait(timeout=60)

    with beside(restart):
        try:
            stage.capture(limit="40M")
        finally:
            back.set()
    assert stage.right()
    assert len(stage.fetched) <= SIZE // BLOCK_SIZE + 1


def test_a_server_that_stays_away(stage: Stage) -> None:
    """The tries end with the exit code of the source's administrator, and another day it goes on."""
    with (
        beside(after(4, stage, lambda: kill(stage.sshd))),
        pytest.raises(ConnectionLost, match="given up after 3 s") as caught,
    ):
        stage.capture(retry_for="3s", limit="40M")
    assert caught.value.exit_code == ExitCode.TRANSPORT
    kept = stage.kept
    assert kept > 3
    with again(stage.sshd):
        stats = stage.capture()
    assert stage.right()
    assert stats.reused_size == kept * BLOCK_SIZE
    assert len(stage.fetched) <= SIZE // BLOCK_SIZE + 1


def test_without_retries_the_first_loss_is_the_end(stage: Stage) -> None:
    with beside(after(2, stage, stage.sshd.cut)), pytest.raises(ConnectionLost):
        stage.capture(retry_for="0", limit="40M")
    assert "trying again" not in stage.said


@pytest.mark.parametrize("silence", ["source", "network"])
def test_a_line_on_which_nothing_moves(stage: Stage, silence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source hangs, or a router swallows everything: noticed, and another connection helps."""
    impatient(monkeypatch, seconds=2.0)
    with proxy(stage.sshd.port) as line:
        stage.port = line.port
        let_in(stage, line.port)
        stop = stage.sshd.freeze if silence == "source" else line.swallow
        with beside(after(3, stage, stop)):
            stage.capture(limit="40M")
    assert "sent nothing for 2 s" in stage.said
    assert stage.right()


def impatient(monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    opened = SshSession.open_stream
    monkeypatch.setattr(
        SshSession, "open_stream", lambda self, command, **_: opened(self, command, stall_timeout=seconds)
    )


def test_the_disk_has_another_name_after_a_reboot(stage: Stage) -> None:
    """It is known by its serial; that the machine was started anew is known, too."""
    stage.boot = "first"

    def reboot() -> None:
        until(lambda: stage.kept > 2)
        stage.path = stage.path.rename(stage.path.with_name("sdb.img"))
        stage.boot = "second"
        stage.sshd.cut()

    with beside(reboot):
        stage.capture(limit="40M")
    assert stage.right()
    assert len(stage.fetched) <= SIZE // BLOCK_SIZE + 1


@pytest.mark.parametrize(
    ("change", "said"), [("hostname", "Another machine answers"), ("serial", "no disk any more")]
)
def test_another_machine_is_not_copied_into_this_run(stage: Stage, change: str, said: str) -> None:
    def swap() -> None:
        until(lambda: stage.kept > 2)
        setattr(stage, change, "other")
        stage.sshd.cut()

    with beside(swap), pytest.raises(TransportError, match=said) as caught:
        stage.capture(limit="40M")
    assert not isinstance(caught.value, ConnectionLost)


@pytest.fixture
def small(stage: Stage) -> Iterator[Path]:
    """The folder of the runs is a filesystem with too little space, and a file that can make room."""
    need_tools("mkfs.ext4", "mount", "umount", "fallocate")
    image = stage.folder / "small.img"
    image.touch()
    os.truncate(image, 150 * MiB)
    place = stage.folder / "runs"
    place.mkdir()
    command.check(["mkfs.ext4", "-q", "-m0", str(image)], timeout=60, reason="make a filesystem")
    command.check(["mount", "-o", "loop", str(image), str(place)], timeout=30, reason="mount it")
    filler = place / "filler"
    command.check(["fallocate", "-l", "90M", str(filler)], timeout=30, reason="fill it")
    try:
        yield filler
    finally:
        command.check(["umount", str(place)], timeout=30, reason="unmount it")


def test_a_full_disk_here(stage: Stage, small: Path) -> None:
    """The target's administrator acts; what came before is still there after it."""
    with pytest.raises(TargetError, match="No space left") as caught:
        stage.capture()
    assert caught.value.exit_code == ExitCode.TARGET
    kept = stage.kept
    assert kept >= 4
    small.unlink()
    stats = stage.capture()
    assert stage.right()
    # What was in the page cache only when the disk became full may have to come once more.
    assert stats.reused_size >= (kept - 1) * BLOCK_SIZE


def test_bad_sectors_over_there(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of the source says EIO: refused with its place; zeros where allowed, and written down."""
    monkeypatch.setattr(salvage, "PAUSES", (0.1, 0.2, 0.3))
    content = stage.path.read_bytes()[: 6 * BLOCK_SIZE]
    image = tmp_path / "bad.img"
    image.write_bytes(content)
    places = ((BLOCK_SIZE + 5 * 4096, 4096), (4 * BLOCK_SIZE - 4096, 8192))
    with bad_loop(image, tmp_path) as (loop, sectors):
        use_loop(stage, loop, len(content))
        sectors.set(*places)
        forget(loop)
        with pytest.raises(
            ReadError, match=rf"serial {SERIAL}\) cannot be read at byte {places[0][0]}"
        ) as caught:
            stage.capture()
        assert caught.value.exit_code == ExitCode.TRANSPORT
        assert "--allow-bad-sectors" in caught.value.hint
        assert stage.kept == 3
        stats = stage.capture(allow_bad_sectors=True)
    assert stats.reused_size == 3 * BLOCK_SIZE
    assert stats.unreadable == tuple(Unreadable(str(loop), start, size) for start, size in places)
    assert any("12288 bytes in 2 places" in warning for warning in stats.warnings)
    assert "12288 bytes in 2 places" in stage.said
    wanted = bytearray(content)
    for start, size in places:
        wanted[start : start + size] = bytes(size)
    assert stage.image.read_bytes() == wanted


def use_loop(stage: Stage, loop: Path, size: int) -> None:
    disk = Disk(str(loop), size, serial=SERIAL)
    stage.path = loop
    stage.plan = replace(stage.plan, disks=(PlannedDisk(0, disk, size),))
