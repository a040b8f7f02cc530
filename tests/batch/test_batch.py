"""`p2v batch` from end to end over real runs of images; only the guest is a stub."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from p2v.batch import conduct, service
from p2v.batch.board import Board, JobUI
from p2v.batch.conduct import Conductor
from p2v.batch.reading import read_manifest
from p2v.cli import cli, run_command
from p2v.house import House, Source, default_home
from p2v.job import Job
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import TIERS, License, Tier
from p2v.run import read_receipt
from p2v.transports import TRANSPORTS
from p2v.transports.base import Took
from p2v.transports.rate import RateLimit
from p2v.ui import UI, ProgressStyle
from tests.batch import stub


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2V_ACCEL", "tcg")
    monkeypatch.delenv(stub.GATE, raising=False)
    stub.install(monkeypatch.setattr)


def p2v(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    ui = UI(style=ProgressStyle.LINES, stderr=err)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(
            lambda: cli.main([str(word) for word in words], standalone_mode=False, prog_name="p2v"), ui
        )
    return code, out.getvalue(), err.getvalue()


def used() -> int:
    with open_ledger(default_home()) as ledger:
        return ledger.status().used


def test_a_failed_job_stops_no_other_and_ends_with_nine(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["broken1", "web01", "web02"])
    code, out, err = p2v("batch", path, "--output", tmp_path / "runs", "--parallel", "2")
    assert code == 9
    assert "2 of 3 machines done" in out
    assert re.search(r"broken1 +failed: the guest is damaged", out)
    assert "The same command again does what is missing" in err
    assert used() == 2
    for name in ("web01", "web02"):
        receipt = read_receipt(tmp_path / "runs" / name)
        assert receipt is not None
        assert receipt.license is not None
        assert receipt.license.state == "committed"


def test_again_it_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stub.write_manifest(tmp_path, ["broken1", "web01"])
    command = ("batch", path, "--output", tmp_path / "runs", "--json")
    assert p2v(*command)[0] == 9
    monkeypatch.setattr(stub, "BROKEN", "nothing")
    (tmp_path / "web01.img").unlink()
    path.write_text(path.read_text().replace("web01.img", "moved.img"))
    (tmp_path / "moved.img").write_bytes(b"")
    # Another source is another job, so that it is not taken for the one that was done.
    code, out, _ = p2v(*command)
    assert code == 9
    path.write_text(path.read_text().replace("moved.img", "web01.img"))
    stub.write_image(tmp_path / "web01.img")
    code, out, _ = p2v(*command)
    assert code == 0
    assert [(one["name"], one["state"], one["units"]) for one in json.loads(out)["machines"]] == [
        ("broken1", "kept", 1),
        ("web01", "kept", 1),
    ]
    assert used() == 2


def test_a_finished_machine_is_not_connected_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    assert p2v("batch", path, "--output", tmp_path / "runs")[0] == 0
    monkeypatch.setattr("p2v.pipeline.convert", lambda *_rest: pytest.fail("converted again"))
    path.write_text(path.read_text().replace("{to: libvirt}", "{to: libvirt, limit: 5M, retry_for: 1h}"))
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs")
    assert code == 0
    assert "done before" in out


def test_json_is_one_document_and_progress_is_lines(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "broken2"])
    code, out, err = p2v("batch", path, "--output", tmp_path / "runs", "--json", "--progress", "json")
    document = json.loads(out)
    assert code == 9
    assert document["complete"] is False
    assert [one["state"] for one in document["machines"]] == ["done", "failed"]
    assert document["machines"][1]["exit_code"] == 6
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {"web01", "broken2"} <= {event.get("job") for event in events}
    assert any(event.get("phase", "").startswith("Copying") for event in events)


def test_stop_on_failure_starts_no_other(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["broken1", "web01"])
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs", "--stop-on-failure")
    assert code == 9
    assert re.search(r"web01 +not started: broken1 failed", out)
    assert not (tmp_path / "runs" / "web01").exists()
    assert used() == 0


def test_a_machine_can_say_that_its_failure_stops_the_rest(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["broken1", "web01"])
    path.write_text(path.read_text().replace("name: broken1}", "name: broken1, on_failure: stop}"))
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs")
    assert (code, bool(re.search(r"web01 +not started: broken1 failed", out))) == (9, True)


def test_what_needs_a_machine_that_failed_is_not_started(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["app", "front", "broken1", "other"])
    text = path.read_text().replace("name: app}", "name: app, needs: db}")
    text = text.replace("name: front}", "name: front, needs: app}").replace(
        "name: broken1}", "name: broken1, groups: db}"
    )
    path.write_text(text)
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs", "--parallel", "3")
    assert code == 9
    assert re.search(r"app +not started: it needs db, which is not done", out)
    assert re.search(r"front +not started: it needs app, which is not done", out)
    assert re.search(r"other +done in", out)
    assert used() == 1


@pytest.mark.slow
def test_a_closed_window_of_time_holds_a_job_and_no_other(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["late", "web01"])
    today = time.localtime()
    closed = time.strftime("%a", time.localtime(time.time() + 3 * 86400)) + " 00:00-24:00"
    assert closed[:3] != time.strftime("%a", today)
    path.write_text(path.read_text().replace("name: late}", f"name: late, windows: {closed!r}}}"))
    with _batch(path, tmp_path / "runs", tmp_path / "gate") as child:
        (tmp_path / "gate" / "open").touch()
        _wait_for(tmp_path / "gate", "web01.")
        deadline = time.monotonic() + 10
        while "wait for their windows" not in (tmp_path / "stderr").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
    assert (tmp_path / "runs" / "web01" / "receipt.json").exists()
    assert not (tmp_path / "runs" / "late").exists()


def test_only_names_and_groups(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "web02", "db"])
    path.write_text(path.read_text().replace("name: db}", "name: db, groups: late}"))
    code, out, _ = p2v(
        "batch", path, "--output", tmp_path / "runs", "--only", "late", "--only", "web02", "--json"
    )
    assert code == 0
    assert [one["name"] for one in json.loads(out)["machines"]] == ["web02", "db"]
    code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--only", "lates")
    assert (code, "no machine and no group lates" in err) == (2, True)


def test_a_dry_run_counts_as_the_ledger_does_and_writes_nothing(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "web02"])
    runs = tmp_path / "runs"
    assert p2v("batch", path, "--output", runs, "--only", "web01")[0] == 0
    # The same disk under a third name: the same machine, whose conversion is free for 30 days.
    text = path.read_text() + "  - {source: web01.img, name: again, disks: [web01.img]}\n"
    path.write_text(text.replace("again, disks: [web01.img]", f"again, disks: ['{tmp_path / 'web01.img'}']"))
    code, out, _ = p2v("batch", path, "--output", runs, "--dry-run")
    assert code == 0, out
    assert re.search(r"web01 +nothing; done before", out)
    assert re.search(r"web02 +1 unit; web02", out)
    assert re.search(r"again +nothing; web01", out)
    assert "1 license unit for all of them, 4 left" in out
    assert re.search(r"[0-9.]+ [KMG]iB of disk space at the most, [0-9.]+ [GT]iB free", out)
    assert sorted(child.name for child in runs.iterdir() if child.is_dir()) == ["web01"]
    assert used() == 1


def test_a_dry_run_says_when_units_are_short(tmp_path: Path) -> None:
    with open_ledger(default_home()) as ledger:
        for number in range(4):
            ledger.reserve(run=f"{number:032x}", machine=f"m{number}", title="x")
            ledger.commit(f"{number:032x}")
    path = stub.write_manifest(tmp_path, ["web01", "web02"])
    code, out, err = p2v("batch", path, "--output", tmp_path / "runs", "--dry-run")
    assert (code, "2 license units for all of them, 1 left" in out) == (8, True)
    assert "2 conversions are needed, 1 are left" in err


def test_more_machines_than_the_license_covers_start_nothing(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, [f"m{number}" for number in range(6)])
    for more in ((), ("--dry-run",)):
        code, _, err = p2v("batch", path, "--output", tmp_path / "runs", *more)
        assert code == 8, err
    assert not (tmp_path / "runs").exists()
    assert p2v("batch", path, "--check")[0] == 0


def test_a_tier_without_cluster_starts_nothing_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = TIERS[Tier.DESKTOP_25]
    desktop = License("d", Tier.DESKTOP_25, facts.title, facts.units, facts.features)
    monkeypatch.setattr(service, "open_ledger", partial(open_ledger, license=desktop))
    path = stub.write_manifest(tmp_path, ["web01"])
    code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--cluster", "tcp://127.0.0.1:9")
    assert code == 8
    assert "site" in err
    assert not (tmp_path / "runs").exists()


def test_hooks_learn_of_the_job_by_variables(tmp_path: Path) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text('#!/bin/sh\nenv | grep ^P2V_ | sort >> "$1"\necho "--" >> "$1"\n')
    hook.chmod(0o755)
    path = stub.write_manifest(tmp_path, ["web01", "broken1"])
    hooks = "before: [{run: [./hook.sh, before.txt]}], after: [{run: [./hook.sh, after.txt], timeout: 5s}]"
    path.write_text(
        path.read_text().replace("{to: libvirt}", f"{{to: libvirt, groups: g, hooks: {{{hooks}}}}}")
    )
    assert p2v("batch", path, "--output", tmp_path / "runs")[0] == 9
    before, after = (tmp_path / "before.txt").read_text(), (tmp_path / "after.txt").read_text()
    assert before.count("--") == 2
    assert f"P2V_DIRECTORY={tmp_path}/runs/web01\nP2V_GROUPS=g\n" in before
    assert "P2V_EXIT_CODE=0" in after
    assert "P2V_EXIT_CODE=6" in after
    assert "P2V_RESULT=failed" in after
    # Those behind a finished run are not run again.
    assert p2v("batch", path, "--output", tmp_path / "runs", "--only", "web01")[0] == 0
    assert (tmp_path / "after.txt").read_text() == after


def test_a_hook_that_fails_keeps_the_job_from_starting(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    path.write_text(
        path.read_text().replace("{to: libvirt}", '{to: libvirt, hooks: {before: [{run: ["false"]}]}}')
    )
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs")
    assert code == 9
    assert "false failed to do its part for web01" in out
    assert not (tmp_path / "runs" / "web01").exists()
    assert used() == 0


def test_a_hook_behind_a_finished_machine_is_made_up_for(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    hook = tmp_path / "hook.sh"
    hook.write_text("#!/bin/sh\nexit 3\n")
    hook.chmod(0o755)
    path.write_text(
        path.read_text().replace("{to: libvirt}", "{to: libvirt, hooks: {after: [{run: [./hook.sh]}]}}")
    )
    assert p2v("batch", path, "--output", tmp_path / "runs")[0] == 9
    assert used() == 1
    hook.write_text("#!/bin/sh\ntouch ran\n")
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs")
    assert (code, "done before" in out, (tmp_path / "ran").exists()) == (0, True, True)
    assert used() == 1


def test_a_job_is_tried_again_as_often_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "FIRST_PAUSE", 0.01)
    path = stub.write_manifest(tmp_path, ["broken1"])
    path.write_text(path.read_text().replace("{to: libvirt}", "{to: libvirt, on_failure: retry 2}"))
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs", "--json")
    assert (code, json.loads(out)["machines"][0]["tries"]) == (9, 3)


def test_no_password_reaches_a_journal_a_receipt_or_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT_PASSWORD", "hunter2")
    path = stub.write_manifest(tmp_path, ["web01"])
    path.write_text(path.read_text().replace("{to: libvirt}", "{to: libvirt, password: env:ROOT_PASSWORD}"))
    code, out, err = p2v("batch", path, "--output", tmp_path / "runs", "--verbose")
    assert code == 0
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert any(b"env:ROOT_PASSWORD" in file.read_bytes() for file in files)
    assert not any(b"hunter2" in file.read_bytes() for file in files)
    assert "hunter2" not in out + err


def test_a_reference_that_holds_nothing_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    path.write_text(path.read_text().replace("{to: libvirt}", "{to: libvirt, password: env:NO_SUCH_THING}"))
    for more in (("--check",), ()):
        code, _, err = p2v("batch", path, "--output", tmp_path / "runs", *more)
        assert (code, "env:NO_SUCH_THING" in err) == (2, True)
    path.write_text(path.read_text().replace("env:NO_SUCH_THING", "prompt"))
    code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--yes")
    assert (code, "Nobody can be asked" in err) == (2, True)


def test_check_shows_all_mistakes_and_the_schema_is_json(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    assert p2v("batch", path, "--check")[1].strip().endswith("1 machine, no mistakes")
    path.write_text(path.read_text().replace("name:", "nane:"))
    code, _, err = p2v("batch", path, "--check")
    assert (code, "line 3, column 25: 'nane' is not known here. Did you mean name?" in err) == (2, True)
    code, out, _ = p2v("batch", path, "--check", "--json")
    assert (code, json.loads(out)["mistakes"][0]["line"]) == (2, 3)
    assert json.loads(p2v("batch", "--schema")[1])["title"] == "p2v batch manifest"
    assert p2v("batch")[0] == 2


def test_one_budget_and_those_of_hosts_are_shared_by_all_jobs(tmp_path: Path, own_home: Path) -> None:
    path = stub.write_manifest(tmp_path, ["a", "b", "c"], "hosts: {nas: {limit: 5M}}")
    path.write_text(
        path.read_text().replace("name: c}", "name: c, host: nas}").replace("name: b}", "name: b, host: nas}")
    )
    found = read_manifest(path, tmp_path / "runs").require()
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), own_home)
    board = Board(house.ui, 3, 3)
    budget = RateLimit(1000.0)
    conductor = Conductor(found, house, board, limit=budget)
    ui = JobUI(board, "x", conductor.cancel.is_set)
    one, two, three = (conductor.house_for(entry, ui).limits for entry in found.entries)
    assert one == (budget,)
    assert two == three
    assert two[0] is budget
    assert two[1].current() == 5e6


def test_a_source_takes_from_every_budget(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came over the wire is counted against the job's own limit and against those that it shares."""
    told: list[Took] = []

    def open_stub(_source: str, _options: object, took: Took | None) -> contextlib.nullcontext[None]:
        assert took is not None
        told.append(took)
        return contextlib.nullcontext()

    monkeypatch.setitem(TRANSPORTS, "stub", open_stub)
    shared = [RateLimit(1e9), RateLimit(1e9)]
    taken = {id(limit): 0 for limit in shared}

    def take(limit: RateLimit, size: int) -> None:
        taken[id(limit)] = taken.get(id(limit), 0) + size

    monkeypatch.setattr(RateLimit, "take", take)
    house = House(UI(style=ProgressStyle.NONE), own_home, limits=tuple(shared))
    with Source(Job("stub://x", ("raw",), tmp_path, limit="5M"), house) as source:
        source.transport()
        told[0](4096)
    assert [taken[id(limit)] for limit in shared] == [4096, 4096]
    assert len(taken) == 3


