"""The contents page: what a resume hands to the rooms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2v import pipeline
from p2v.house import House
from p2v.job import Job
from p2v.model import Plan, PlannedDisk
from p2v.run import create_run
from p2v.ui import UI, ProgressStyle
from tests.plans import ORDER, make_plan, make_receipt


def with_paths(plan: Plan, *paths: str) -> Plan:
    """The plan for a machine whose disks, told apart by their serials, have these names today."""
    first = plan.disks[0].disk
    disks = tuple(replace(first, path=path, serial=f"WD-{number}") for number, path in enumerate(paths))
    planned = tuple(PlannedDisk(number, disk, 0) for number, disk in enumerate(disks))
    return replace(plan, machine=replace(plan.machine, disks=disks), disks=planned)


def test_a_resumed_capture_reads_the_disks_under_the_names_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two disks of one size that were swapped by a reboot must not be taken for each other."""
    then, now = (
        with_paths(make_plan(), "/dev/sda", "/dev/sdb"),
        with_paths(make_plan(), "/dev/sdb", "/dev/sda"),
    )
    job = Job("image.raw", ("libvirt",), tmp_path)
    with create_run(tmp_path, "web01", then, job=job.to_json(), order=ORDER) as run:
        path = run.path
    carried: list[Plan] = []
    monkeypatch.setattr("p2v.rooms.plan", lambda *_arguments, **_named: now)

    def carry_out(_run: object, plan: Plan, *_rest: object) -> object:
        carried.append(plan)
        return make_receipt("a" * 32)

    monkeypatch.setattr(pipeline, "_carry_out", carry_out)
    pipeline.resume(path, House(UI(style=ProgressStyle.NONE), tmp_path / "home"))
    (plan,) = carried
    assert [(one.disk.serial, one.disk.path) for one in plan.disks] == [
        ("WD-0", "/dev/sdb"),
        ("WD-1", "/dev/sda"),
    ]
    assert [disk.path for disk in plan.machine.disks] == ["/dev/sdb", "/dev/sda"]
