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
from p2v.errors import ConnectionLost, LicenseError, UsageError
from p2v.house import House
from p2v.licensing.ledger import open_ledger
from p2v.model import Consistency, Disk, MiB, Plan, PlannedDisk, Setting
from p2v.run import Run, create_run
from p2v.ui import UI, ProgressStyle
from tests.plans import make_plan, make_receipt


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
    return replace(make_plan(), disks=tuple(disks), prove=False, consistency=Consistency.OFFLINE)


@contextmanager
def held(tmp_path: Path, plan: Plan) -> Iterator[Run]:
    with create_run(tmp_path / "runs", "web01", plan, job={}, order=rooms.order(plan)) as run:
        yield run


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


def test_room_is_asked_for_every_target(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a second target stand beside those of the first."""
    asked: list[int] = []
    monkeypatch.setattr(rooms, "need_space", lambda path, size: asked.append(size))
    disks = tuple(replace(disk, data_size=100 * MiB) for disk in plan.disks)
    for also in ((), (plan.platform,)):
        rooms.require_space(tmp_path, replace(plan, disks=disks, also=also))
    assert asked[1] - asked[0] == 200 * MiB


def test_drivers_for_a_machine_that_is_made_already(tmp_path: Path, plan: Plan) -> None:
    """It would be handed out as it is, and nobody would see that it has none of them."""
    with held(tmp_path, plan) as run:
        rooms.require_unmade(run, plan)
        run.write_receipt(make_receipt(run.id))
        with pytest.raises(UsageError) as caught:
            rooms.require_unmade(run, make_plan())
        assert "bus=virtio-blk" in caught.value.hint
        other = replace(plan.platform, settings=(Setting("bus", "virtio-blk"),))
        rooms.require_unmade(run, replace(plan, platform=other))
