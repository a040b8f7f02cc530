"""The run directory: made whole, held by one process, resumed as planned, never overwritten."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from p2v.errors import P2VError, PlanRefused, TargetError, UsageError
from p2v.log import Redactor
from p2v.model import GiB, Plan, TiB
from p2v.run import (
    Run,
    create_run,
    free_space,
    list_runs,
    open_run,
    read_journal,
    read_receipt,
    require_space,
)
from p2v.run_folder import RunState
from tests.plans import ORDER, make_plan, make_receipt


@contextmanager
def held(parent: Path, name: str = "web01", plan: Plan | None = None) -> Iterator[Run]:
    job: dict[str, JsonValue] = {"to": "libvirt", "disks": ["WD-1"]}
    with create_run(parent, name, plan or make_plan(), job=job, order=ORDER) as run:
        yield run


def test_a_new_run_is_whole_and_private(tmp_path: Path) -> None:
    with held(tmp_path / "not" / "yet") as run:
        assert run.path == tmp_path / "not" / "yet" / "web01"
        assert run.state is RunState.NEW
        assert (run.name, run.next_step, run.plan) == ("web01", "capture", make_plan())
        assert len(run.id) == 32
        int(run.id, 16)
        assert run.capture_dir.is_dir()
        assert run.vm_dir("libvirt") == run.path / "vm" / "libvirt"
        assert run.proof_dir("libvirt").is_dir()
        # Whole disks are nobody's business, but a hypervisor's own user must reach the image that it is
        # given.
        modes = {
            folder: (run.path / folder).stat().st_mode & 0o777 for folder in ("", "capture", "vm/libvirt")
        }
        assert modes == {"": 0o711, "capture": 0o700, "vm/libvirt": 0o711}
        assert (run.path / "vm").stat().st_mode & 0o001
    assert [entry.name for entry in run.path.parent.iterdir()] == ["web01"]


def test_a_run_is_resumed_where_it_stood(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        first = run.id
        run.finish("capture", digest="d1", seconds=1.5)
    with held(tmp_path) as run:
        assert run.id == first
        assert run.state is RunState.UNFINISHED
        assert run.next_step == "convert"
        assert run.job == {"to": "libvirt", "disks": ["WD-1"]}
        done = run.done("capture")
        assert done is not None
        assert (done.digest, done.seconds) == ("d1", 1.5)
        assert run.done("convert") is None
    with open_run(tmp_path / "web01") as run:
        assert run.id == first


def test_a_finished_run_of_the_same_plan_is_given_back_as_finished(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        receipt = make_receipt(run.id)
        run.write_receipt(receipt)
    with held(tmp_path) as run:
        assert run.state is RunState.FINISHED
        assert run.receipt() == receipt
    assert read_receipt(tmp_path / "web01") == receipt


def test_another_plan_is_refused_with_the_differences(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        run.finish("capture", digest="d1", seconds=1)
    before = (tmp_path / "web01" / "run.json").read_bytes()
    machine = replace(make_plan().machine, hostname="evil\x1b[31m")
    other = replace(make_plan(), memory=4 * GiB, machine=machine)
    with pytest.raises(PlanRefused) as caught, held(tmp_path, plan=other):
        pass
    assert f"memory: {8 * GiB} → {4 * GiB}" in caught.value.message
    assert "evil?[31m" in caught.value.message
    assert f"p2v resume {tmp_path / 'web01'}" in caught.value.hint
    assert "--name" in caught.value.hint
    assert (tmp_path / "web01" / "run.json").read_bytes() == before


def test_a_wholly_different_plan_is_not_listed_to_the_last_field(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    other = make_plan()
    machine = replace(other.machine, hostname="db", cpus=1, memory=1, os=None, uuid="x", disks=(), nics=())
    with (
        pytest.raises(PlanRefused, match=r"and \d+ more") as caught,
        held(tmp_path, plan=replace(other, machine=machine)),
    ):
        pass
    assert len(caught.value.message.splitlines()) == 10


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_is_no_run_is_never_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web01"
    match kind:
        case "folder":
            path.mkdir()
            (path / "thesis.txt").write_text("years of work")
        case "empty folder":
            path.mkdir()
        case "file":
            path.write_text("years of work")
        case _:
            path.symlink_to("/nowhere")
    before = path.lstat()
    with pytest.raises(UsageError, match="exists and is no p2v run") as caught, held(tmp_path):
        pass
    assert "--name" in caught.value.hint
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["web01"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-rf", "a/b", "/etc", "a b", "a\n", "ä", "x" * 65, "a\0"]
)
def test_names_that_could_go_astray_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"), held(tmp_path, name):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "_", "web01.example.org", "A-b_c.9", "x" * 64])
def test_ordinary_names_are_taken(tmp_path: Path, name: str) -> None:
    with held(tmp_path, name) as run:
        assert run.path.name == name


def test_the_names_of_targets_stay_inside_the_run(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        for place in (run.vm_dir, run.proof_dir):
            with pytest.raises(UsageError):
                place("../../etc")


def test_a_run_in_use_is_refused_and_free_again_after_a_kill(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with held(tmp_path):
            os.write(writer, b"held")
            signal.pause()
    assert os.read(reader, 4) == b"held"
    with pytest.raises(PlanRefused, match=f"in use by process {pid}"), open_run(tmp_path / "web01"):
        pass
    assert read_journal(tmp_path / "web01").name == "web01", "reading needs no lock"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with held(tmp_path) as run:
        assert run.state is RunState.NEW


def test_of_many_that_create_one_run_at_once_one_holds_it(tmp_path: Path) -> None:
    ids: list[str] = []
    refused: list[PlanRefused] = []
    start, end = threading.Barrier(8), threading.Barrier(8)

    def create() -> None:
        start.wait(10)
        try:
            with held(tmp_path) as run:
                ids.append(run.id)
                end.wait(10)
        except PlanRefused as error:
            refused.append(error)
            end.wait(10)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(ids), len(refused)) == (1, 7)
    assert read_journal(tmp_path / "web01").id == ids[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["web01"]


def test_a_step_done_again_with_another_result_takes_the_later_ones_with_it(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        for step in ORDER:
            run.finish(step, digest="d1", seconds=1)
        run.finish("capture", digest="d1", seconds=2)
        assert [(step.name, step.seconds) for step in run.steps] == [
            ("capture", 2),
            ("convert", 1),
            ("write", 1),
        ]
        run.finish("capture", digest="d2", seconds=1)
        assert [(step.name, step.digest) for step in run.steps] == [("capture", "d2")]
    assert [step.digest for step in read_journal(tmp_path / "web01").steps] == ["d2"]


def test_a_forgotten_step_is_to_be_done_again(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        for step in ORDER:
            run.finish(step, digest="d1", seconds=1)
        run.forget("convert")
        run.forget("never done")
    with held(tmp_path) as run:
        assert run.next_step == "convert"
        assert [step.name for step in run.steps] == ["capture"]


def test_a_step_that_cannot_be_written_down_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with held(tmp_path) as run:
        monkeypatch.setattr("p2v.run_folder.write_atomically", full)
        with pytest.raises(TargetError, match="No space left"):
            run.finish("capture", digest="d1", seconds=1)
        assert run.done("capture") is None


def test_quarantined_outputs_are_kept_beside_each_other(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        image = run.capture_dir / "disk0.raw"
        for content in ("first", "second", "third"):
            image.write_text(content)
            run.quarantine(image)
            assert not image.exists()
        names = sorted(entry.name for entry in run.capture_dir.iterdir())
        assert names == ["disk0.raw.2.quarantined", "disk0.raw.3.quarantined", "disk0.raw.quarantined"]
        assert (run.capture_dir / "disk0.raw.quarantined").read_text() == "first"


def test_the_log_is_appended_to_and_cleaned(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add("s3cret")
    for _ in range(2):
        with create_run(tmp_path, "web01", make_plan(), job={}, redactor=redactor) as run:
            run.log.info("login with s3cret")
    said = [
        json.loads(line)["message"] for line in (tmp_path / "web01" / "log.jsonl").read_text().splitlines()
    ]
    assert said == ["login with [removed]"] * 2


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="is no p2v run") as caught, open_run(path):
            pass
        assert "p2v runs" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "newer", "huge", "folder"])
def test_a_damaged_run_is_refused_in_words_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    with held(tmp_path):
        pass
    with held(tmp_path, "fine"):
        pass
    path = tmp_path / "web01" / "run.json"
    whole = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(whole[:200])
        case "newer":
            path.write_bytes(whole.replace(b'"format": 1', b'"format": 99'))
        case "huge":
            monkeypatch.setattr("p2v.run_folder.FILE_LIMIT", len(whole) + 10)
            path.write_bytes(whole + b" " * 11)
        case _:
            path.unlink()
            path.mkdir()
    with pytest.raises(UsageError), open_run(tmp_path / "web01"):
        pass
    with pytest.raises(UsageError), held(tmp_path):
        pass
    fine, bad = list_runs(tmp_path)
    assert (fine.name, fine.state) == ("fine", RunState.NEW)
    assert (bad.name, bad.state) == ("web01", RunState.DAMAGED)
    assert bad.problem


def test_a_damaged_receipt_is_refused_in_words(tmp_path: Path) -> None:
    with held(tmp_path) as run:
        run.write_receipt(make_receipt(run.id))
        (run.path / "receipt.json").write_text("{")
        with pytest.raises(UsageError, match=r"receipt\.json is damaged"):
            run.receipt()


def test_the_runs_are_listed_with_what_comes_next(tmp_path: Path) -> None:
    with held(tmp_path, "b-unfinished") as run:
        run.finish("capture", digest="d", seconds=1)
        with (run.capture_dir / "disk0.raw").open("wb") as image:
            image.truncate(1 * TiB)
            image.write(b"x" * 1_000_000)
    with held(tmp_path, "a-finished") as run:
        run.write_receipt(make_receipt(run.id))
    hostile = replace(make_plan(), machine=replace(make_plan().machine, hostname="web\x1b[2J"))
    with held(tmp_path, "c-new", hostile):
        pass
    (tmp_path / "holiday").mkdir()
    (tmp_path / ".web01.abcd.new").mkdir()
    (tmp_path / "notes.txt").write_text("no run")
    a, b, c = list_runs(tmp_path)
    assert [(run.name, run.state) for run in (a, b, c)] == [
        ("a-finished", RunState.FINISHED),
        ("b-unfinished", RunState.UNFINISHED),
        ("c-new", RunState.NEW),
    ]
    assert (b.next_step, b.hostname, b.path) == ("convert", "web01", tmp_path / "b-unfinished")
    assert b.created.endswith("+00:00")
    assert 1_000_000 <= b.size < 10_000_000, "a sparse image counts what it takes, not its length"
    assert c.hostname == "web?[2J"


def test_runs_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot list runs"):
        list_runs(tmp_path / "missing")


def test_a_place_that_cannot_be_written_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetError, match="Cannot write") as caught, held(tmp_path / "file"):
        pass
    assert caught.value.hint


def test_a_failure_in_the_middle_of_creating_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("p2v.run_folder.write_atomically", full)
    with pytest.raises(TargetError, match="No space left"), held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_of_the_disk_that_will_hold_it(tmp_path: Path) -> None:
    later = tmp_path / "not" / "yet"
    facts = os.statvfs(tmp_path)
    assert abs(free_space(later) - facts.f_bavail * facts.f_frsize) < GiB
    require_space(later, 1)
    with pytest.raises(TargetError, match=r"4096\.0 TiB needed, .* available") as caught:
        require_space(later, 4096 * TiB)
    assert "--output" in caught.value.hint
    assert not later.parent.exists()


def test_every_refusal_of_a_run_is_for_a_person(tmp_path: Path) -> None:
    """No file error, lock or parser may come out as anything but an error with an exit code of ours."""
    with held(tmp_path):
        pass
    for name in ("log.jsonl", ".lock"):
        path = tmp_path / "web01" / name
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(P2VError), open_run(tmp_path / "web01"):
            pass
        path.rmdir()
