"""The guard on the source over a real sshd and real filesystems: whatever dies, all is thawed again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.errors import ConnectionLost, TransportError
from p2v.transports import Guard, SshOptions, open_transport
from tests.conftest import need_tools
from tests.disk.volumes import need_fuse
from tests.loops import SIZE, LoopDisk, loop_disk, run, unmount, writing
from tests.sshd import Sshd, descendants

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]

LIMIT = 3.0
LONG = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk("ext4", tmp_path) as made:
        yield made


@contextmanager
def guarded(sshd: Sshd) -> Iterator[Guard]:
    options = SshOptions(identity=sshd.identity, known_hosts=sshd.known_hosts, config_file=Path("/dev/null"))
    with open_transport(sshd.url, options) as transport, transport.open_guard() as guard:
        yield guard


def guard_processes(sshd: Sshd) -> list[int]:
    """The guard and, where it runs, its watchdog; by the magic word of the script on their command line."""
    found = []
    for pid in descendants(sshd.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"python3" in words[0]:
            found.append(pid)
    return found


def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took; fails when it did not come true in time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)
    return time.monotonic() - started


def test_frozen_then_thawed(sshd: Sshd, disk: LoopDisk) -> None:
    with guarded(sshd) as guard, writing([disk]) as writer:
        frozen = guard.freeze([disk.device], LONG)
        assert [(one.place, one.kind, one.length) for one in frozen.frozen] == [
            (str(disk.folder), "ext4", SIZE)
        ]
        assert (frozen.failed, frozen.fired) == ((), False)
        count = writer.count
        time.sleep(0.5)
        assert writer.count == count
        thawed = guard.thaw()
        assert writer.goes_on()
        assert 0.5 <= thawed.seconds < 10
        assert (thawed.lost, thawed.fired) == ((), False)
        # And a second time.
        guard.freeze([disk.device], LONG)
        guard.thaw()
        assert writer.goes_on()


def test_the_end_of_the_line_thaws_at_once(sshd: Sshd, disk: LoopDisk) -> None:
    with writing([disk]) as writer:
        with guarded(sshd) as guard:
            guard.freeze([disk.device], LONG)
            assert not writer.goes_on(0.5)
        assert writer.goes_on(3)


CLIENT = """
import sys, time
from pathlib import Path
from p2v.transports import SshOptions, open_transport
url, identity, known_hosts, device = sys.argv[1:]
options = SshOptions(identity=Path(identity), known_hosts=Path(known_hosts), config_file=Path("/dev/null"))
with open_transport(url, options) as transport, transport.open_guard() as guard:
    guard.freeze([device], 60.0)
    print("frozen", flush=True)
    time.sleep(60)