@pytest.mark.slow
def test_two_batches_of_one_manifest_do_not_meet(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    runs = tmp_path / "runs"
    with _batch(path, runs, tmp_path / "gate") as child:
        _wait_for(tmp_path / "gate", "web01.")
        code, _, err = p2v("batch", path, "--output", runs)
        assert (code, f"Wait for process {child.pid}" in err) == (3, True)
        (tmp_path / "gate" / "open").touch()
        assert child.wait(30) == 0


@pytest.mark.slow
def test_a_killed_batch_goes_on_where_it_stood(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "web02", "web03"])
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    with _batch(path, runs, gate, "--parallel", "2") as child:
        _wait_for(gate, "web01.")
        _wait_for(gate, "web02.")
        child.kill()
        child.wait(10)
    captured = {
        name: (runs / name / "capture" / "disk0.raw").stat().st_mtime_ns for name in ("web01", "web02")
    }
    code, out, _ = p2v("batch", path, "--output", runs, "--json")
    assert code == 0
    assert json.loads(out)["units"] == 3
    assert used() == 3
    for name, when in captured.items():
        assert (runs / name / "capture" / "disk0.raw").stat().st_mtime_ns == when


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_batch_ends_in_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "web02", "web03"])
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    with _batch(path, runs, gate, "--parallel", "2") as child:
        _wait_for(gate, "web01.")
        _wait_for(gate, "web02.")
        child.send_signal(number)
        assert child.wait(20) == code
        assert child.stdout is not None
        out, err = child.stdout.read(), (tmp_path / "stderr").read_text()
    assert re.search(r"web01 +interrupted", out)
    assert re.search(r"web03 +not started: the batch was interrupted", out)
    assert f"Continue with: p2v batch {path}" in err
    assert used() == 0
    with open_ledger(default_home()) as ledger:
        assert ledger.status().left == 5
    assert (runs / "batch-manifest.html").exists()


@contextlib.contextmanager
def _batch(path: Path, runs: Path, gate: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`p2v batch` in a process of its own, over the stub."""
    gate.mkdir()
    code = "from tests.batch import stub; stub.install(); from p2v import cli; cli.main()"
    words = [sys.executable, "-c", code, "batch", str(path), "--output", str(runs), *more]
    env = {**os.environ, stub.GATE: str(gate), "PYTHONPATH": str(Path(__file__).parents[2])}
    with (
        (path.parent / "stderr").open("w") as err,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, text=True, env=env) as child,
    ):
        try:
            yield child
        finally:
            child.kill()


def _wait_for(folder: Path, start: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [child.name for child in folder.iterdir() if child.name.startswith(start)]
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing begins with {start} in {folder}")
