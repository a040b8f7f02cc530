"""Captures from snapshots, with LVM's commands played: what is in the copy, what is left on the source."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import rooms
from p2v.capture import capture
from p2v.disk.volumes import physical_volumes
from p2v.errors import TransportError
from p2v.model import (
    CapturePass,
    Consistency,
    ConsistencyWish,
    MountedFilesystem,
    PassKind,
    PlannedDisk,
    Reached,
)
from p2v.passes import Passes
from p2v.run import create_run
from tests.disk.images import opened as opened_image
from tests.disk.lvm_tools import GROUP
from tests.fake_lvm import SCRIBBLE, VOLUME_SIZE, FakeLvm, fake_lvm
from tests.loops import mounted_copy, read_count, run, writing
from tests.plans import make_plan
from tests.sshd import Sshd, descendants, private_sshd, signal_all
from tests.test_live import opened, reached

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]

STALE = "p2v-1-1-0"


@pytest.fixture
def lvm(tmp_path: Path) -> Iterator[FakeLvm]:
    with fake_lvm(tmp_path) as made:
        yield made


@pytest.fixture
def sshd(tmp_path: Path, lvm: FakeLvm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with private_sshd(tmp_path / "sshd") as server:
        # Where its sessions are at home; a shell that sshd starts reads this.
        (server.folder / ".bashrc").write_text(f"export PATH={lvm.tools}:$PATH\n")
        yield server


@pytest.fixture(autouse=True)
def volume_on_the_disk(lvm: FakeLvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel would say with a device mapper: the mounted filesystem is a volume on the disk."""
    real = Passes.seen_by
    root = MountedFilesystem("/", "ext4", (lvm.device,), length=VOLUME_SIZE, volume=f"{GROUP}-root")

    def seen_by(passes: Passes, *words: object, **named: object) -> object:
        machine = real(passes, *words, **named)  # type: ignore[arg-type]
        return replace(machine, mounted=(root,))

    monkeypatch.setattr(Passes, "seen_by", seen_by)


def capture_from(sshd: Sshd, folder: Path, lvm: FakeLvm, *, wish: str = "snapshot") -> tuple[Path, Reached]:
    with opened(sshd, folder) as (source, house):
        plan = replace(
            make_plan(),
            machine=replace(source.transport().survey().machine, disks=(lvm.whole,)),
            disks=(PlannedDisk(0, lvm.whole, 0),),
            prove=False,
            consistency=Consistency.SNAPSHOT,
            consistency_wish=ConsistencyWish(wish),
        )
        with create_run(folder / "runs", "lvm", plan, job={}, order=rooms.order(plan)) as held:
            return held.capture_dir, reached(capture(held, plan, source, house)[1].reached)


def the_volume(image: Path, lvm: FakeLvm, folder: Path) -> Path:
    """The logical volume out of a captured disk."""
    volume = folder / "volume.img"
    with image.open("rb") as disk, volume.open("wb") as out:
        disk.seek(lvm.first)
        out.write(disk.read(VOLUME_SIZE))
    return volume


