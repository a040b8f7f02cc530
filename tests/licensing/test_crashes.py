"""Real processes: races for the last unit, and deaths at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from p2v import atomic
from p2v.errors import LicenseError
from p2v.licensing import store
from p2v.licensing.chain import Event
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import EVALUATION

ROOMY = replace(EVALUATION, total=1_000_000)
FORK = multiprocessing.get_context("fork")


def in_child(work: Callable[[], None]) -> int:
    """Start `work` in a process of its own, which never comes back into the test runner."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(9)
    return pid


def die_in_child(work: Callable[[], None]) -> int:
    """Run `work`, which is expected to end its process, and return the exit code."""
    _, status = os.waitpid(in_child(work), 0)
    return os.waitstatus_to_exitcode(status)


def kill_at_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _race_and_wait(home: Path, number: int, start: Barrier, tried: Barrier) -> None:
    start.wait(timeout=20)
    code = 0
    with open_ledger(home) as ledger:
        try:
            ledger.reserve(run=f"r{number}", machine=f"m{number}", title=f"racer {number}")
        except LicenseError:
            code = 7
        # A reservation counts while its process lives: stay until everybody has tried.
        tried.wait(timeout=20)
        if code == 0:
            ledger.commit(f"r{number}")
    os._exit(code)


def test_eight_processes_cannot_share_the_last_unit(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        for number in range(4):
            ledger.reserve(run=f"old{number}", machine=f"old{number}", title="old")
            ledger.commit(f"old{number}")
    start, tried = FORK.Barrier(8), FORK.Barrier(8)
    racers = [FORK.Process(target=_race_and_wait, args=(tmp_path, n, start, tried)) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=25)
    assert sorted(racer.exitcode or 0 for racer in racers) == [0, 7, 7, 7, 7, 7, 7, 7]
    with open_ledger(tmp_path) as ledger:
        assert ledger.status().used == 5
        assert ledger.status().left == 0


def test_eight_processes_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    start, tried = FORK.Barrier(8), FORK.Barrier(8)
    home = tmp_path / "home"
    racers = [FORK.Process(target=_race_and_wait, args=(home, n, start, tried)) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=25)
    assert sorted(racer.exitcode or 0 for racer in racers) == [0, 0, 0, 0, 0, 7, 7, 7]
    with open_ledger(home) as ledger:
        assert ledger.status().used == 5
        assert [entry.event for entry in ledger.history()].count(Event.INSTALLED) == 1


def _work_for_ever(home: Path, batch: int, acknowledged: int) -> None:
    """Convert without end; each word on the pipe is a promise that the ledger made before."""
    with open_ledger(home, license=ROOMY) as ledger:
        for number in range(100_000):
            run = f"b{batch}-{number}"
            ledger.reserve(run=run, machine=run, title=run)
            if number % 3 == 2:
                ledger.release(run, "cancelled")
                os.write(acknowledged, f"released {run}\n".encode())
            else:
                ledger.commit(run)
                os.write(acknowledged, f"committed {run}\n".encode())


def _killed_batch(home: Path, batch: int, delay: float) -> list[str]:
    """Let a process work for a while, kill it, and return what the ledger had promised to it.

    Every other one has converted at least once by then, however slow this computer is.
    """
    reader, writer = os.pipe()
    pid = in_child(lambda: _work_for_ever(home, batch, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        first = pipe.readline() if batch % 2 else ""
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return (first + pipe.read()).splitlines()


def test_sixty_killed_processes_neither_lose_nor_invent_a_unit(tmp_path: Path) -> None:
    dice = random.Random(20260301)
    promised: list[str] = []
    for batch in range(60):
        promised += _killed_batch(tmp_path, batch, dice.uniform(0.0, 0.03))
        with open_ledger(tmp_path, license=ROOMY) as ledger:
            status = ledger.status()
            assert status.used + status.left == status.total
            assert status.reserved == 0
    with open_ledger(tmp_path, license=ROOMY) as ledger:
        history = ledger.history()
        used = ledger.status().used
    commits = Counter(entry.run for entry in history if entry.event is Event.COMMITTED)
    assert set(commits.values()) == {1}
    assert used == len(commits)
    kept = {line.removeprefix("committed ") for line in promised if line.startswith("committed")}
    assert kept <= set(commits)
    # Each death can leave one commit that was on the disk before the process could say so.
    assert len(commits) - len(kept) <= 60
    assert len(kept) >= 30, "the processes died too early for this test to mean anything"


def test_the_unit_of_a_dead_process_comes_back_and_the_run_may_have_it_again(tmp_path: Path) -> None:
    def reserve_all_and_die() -> None:
        with open_ledger(tmp_path) as ledger:
            for number in range(5):
                ledger.reserve(run=f"r{number}", machine=f"m{number}", title="doomed")
            kill_at_once()

    assert die_in_child(reserve_all_and_die) == -signal.SIGKILL
    with open_ledger(tmp_path) as ledger:
        assert ledger.status().left == 5
        assert ledger.quote("m1", "r1").units == 1
        assert ledger.reserve(run="r1", machine="m1", title="resumed").state == "reserved"
        taken_back = [entry for entry in ledger.history() if entry.event is Event.RELEASED]
        assert {entry.run for entry in taken_back} == {"r0", "r1", "r2", "r3", "r4"}
        assert all("ended without an answer" in entry.reason for entry in taken_back)
        assert ledger.commit("r1").left == 4


def test_a_finished_run_of_a_dead_process_can_still_be_committed(tmp_path: Path) -> None:
    def reserve_and_die() -> None:
        with open_ledger(tmp_path) as ledger:
            ledger.reserve(run="r1", machine="m1", title="web01")
            kill_at_once()

    die_in_child(reserve_and_die)
    with open_ledger(tmp_path) as ledger:
        assert ledger.commit("r1").left == 4


def test_a_late_commit_cannot_spend_a_unit_that_went_to_somebody_else(tmp_path: Path) -> None:
    def reserve_and_die() -> None:
        with open_ledger(tmp_path) as ledger:
            ledger.reserve(run="late", machine="late", title="late")
            kill_at_once()

    die_in_child(reserve_and_die)
    with open_ledger(tmp_path) as ledger:
        for number in range(5):
            ledger.reserve(run=f"r{number}", machine=f"m{number}", title="web")
            ledger.commit(f"r{number}")
        with pytest.raises(LicenseError, match="no license unit reserved"):
            ledger.commit("late")
        assert ledger.status().used == 5


STAGES = ["database begun", "database made", "key made", "renamed"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_death_during_the_installation_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    match stage:
        case "database begun":
            monkeypatch.setattr(store, "make_head", lambda *a, **k: kill_at_once())
        case "database made":
            monkeypatch.setattr(store, "write_atomically", lambda *a, **k: kill_at_once())
        case "key made":
            monkeypatch.setattr(Path, "rename", lambda *a, **k: kill_at_once())
        case "renamed":
            monkeypatch.setattr(store, "sync_directory", _die_on_second_call())

    def install() -> None:
        with open_ledger(tmp_path):
            pass

    assert die_in_child(install) == -signal.SIGKILL
    monkeypatch.undo()
    assert (tmp_path / store.KEY_NAME).exists() == (stage in STAGES[2:])
    with open_ledger(tmp_path) as ledger:
        assert ledger.status().left == 5
        ledger.reserve(run="r1", machine="m1", title="web01")
        assert ledger.commit("r1").left == 4


def _die_on_second_call() -> Callable[[Path], None]:
    calls: list[Path] = []

    def sync(path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            kill_at_once()
        atomic.sync_directory(path)

    return sync
