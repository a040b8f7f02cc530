"""What a capture leaves behind, what a second try takes over, and several disks at once."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import rooms
from p2v.capture import capture, is_captured
from p2v.disk.device import BlockRequest
from p2v.errors import ConnectionLost, UsageError, VerifyError
from p2v.house import House
from p2v.model import BLOCK_SIZE, Consistency, Disk, MiB, PassKind, Plan, PlannedDisk
from p2v.parallel import LANES
from p2v.run import Run, create_run
from p2v.ui import UI, ProgressStyle
from tests.plans import make_plan
from tests.sources import Files, Given, Hook


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path / "home")


def plan_of(folder: Path, sizes: list[int]) -> Plan:
    """Disks of random bytes."""
    disks = []
    for index, size in enumerate(sizes):
        path = folder / f"source{index}.img"
        path.write_bytes(os.urandom(size))
        disks.append(PlannedDisk(index, Disk(str(path), size, serial=f"S{index}"), size))
    return replace(make_plan(), disks=tuple(disks), prove=False, consistency=Consistency.OFFLINE)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(tmp_path, [9 * MiB, 10 * MiB])


@contextmanager
def held(tmp_path: Path, plan: Plan) -> Iterator[Run]:
    with create_run(tmp_path / "runs", "web01", plan, job={}, order=rooms.order(plan)) as run:
        yield run


def test_a_capture_is_whole_verified_and_read_only(tmp_path: Path, plan: Plan, house: House) -> None:
    with held(tmp_path, plan) as run:
        images, stats = capture(run, plan, Given(Files(), house), house)
        assert is_captured(run)
        for image, planned in zip(images, plan.disks, strict=True):
            path = run.path / image.path
            assert path.read_bytes() == Path(planned.disk.path).read_bytes()
            assert path.stat().st_mode & 0o777 == 0o400
        assert stats.size == stats.data_size == 19 * MiB
        assert stats.reached is not None
        assert stats.reached.grade is Consistency.OFFLINE
        assert [(one.kind, one.moved_size) for one in stats.reached.passes] == [(PassKind.FULL, 19 * MiB)]
        names = sorted(path.name for path in run.capture_dir.iterdir())
        assert names == [
            "disk0.digest",
            "disk0.raw",
            "disk1.digest",
            "disk1.raw",
            "images.json",
            "stats.json",
        ]
        again = Files()
        assert capture(run, plan, Given(again, house), house) == (images, stats)
        assert again.opened == []


def test_a_disk_that_was_finished_is_not_read_again(tmp_path: Path, house: House) -> None:
    """The second disk breaks when the first one is done."""
    plan = plan_of(tmp_path, [3 * MiB, 30 * MiB])
    first, second = (planned.disk.path for planned in plan.disks)
    with held(tmp_path, plan) as run:
        breaks = Files()

        def wait_then_break(request: BlockRequest) -> None:
            if request.index == 5:
                while not (run.capture_dir / "disk0.raw").exists():
                    pass
                raise ConnectionLost("the line broke")

        breaks.hooks[second] = wait_then_break
        with pytest.raises(ConnectionLost):
            capture(run, plan, Given(breaks, house), house)
        assert not is_captured(run)
        files = Files()
        images, stats = capture(run, plan, Given(files, house), house)
        assert files.opened == [second]
        assert stats.reused_size == 5 * BLOCK_SIZE
        for image, path in zip(images, (first, second), strict=True):
            assert (run.path / image.path).read_bytes() == Path(path).read_bytes()


def test_the_first_error_stops_the_others_and_nothing_is_lost(tmp_path: Path, house: House) -> None:
    """One of three disks breaks while the others have sent something and have much left."""
    plan = plan_of(tmp_path, [60 * MiB, 60 * MiB, 60 * MiB])
    reached = threading.Barrier(3)
    broken = threading.Event()
    files = Files()

    def wait_for_all(request: BlockRequest) -> None:
        if request.index == 2:
            reached.wait(timeout=20)
        if request.index > 2:
            broken.wait(timeout=20)
            time.sleep(0.1)

    def wait_and_break(request: BlockRequest) -> None:
        wait_for_all(replace(request, index=min(request.index, 2)))
        if request.index == 2:
            broken.set()
            raise ConnectionLost("disk 1 is gone")

    for planned, hook in zip(plan.disks, (wait_for_all, wait_and_break, wait_for_all), strict=True):
        files.hooks[planned.disk.path] = hook
    with held(tmp_path, plan) as run:
        with pytest.raises(ConnectionLost, match="disk 1"):
            capture(run, plan, Given(files, house), house)
        assert not list(run.capture_dir.glob("*.raw"))
        _, stats = capture(run, plan, Given(Files(), house), house)
    # Each had two blocks, and the others were stopped long before they had 15.
    assert 6 * BLOCK_SIZE <= stats.reused_size < 24 * BLOCK_SIZE


class Together:
    """Counts who is at work at the same time; the first `LANES` disks wait for each other."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(LANES)

    def hook(self, number: int, last: int) -> Hook:
        def count(request: BlockRequest) -> None:
            with self.lock:
                self.now += (request.index == 0) - (request.index == last)
                self.most = max(self.most, self.now)
            if request.index == 0 and number < LANES:
                self.barrier.wait(timeout=20)

        return count


def test_no_more_than_some_disks_at_once_and_all_in_order(tmp_path: Path, house: House) -> None:
    plan = plan_of(tmp_path, [5 * MiB + 4096 * number for number in range(LANES + 2)])
    files, together = Files(), Together()
    for number, planned in enumerate(plan.disks):
        files.hooks[planned.disk.path] = together.hook(number, last=1)
    with held(tmp_path, plan) as run:
        images, _ = capture(run, plan, Given(files, house), house)
        for image, planned in zip(images, plan.disks, strict=True):
            assert (run.path / image.path).read_bytes() == Path(planned.disk.path).read_bytes()
    assert together.most == LANES


def test_a_wrong_byte_is_quarantined(tmp_path: Path, house: House) -> None:
    plan = plan_of(tmp_path, [9 * MiB])
    with held(tmp_path, plan) as run:
        with pytest.raises(VerifyError, match="Block 1 "):
            capture(run, plan, Given(Files(flips=1), house), house)
        names = sorted(path.name for path in run.capture_dir.iterdir())
        assert names == ["disk0.raw.part.quarantined"]


def test_a_disk_that_changed_its_size_is_refused(tmp_path: Path, plan: Plan, house: House) -> None:
    with held(tmp_path, plan) as run:
        with Path(plan.disks[0].disk.path).open("ab") as handle:
            handle.write(bytes(MiB))
        with pytest.raises(UsageError, match="as planned"):
            capture(run, plan, Given(Files(), house), house)