def test_the_copy_is_of_the_moment_of_the_snapshot(
    sshd: Sshd, lvm: FakeLvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the source is as it was: no snapshot is left, none is in the metadata of the copy."""
    before = lvm.image.read_bytes()[: lvm.first]
    counts = []
    with writing([lvm.disk]) as writer:
        real = Passes.run_on

        def later(passes: Passes, kind: PassKind, *words: object, **named: object) -> CapturePass:
            if kind is PassKind.SNAPSHOT:
                counts.append(writer.count)
                assert writer.goes_on()
                run("sync", "-f", lvm.disk.folder)
                assert len(lvm.snapshots()) == 1
            return real(passes, kind, *words, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Passes, "run_on", later)
        folder, found = capture_from(sshd, tmp_path, lvm)
    image = folder / "disk0.raw"
    assert (found.grade, found.warnings, found.frozen_seconds) == (Consistency.SNAPSHOT, (), 0.0)
    assert [one.kind for one in found.passes] == [PassKind.SNAPSHOT]
    assert lvm.snapshots() == []
    assert lvm.image.read_bytes()[: lvm.first].count(SCRIBBLE) == 1
    assert image.read_bytes()[: lvm.first] == before
    volume = the_volume(image, lvm, tmp_path)
    run("e2fsck", "-f", "-n", volume)
    with mounted_copy(volume, tmp_path) as copy:
        one, other = read_count(copy / writer.first.name), read_count(copy / writer.second.name)
    assert 0 < other <= one <= other + 1
    assert one <= counts[0] + 1


def test_the_sizes_asked_for(sshd: Sshd, lvm: FakeLvm, tmp_path: Path) -> None:
    """All that is free, for there is one volume only; too little is refused before anything is made."""
    lvm.change(free=16 * 2**20)
    with pytest.raises(TransportError, match="16 MiB free, and snapshots need 64 MiB"):
        capture_from(sshd, tmp_path, lvm)
    assert lvm.snapshots() == []


def test_an_overflown_snapshot_is_an_error_and_not_a_copy(sshd: Sshd, lvm: FakeLvm, tmp_path: Path) -> None:
    lvm.change(attributes="swi-I-s---", percent="100.00")
    with pytest.raises(TransportError, match="could hold"):
        capture_from(sshd, tmp_path, lvm)
    assert lvm.snapshots() == []
    assert not list((tmp_path / "runs" / "lvm" / "capture").glob("*.raw"))


def test_a_snapshot_of_an_earlier_run_is_removed_and_reported(
    sshd: Sshd, lvm: FakeLvm, tmp_path: Path
) -> None:
    """But not one of a process that lives, which another capture may be."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    theirs = f"p2v-{os.getpid()}-{started}-0"
    lvm.change(snapshots=[STALE, theirs, "mine"])
    _, found = capture_from(sshd, tmp_path, lvm)
    assert lvm.snapshots() == ["mine", theirs]
    (warning,) = found.warnings
    assert f"{GROUP}/{STALE}" in warning


def test_a_group_that_changed_while_it_was_looked_at_is_not_copied(
    sshd: Sshd, lvm: FakeLvm, tmp_path: Path
) -> None:
    """Somebody made a volume larger between the look at the disk and the snapshots."""
    lvm.change(revision=lvm.facts()["revision"] + 1)
    with pytest.raises(TransportError, match="changed meanwhile"):
        capture_from(sshd, tmp_path, lvm)
    until(lambda: lvm.snapshots() == [], 20)


def test_the_best_that_works_is_frozen_then(sshd: Sshd, lvm: FakeLvm, tmp_path: Path) -> None:
    lvm.change(attributes="swi-I-s---", percent="100.00")
    _, found = capture_from(sshd, tmp_path, lvm, wish="auto")
    assert found.grade is Consistency.FROZEN
    assert "could hold" in found.warnings[0]
    assert lvm.snapshots() == []


def processes(sshd: Sshd) -> list[int]:
    found = []
    for pid in descendants(sshd.pid):
        with contextlib.suppress(OSError):  # one that ends meanwhile is none of them any more
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"SIGHUP" not in words and b"python3" in words:
                found.append(pid)
    return found


@pytest.mark.parametrize("how", ["line", "killed"])
def test_snapshots_go_whatever_happens(
    sshd: Sshd, lvm: FakeLvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The line is cut, or every process of ours on the source is killed: the keeper is none of them."""
    real = Passes.run_on

    def cut(passes: Passes, kind: PassKind, *words: object, **named: object) -> CapturePass:
        assert len(lvm.snapshots()) == 1
        if how == "line":
            sshd.cut()
        signal_all(processes(sshd), signal.SIGKILL)
        until(lambda: lvm.snapshots() == [], 20)
        monkeypatch.setattr(Passes, "run_on", real)
        return real(passes, kind, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Passes, "run_on", cut)
    # And the capture, whose line broke, is made anew from new snapshots.
    _, found = capture_from(sshd, tmp_path, lvm)
    assert found.grade is Consistency.SNAPSHOT
    assert lvm.snapshots() == []


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_the_volumes_lie(lvm: FakeLvm) -> None:
    with opened_image(lvm.image) as device:
        (volume,) = physical_volumes(device)
    (part,) = volume.parts
    assert (part.volume, part.start, part.length, part.offset) == ("root", lvm.first, VOLUME_SIZE, 0)
    assert volume.group == lvm.facts()["uuid"]
    assert volume.own[0].length == lvm.first