"""


def test_a_local_side_that_is_killed_leaves_nothing_frozen(sshd: Sshd, disk: LoopDisk) -> None:
    with writing([disk]) as writer:
        words = [sys.executable, "-c", CLIENT, sshd.url, sshd.identity, sshd.known_hosts, disk.device]
        client = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE)
        assert client.stdout
        assert client.stdout.readline() == b"frozen\n"
        assert not writer.goes_on(0.5)
        client.kill()
        client.wait(timeout=10)
        client.stdout.close()
        assert writer.goes_on(3)


def test_a_guard_that_is_killed_is_outlived_by_its_watchdog(sshd: Sshd, disk: LoopDisk) -> None:
    with writing([disk]) as writer, guarded(sshd) as guard:
        guard.freeze([disk.device], LONG)
        assert not writer.goes_on(0.5)
        for pid in guard_processes(sshd)[:1]:
            os.kill(pid, signal.SIGKILL)
        assert writer.goes_on(LIMIT)
        with pytest.raises(ConnectionLost):
            guard.thaw()


def test_a_guard_that_hangs_is_outlived_too(sshd: Sshd, disk: LoopDisk) -> None:
    """It can do nothing any more and its line is up: the time alone thaws, neither sooner nor later."""
    with writing([disk]) as writer, guarded(sshd) as guard:
        started = time.monotonic()
        guard.freeze([disk.device], LIMIT)
        stuck = guard_processes(sshd)[0]
        os.kill(stuck, signal.SIGSTOP)
        assert not writer.goes_on(LIMIT - 1 - (time.monotonic() - started))
        assert writer.goes_on(LIMIT)
        os.kill(stuck, signal.SIGCONT)
        thawed = guard.thaw()
        assert (thawed.fired, thawed.lost) == (True, (str(disk.folder),))
        assert LIMIT <= thawed.seconds < LIMIT + 1


def test_a_line_that_is_cut_thaws(sshd: Sshd, disk: LoopDisk) -> None:
    with writing([disk]) as writer, guarded(sshd) as guard:
        guard.freeze([disk.device], LONG)
        sshd.cut()
        assert writer.goes_on(LIMIT)
        with pytest.raises(ConnectionLost):
            guard.thaw()


def test_what_somebody_else_froze_stays_frozen(sshd: Sshd, disk: LoopDisk) -> None:
    with guarded(sshd) as guard:
        run("fsfreeze", "--freeze", disk.folder)
        frozen = guard.freeze([disk.device], LONG)
        assert [reason for _, reason in frozen.failed] == ["somebody else has frozen it"]
        assert guard.thaw().lost == ()
        assert disk.is_frozen()
        disk.thaw()
        assert not disk.is_frozen()


def test_one_that_somebody_else_thawed_is_named(sshd: Sshd, disk: LoopDisk) -> None:
    with guarded(sshd) as guard:
        guard.freeze([disk.device], LONG)
        disk.thaw()
        assert guard.thaw().lost == (str(disk.folder),)


def test_one_that_cannot_be_frozen_is_named(sshd: Sshd, tmp_path: Path) -> None:
    need_fuse()
    need_tools("mkntfs", "ntfs-3g")
    image, place = tmp_path / "ntfs.img", tmp_path / "ntfs"
    with image.open("wb") as handle:
        handle.truncate(64 * 2**20)
    place.mkdir()
    run("mkntfs", "-F", "-q", image)
    device = run("losetup", "--find", "--show", image).strip()
    try:
        run("ntfs-3g", device, place)
        with guarded(sshd) as guard:
            frozen = guard.freeze([device], LONG)
            ((one, reason),) = frozen.failed
            assert (one.kind, one.place, reason) == ("fuseblk", str(place), "Operation not supported")
            guard.flush()
            assert guard.thaw().lost == ()
        unmount(place)
    finally:
        run("losetup", "--detach", device)


def test_who_uses_a_disk(sshd: Sshd, disk: LoopDisk, tmp_path: Path) -> None:
    idle_image = tmp_path / "idle.img"
    idle_image.write_bytes(bytes(2**20))
    idle = run("losetup", "--find", "--show", idle_image).strip()
    try:
        with guarded(sshd) as guard:
            usage = guard.usage([disk.device, idle])
            assert [(use.path, use.used, use.unknown) for use in usage.disks] == [
                (disk.device, True, ()),
                (idle, False, ()),
            ]
            assert [one.place for one in usage.mounted] == [str(disk.folder)]
            # Something that is none of all that, as a database on a raw disk.
            claim = os.open(idle, os.O_RDONLY | os.O_EXCL)
            try:
                assert guard.usage([idle]).disks[0].unknown == (idle,)
            finally:
                os.close(claim)
    finally:
        run("losetup", "--detach", idle)


def test_a_read_only_mount_uses_a_disk_but_needs_no_freezing(sshd: Sshd, disk: LoopDisk) -> None:
    run("mount", "-o", "remount,ro", disk.folder)
    with guarded(sshd) as guard:
        usage = guard.usage([disk.device])
        assert (usage.disks[0].used, usage.mounted) == (True, ())
        assert guard.freeze([disk.device], LONG).frozen == ()
        guard.thaw()
    run("mount", "-o", "remount,rw", disk.folder)


def test_a_filesystem_in_a_file_is_frozen_before_the_one_that_holds_it(
    sshd: Sshd, disk: LoopDisk, tmp_path: Path
) -> None:
    """The other way round, the inner one could never write what it must before it stands still."""
    image, place = disk.folder / "inner.img", tmp_path / "inner"
    with image.open("wb") as handle:
        handle.truncate(64 * 2**20)
    run("mkfs.ext4", "-q", image)
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        (place / "dirty").write_bytes(bytes(range(256)) * 1000)
        with guarded(sshd) as guard:
            frozen = guard.freeze([disk.device], LIMIT)
            assert {one.place for one in frozen.frozen} == {str(place), str(disk.folder)}
            assert not frozen.fired
            thawed = guard.thaw()
        assert (thawed.lost, thawed.fired) == ((), False)
    finally:
        disk.thaw()
        unmount(place)


def test_only_some_places(sshd: Sshd, disk: LoopDisk, tmp_path: Path) -> None:
    with loop_disk("xfs", tmp_path, "other") as other, guarded(sshd) as guard:
        frozen = guard.freeze([disk.device, other.device], LONG, only=[str(other.folder)])
        assert [one.place for one in frozen.frozen] == [str(other.folder)]
        assert not disk.is_frozen()
        guard.thaw()


def test_wrong_questions_are_answered_with_errors(sshd: Sshd) -> None:
    with guarded(sshd) as guard:
        with pytest.raises(TransportError, match="not frozen"):
            guard.thaw()
        guard.freeze([], LONG)
        with pytest.raises(TransportError, match="frozen already"):
            guard.freeze([], LONG)
        guard.thaw()
