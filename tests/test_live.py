"""Captures of filesystems that are written to all the time, over a real sshd: is the copy one moment?"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2v import command, rooms
from p2v.capture import capture
from p2v.errors import TransportError
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import (
    BLOCK_SIZE,
    CapturePass,
    Consistency,
    ConsistencyWish,
    Disk,
    Machine,
    PassKind,
    Plan,
    PlannedDisk,
    Reached,
)
from p2v.passes import Passes
from p2v.run import Run, create_run
from p2v.ui import UI, ProgressStyle
from tests.loops import LoopDisk, loop_disk, mounted_copy, read_count, run, writing
from tests.plans import make_plan
from tests.sshd import Sshd, private_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]


class LoopSource(Source):
    """Reconnects as ever; an inventory has no loop devices among which to look for a disk again."""

    def find(self, disk: Disk) -> Disk:
        return disk


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with private_sshd(tmp_path / "sshd") as server:
        yield server


@contextmanager
def opened(sshd: Sshd, folder: Path) -> Iterator[tuple[Source, House]]:
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), folder / "home")
    job = Job(
        sshd.url, ("libvirt",), folder, identity=sshd.identity, known_hosts=sshd.known_hosts, retry_for="20s"
    )
    with LoopSource(job, house) as source:
        yield source, house


def plan_for(
    machine: Machine,
    disks: Sequence[LoopDisk],
    *,
    wish: str = "auto",
    grade: str = "frozen",
    limit: float = 60.0,
) -> Plan:
    planned = tuple(PlannedDisk(index, one.disk, 0) for index, one in enumerate(disks))
    return replace(
        make_plan(),
        machine=replace(machine, disks=tuple(one.disk for one in disks)),
        disks=planned,
        prove=False,
        consistency=Consistency(grade),
        consistency_wish=ConsistencyWish(wish),
        freeze_limit=limit,
    )


def capture_live(sshd: Sshd, folder: Path, disks: Sequence[LoopDisk], **wishes: Any) -> tuple[Path, Reached]:
    """The folder with the images, and what the receipt will say."""
    with opened(sshd, folder) as (source, house):
        plan = plan_for(source.transport().survey().machine, disks, **wishes)
        with create_run(folder / "runs", "live", plan, job={}, order=rooms.order(plan)) as held:
            return held.capture_dir, reached(capture_in(held, plan, source, house))


def capture_in(held: Run, plan: Plan, source: Source, house: House) -> Reached | None:
    return capture(held, plan, source, house)[1].reached


def reached(value: Reached | None) -> Reached:
    assert value is not None
    return value


def kinds(found: Reached) -> list[PassKind]:
    return [one.kind for one in found.passes]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_frozen_copy_is_one_moment(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    with loop_disk(kind, tmp_path) as disk:
        with writing([disk]) as writer:
            folder, found = capture_live(sshd, tmp_path, [disk])
            assert writer.goes_on()
            last = writer.count
        assert found.grade is Consistency.FROZEN
        assert kinds(found)[:2] == [PassKind.FULL, PassKind.DELTA]
        assert kinds(found)[-1] is PassKind.FROZEN
        assert 0 < found.frozen_seconds < 30
        assert found.warnings == ()
    image = folder / "disk0.raw"
    if kind == "ext4":
        assert check_ext4(image) == 0
    with mounted_copy(image, tmp_path) as copy:
        one, other = read_count(copy / writer.first.name), read_count(copy / writer.second.name)
    assert 0 < other <= one <= other + 1 < last


def check_ext4(image: Path) -> int:
    """A frozen filesystem has nothing in its journal, so that nothing is to be replayed or mended."""
    features = command.check(["dumpe2fs", "-h", image], timeout=30, reason="look at it")
    assert "needs_recovery" not in features
    return command.run(["e2fsck", "-f", "-n", image], timeout=60).code


def test_several_disks_are_of_the_same_moment(sshd: Sshd, tmp_path: Path) -> None:
    with loop_disk("ext4", tmp_path, "one") as first, loop_disk("xfs", tmp_path, "two") as second:
        with writing([first, second]) as writer:
            folder, found = capture_live(sshd, tmp_path, [first, second])
        assert found.grade is Consistency.FROZEN
    with (
        mounted_copy(folder / "disk0.raw", tmp_path) as one,
        mounted_copy(folder / "disk1.raw", tmp_path) as two,
    ):
        counts = read_count(one / writer.first.name), read_count(two / writer.second.name)
    assert 0 < counts[1] <= counts[0] <= counts[1] + 1


def test_what_was_deleted_meanwhile_is_not_in_the_copy(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that the first pass copied and that are free now are zeros again."""
    with loop_disk("ext4", tmp_path) as disk:
        secret = b"top secret words " * 600_000
        (disk.folder / "secret").write_bytes(secret)
        run("sync", "-f", disk.folder)
        settle = Passes.settle

        def delete_first(passes: Passes) -> None:
            (disk.folder / "secret").unlink()
            run("sync", "-f", disk.folder)
            settle(passes)

        monkeypatch.setattr(Passes, "settle", delete_first)
        folder, found = capture_live(sshd, tmp_path, [disk])
    content = (folder / "disk0.raw").read_bytes()
    assert found.passes[0].moved_size > len(secret)
    # Also where a block of 4 MiB has other things in it, but for small gaps, which are always copied.
    assert content.count(b"top secret words ") < 2000 < secret.count(b"top secret words ")


