"""The directory of a restore: made whole, held by one process, gone on with as planned, never overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from p2v.errors import PlanRefused, TargetError, UsageError
from p2v.model import Firmware, GiB, Machine
from p2v.restore.job import Kind
from p2v.restore.model import Metal, RestorePlan
from p2v.restore.runs import (
    RestoreReceipt,
    RestoreRun,
    create_restore_run,
    is_restore_run,
    list_restores,
    open_restore_run,
    read_restore_journal,
    read_restore_receipt,
)
from p2v.run import list_runs, open_run
from p2v.run_folder import RunState
from tests.restore.moves import move

JOB: dict[str, JsonValue] = {"to": "ssh://rescue", "erase": ["S1"]}


def plan_of(serial: str = "S1") -> RestorePlan:
    one = move()
    target = replace(one.target, serial=serial)
    guest = Machine("web01", Firmware.BIOS, 1, GiB, (one.source.disk,))
    metal = Metal(replace(guest, disks=(target,)))
    return RestorePlan(
        "web01", "disk0.raw", "ssh://rescue", guest, metal, (replace(one, target=target),), (), False, 1
    )


@contextmanager
def held(parent: Path, plan: RestorePlan | None = None, kind: Kind = Kind.RESTORE) -> Iterator[RestoreRun]:
    with create_restore_run(parent, plan or plan_of(), kind=kind, job=JOB) as run:
        yield run


def receipt_of(run: RestoreRun) -> RestoreReceipt:
    return RestoreReceipt(run.id, run.kind, run.plan, (), None, (), None, "then", "now", run.steps)


def test_a_restore_is_gone_on_with_where_it_stood(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        made = run.id
        assert run.path.stat().st_mode & 0o777 == 0o700
        run.finish("prepare", digest="", seconds=1)
        run.finish("write:disk0", digest="d0", seconds=2)
    with open_restore_run(tmp_path / "web01") as run:
        assert (run.id, run.kind, run.plan, run.job) == (made, Kind.RESTORE, plan_of(), JOB)
        run.finish("prepare", digest="", seconds=3)
        assert [(step.name, step.seconds) for step in run.steps] == [("prepare", 3), ("write:disk0", 2)]
        assert run.receipt() is None
        run.write_receipt(receipt_of(run))
        kept = run.receipt()
    assert kept == read_restore_receipt(tmp_path / "web01")
    (listed,) = list_restores(tmp_path)
    assert (listed.state, listed.next_step, listed.hostname) == (RunState.FINISHED, "restore", "web01")


def test_another_disk_or_another_kind_is_another_restore(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    for plan, kind in ((plan_of("S2"), Kind.RESTORE), (plan_of(), Kind.ROLLBACK)):
        with pytest.raises(PlanRefused, match="holds another restore") as caught, held(tmp_path, plan, kind):
            pass
        assert "p2v resume" in caught.value.hint
    assert read_restore_journal(tmp_path / "web01").plan == plan_of()


def test_a_conversion_and_a_restore_are_not_taken_for_each_other(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    with pytest.raises(UsageError, match="is no p2v run"), open_run(tmp_path / "web01"):
        pass
    assert list_runs(tmp_path) == ()
    (tmp_path / "web01" / "restore.json").rename(tmp_path / "web01" / "run.json")
    assert not is_restore_run(tmp_path / "web01")
    with pytest.raises(UsageError, match="exists and is no restore"), held(tmp_path):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        held(tmp_path) as run,
        pytest.raises(PlanRefused, match="in use by process"),
        open_restore_run(run.path),
    ):
        pass


@pytest.mark.parametrize("damage", ["cut", "newer"])
def test_a_damaged_restore_is_refused_in_words_and_listed(tmp_path: Path, damage: str) -> None:
    with held(tmp_path):
        pass
    path = tmp_path / "web01" / "restore.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:300] if damage == "cut" else whole.replace(b'"format": 1', b'"format": 99'))
    said = "is damaged" if damage == "cut" else "newer p2v"
    with pytest.raises(UsageError, match=said), open_restore_run(tmp_path / "web01"):
        pass
    (listed,) = list_restores(tmp_path)
    assert listed.state is RunState.DAMAGED
    assert said in listed.problem


def test_a_full_disk_leaves_no_half_made_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("p2v.run_folder.write_atomically", full)
        with pytest.raises(TargetError, match="No space left"), held(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path) as run:
        monkeypatch.setattr("p2v.run_folder.write_atomically", full)
        with pytest.raises(TargetError, match="No space left"):
            run.finish("prepare", digest="", seconds=1)
        assert run.steps == ()
