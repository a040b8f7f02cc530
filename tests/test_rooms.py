"""The rooms that need no appliance: what a capture leaves behind, and what a second try takes over."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import rooms
from p2v.capture import capture, is_captured
from p2v.disk.copy import capture_disk
from p2v.disk.device import BlockDevice, open_file_device
from p2v.errors import ConnectionLost, LicenseError, UsageError, VerifyError
from p2v.house import House, Source
from p2v.job import Job
from p2v.licensing.ledger import open_ledger
from p2v.model import Disk, MiB, Plan, PlannedDisk
from p2v.run import Run, create_run
from p2v.transports import Survey
from p2v.ui import UI, ProgressStyle
from tests.plans import make_plan


class Files:
    """A transport whose disks are files; `broken` names one whose line breaks when it is opened."""

    broken = ""
    opened: list[str]

    def __init__(self) -> None:
        self.opened = []

    def survey(self) -> Survey:
        raise AssertionError("nobody asked")

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        self.opened.append(disk.path)
        if disk.path == self.broken:
            raise ConnectionLost("the line broke")
        with open_file_device(Path(disk.path)) as device:
            yield device


class Given(Source):
    """A source that is there already."""

    def __init__(self, files: Files, house: House) -> None:
        super().__init__(Job("x", "libvirt", Path("x")), house)
        self.files = files

    def transport(self) -> Files:
        return self.files


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path / "home")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two disks of random bytes."""
    disks = []
    for index in range(2):
        path = tmp_path / f"source{index}.img"
        path.write_bytes(os.urandom(9 * MiB + index * MiB))
        disks.append(PlannedDisk(index, Disk(str(path), path.stat().st_size, serial=f"S{index}"), 0))
    return replace(make_plan(), disks=tuple(disks), prove=False)


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


def test_a_disk_that_was_finished_is_not_read_again(tmp_path: Path, plan: Plan, house: House) -> None:
    first, second = (planned.disk.path for planned in plan.disks)
    with held(tmp_path, plan) as run:
        breaks = Files()
        breaks.broken = second
        with pytest.raises(ConnectionLost):
            capture(run, plan, Given(breaks, house), house)
        assert not is_captured(run)
        files = Files()
        images, _ = capture(run, plan, Given(files, house), house)
        assert files.opened == [second]
        assert (run.path / images[0].path).read_bytes() == Path(first).read_bytes()


def test_a_wrong_byte_is_quarantined(
    tmp_path: Path, plan: Plan, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(*arguments: object, **named: object) -> object:
        captured = real(*arguments, **named)  # type: ignore[arg-type]
        partial = run.capture_dir / "disk0.raw.part"
        with partial.open("r+b") as handle:
            handle.seek(5 * MiB)
            byte = handle.read(1)
            handle.seek(5 * MiB)
            handle.write(bytes([byte[0] ^ 0x10]))
        return captured

    real = capture_disk
    monkeypatch.setattr("p2v.capture.capture_disk", flip)
    with held(tmp_path, plan) as run:
        with pytest.raises(VerifyError, match="Block 1 "):
            capture(run, plan, Given(Files(), house), house)
        names = sorted(path.name for path in run.capture_dir.iterdir())
        assert names == ["disk0.raw.part.quarantined"]


def test_a_disk_that_changed_its_size_is_refused(tmp_path: Path, plan: Plan, house: House) -> None:
    with held(tmp_path, plan) as run:
        with Path(plan.disks[0].disk.path).open("ab") as handle:
            handle.write(bytes(MiB))
        with pytest.raises(UsageError, match="as planned"):
            capture(run, plan, Given(Files(), house), house)


def test_a_unit_is_given_back_when_the_work_fails(tmp_path: Path, plan: Plan, house: House) -> None:
    with held(tmp_path, plan) as run:
        with pytest.raises(ConnectionLost), rooms.metered(run, plan, house):
            raise ConnectionLost("gone")
        with open_ledger(house.home) as ledger:
            assert (ledger.status().used, ledger.status().left) == (0, 5)
        with rooms.metered(run, plan, house) as unit:
            assert unit.commit().state == "committed"
        with open_ledger(house.home) as ledger:
            assert (ledger.status().used, ledger.status().left) == (1, 4)


def test_without_a_unit_nothing_starts(tmp_path: Path, plan: Plan, house: House) -> None:
    with open_ledger(house.home) as ledger:
        for number in range(5):
            ledger.reserve(run=f"{number:032x}", machine=f"m{number}", title=f"host{number}")
            ledger.commit(f"{number:032x}")
    with held(tmp_path, plan) as run, pytest.raises(LicenseError), rooms.metered(run, plan, house):
        pytest.fail("the work began")