def during_the_last_pass(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Something happens while the filesystems are frozen, before the last pass reads."""
    real = Passes.run_on

    def run_on(passes: Passes, *words: Any, **named: Any) -> CapturePass:
        action()
        return real(passes, *words, **named)

    monkeypatch.setattr(Passes, "run_on", run_on)


def test_a_pass_that_outlasts_the_freeze_does_not_count(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_last_pass(monkeypatch, lambda: time.sleep(3))
    with loop_disk("ext4", tmp_path) as disk, writing([disk]):
        _, found = capture_live(sshd, tmp_path / "a", [disk], limit=2.0)
        assert found.grade is Consistency.FUZZY
        assert 2.0 <= found.frozen_seconds < 2.6
        (warning,) = found.warnings
        assert "thawed after 2.0 s" in warning
        assert "--freeze-limit" in warning
        with pytest.raises(TransportError, match="thawed after"):
            capture_live(sshd, tmp_path / "b", [disk], wish="freeze", limit=2.0)


def test_nothing_is_frozen_for_longer_than_it_may(sshd: Sshd, tmp_path: Path) -> None:
    with loop_disk("ext4", tmp_path) as disk, writing([disk]):
        _, found = capture_live(sshd, tmp_path / "a", [disk], limit=0.01)
        assert (found.grade, found.frozen_seconds) == (Consistency.FUZZY, 0.0)
        assert PassKind.FROZEN not in kinds(found)
        assert "--freeze-limit" in found.warnings[0]
        with pytest.raises(TransportError, match="would take about") as refused:
            capture_live(sshd, tmp_path / "b", [disk], wish="freeze", limit=0.01)
        assert "--freeze-limit" in refused.value.hint


def test_what_somebody_else_froze_makes_it_fuzzy(sshd: Sshd, tmp_path: Path) -> None:
    with loop_disk("ext4", tmp_path) as disk:
        run("fsfreeze", "--freeze", disk.folder)
        _, found = capture_live(sshd, tmp_path, [disk])
        assert disk.is_frozen()
        assert found.grade is Consistency.FUZZY
        assert "somebody else has frozen it" in found.warnings[0]


def test_who_wants_it_fuzzy_gets_no_freeze_and_no_warning(sshd: Sshd, tmp_path: Path) -> None:
    with loop_disk("ext4", tmp_path) as disk, writing([disk]):
        _, found = capture_live(sshd, tmp_path, [disk], wish="fuzzy", grade="fuzzy")
    assert (found.grade, found.frozen_seconds, found.warnings) == (Consistency.FUZZY, 0.0, ())
    assert set(kinds(found)) == {PassKind.FULL, PassKind.DELTA}


def test_a_line_cut_while_frozen_thaws_and_the_freeze_is_made_anew(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []

    def cut_once() -> None:
        if not cuts:
            cuts.append(1)
            sshd.cut()

    during_the_last_pass(monkeypatch, cut_once)
    with loop_disk("ext4", tmp_path) as disk:
        with writing([disk]) as writer:
            folder, found = capture_live(sshd, tmp_path, [disk])
            assert writer.goes_on()
        assert found.grade is Consistency.FROZEN
    assert check_ext4(folder / "disk0.raw") == 0


def test_a_capture_that_ends_while_it_is_read_back_keeps_its_moment(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try reads nothing of the source: that would be another moment."""
    with loop_disk("ext4", tmp_path) as disk, opened(sshd, tmp_path) as (source, house):
        plan = plan_for(source.transport().survey().machine, [disk])
        with create_run(tmp_path / "runs", "live", plan, job={}, order=rooms.order(plan)) as held:
            with monkeypatch.context() as patch:
                patch.setattr("p2v.capture.verify_image", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    capture(held, plan, source, house)
            assert not list(held.capture_dir.glob("*.raw"))
            monkeypatch.setattr(Source, "open_disk", interrupted)
            found = reached(capture_in(held, plan, source, house))
            assert found.grade is Consistency.FROZEN
            assert check_ext4(held.capture_dir / "disk0.raw") == 0


def interrupted(*words: object, **named: object) -> None:
    raise KeyboardInterrupt


def test_the_journal_of_a_delta_is_small(sshd: Sshd, tmp_path: Path) -> None:
    """Nothing changes: passes after the first one move next to nothing, and there is one of them."""
    with loop_disk("ext4", tmp_path) as disk:
        (disk.folder / "data").write_bytes(bytes(range(256)) * 200_000)
        _, found = capture_live(sshd, tmp_path, [disk])
    assert kinds(found) == [PassKind.FULL, PassKind.DELTA, PassKind.FROZEN]
    assert found.passes[0].moved_size > 50_000_000
    assert all(one.moved_size <= 3 * BLOCK_SIZE for one in found.passes[1:])


@contextmanager
def idle_disk(folder: Path) -> Iterator[str]:
    image = folder / "idle.img"
    image.write_bytes(bytes(range(256)) * 40_000 + bytes(4096 - 256 * 40_000 % 4096))
    device = run("losetup", "--find", "--show", image).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def capture_idle(sshd: Sshd, folder: Path, device: str) -> Reached:
    size = (folder / "idle.img").stat().st_size
    with opened(sshd, folder) as (source, house):
        machine = replace(source.transport().survey().machine, disks=(Disk(device, size, idle=True),))
        plan = replace(plan_for(machine, []), disks=(PlannedDisk(0, machine.disks[0], 0),))
        plan = replace(plan, consistency=Consistency.OFFLINE)
        with create_run(folder / "runs", "idle", plan, job={}, order=rooms.order(plan)) as held:
            return reached(capture_in(held, plan, source, house))


def test_a_disk_that_nobody_uses_is_copied_once(sshd: Sshd, tmp_path: Path) -> None:
    with idle_disk(tmp_path) as device:
        found = capture_idle(sshd, tmp_path, device)
    assert (found.grade, kinds(found)) == (Consistency.OFFLINE, [PassKind.FULL])


def test_a_disk_that_somebody_begins_to_use_is_not_offline(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is copied; the image is there, but must not be taken for what was planned."""
    with idle_disk(tmp_path) as device, ExitStack() as stack:
        real = Passes.run

        def claim_first(passes: Passes, *words: Any, **named: Any) -> CapturePass:
            monkeypatch.setattr(Passes, "run", real)
            stack.enter_context(claimed(device))
            return real(passes, *words, **named)

        monkeypatch.setattr(Passes, "run", claim_first)
        for _ in range(2):  # nor be taken for it by a second try
            with pytest.raises(TransportError, match="nobody used it when this was planned"):
                capture_idle(sshd, tmp_path, device)


@contextmanager
def claimed(device: str) -> Iterator[None]:
    handle = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        yield
    finally:
        os.close(handle)
