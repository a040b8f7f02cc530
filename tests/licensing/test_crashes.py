"""Real processes: races for the last unit, and deaths at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from p2v import atomic
from p2v.errors import LicenseError
from p2v.licensing import store
from p2v.licensing.chain import Event
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import EVALUATION, License

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


PLENTY = replace(EVALUATION, total=1_000_000)
SCARCE = replace(EVALUATION, total=150)


def _work(home: Path, name: str, license: License, acknowledged: int) -> None:
    """Convert while there is a unit; each word on the pipe is a promise that the ledger made before."""
    dice = random.Random(name)
    with open_ledger(home, license=license) as ledger:
        for number in range(100_000):
            run = f"{name}-{number}"
            try:
                ledger.reserve(run=run, machine=run, title=run)
            except LicenseError:
                os._exit(7)
            if dice.random() < 0.3:
                ledger.release(run, "cancelled")
                os.write(acknowledged, f"released {run}\n".encode())
            else:
                ledger.commit(run)
                os.write(acknowledged, f"committed {run}\n".encode())


@dataclass(frozen=True, slots=True)
class Worker:
    pid: int
    pipe: int

    def kill(self) -> list[str]:
        """End it as no program can refuse, and return what the ledger had promised to it."""
        os.kill(self.pid, signal.SIGKILL)
        with os.fdopen(self.pipe) as pipe:
            said = pipe.read()
        os.waitpid(self.pid, 0)
        # A kill in the middle of a line: what was not said whole was not said.
        return said[: said.rfind("\n") + 1].splitlines()


def _start_worker(home: Path, name: str, license: License) -> Worker:
    reader, writer = os.pipe()
    pid = in_child(lambda: _work(home, name, license, writer))
    os.close(writer)
    return Worker(pid, reader)


def _kill_at_random(home: Path, license: License, *, kills: int, together: int) -> list[str]:
    """Always `together` processes at work, of which a random one is killed at a random moment, `kills` times.

    Returns what was promised. Every so often the ledger is looked at while the others go on.
    """
    dice = random.Random(20260301)
    promised: list[str] = []
    workers = [_start_worker(home, f"first{number}", license) for number in range(together)]
    for number in range(kills):
        time.sleep(dice.uniform(0.0, 0.05))
        promised += workers.pop(dice.randrange(together)).kill()
        workers.append(_start_worker(home, f"w{number}", license))
        if number % 10 == 0:
            with open_ledger(home, license=license) as ledger:
                status = ledger.status()
                assert status.used + status.reserved + (status.left or 0) == status.total
    for worker in workers:
        promised += worker.kill()
    return promised


def _require_exact(home: Path, license: License, promised: list[str], *, deaths: int) -> int:
    """No promise broken, no run counted twice, no unit made up; returns the units used."""
    with open_ledger(home, license=license) as ledger:
        history, status = ledger.history(), ledger.status()
    commits = Counter(entry.run for entry in history if entry.event is Event.COMMITTED)
    assert set(commits.values()) == {1}
    assert (status.used, status.reserved) == (len(commits), 0)
    assert status.left == (license.total or 0) - len(commits)
    kept = {line.removeprefix("committed ") for line in promised if line.startswith("committed")}
    given_back = {line.removeprefix("released ") for line in promised if line.startswith("released")}
    assert kept <= set(commits)
    assert not given_back & set(commits)
    # Each death can leave one commit that was on the disk before the process could say so.
    assert len(commits) - len(kept) <= deaths
    return len(commits)


@pytest.mark.slow
def test_thirty_killed_processes_neither_lose_nor_invent_a_unit(tmp_path: Path) -> None:
    promised = _kill_at_random(tmp_path, PLENTY, kills=30, together=3)
    used = _require_exact(tmp_path, PLENTY, promised, deaths=33)
    assert used >= 10, "the processes died too early for this test to mean anything"


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_two_hundred_and_forty_kills(tmp_path: Path) -> None:
    promised = _kill_at_random(tmp_path, PLENTY, kills=240, together=4)
    used = _require_exact(tmp_path, PLENTY, promised, deaths=244)
    assert used >= 100, "the processes died too early for this test to mean anything"


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_kills_around_the_last_unit_leave_exactly_what_was_bought(tmp_path: Path) -> None:
    promised = _kill_at_random(tmp_path, SCARCE, kills=60, together=4)
    _require_exact(tmp_path, SCARCE, promised, deaths=64)
    with open_ledger(tmp_path, license=SCARCE) as ledger:
        left = ledger.status().left or 0
        for number in range(left):
            ledger.reserve(run=f"rest{number}", machine=f"rest{number}", title="rest")
            ledger.commit(f"rest{number}")
        with pytest.raises(LicenseError, match="No conversion is left of the 150"):
            ledger.reserve(run="more", machine="more", title="more")
        assert ledger.status().used == 150


def _die_before_statement(home: Path, number: int) -> None:
    """Reserve, commit, reserve, release; killed before the statement of that number. 7: not reached."""
    seen = 0

    def count(_statement: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            kill_at_once()

    with open_ledger(home) as ledger:
        ledger._store._connection.set_trace_callback(count)
        ledger.reserve(run="r1", machine="m1", title="web01")
        ledger.commit("r1")
        ledger.reserve(run="r2", machine="m2", title="web02")
        ledger.release("r2", "cancelled")
        ledger._store._connection.set_trace_callback(None)
    os._exit(7)


@pytest.mark.slow
def test_a_death_before_each_statement_leaves_the_ledger_whole(tmp_path: Path) -> None:
    """Not at random: before every single thing that the ledger says to its database."""
    used, number = set(), 0
    while True:
        number += 1
        home = tmp_path / str(number)
        code = die_in_child(partial(_die_before_statement, home, number))
        with open_ledger(home) as ledger:
            status = ledger.status()
            assert (status.reserved, status.used + (status.left or 0)) == (0, 5)
            used.add(status.used)
            # The same run goes on where it was, for one unit in all.
            ledger.reserve(run="r1", machine="m1", title="web01")
            ledger.commit("r1")
            assert ledger.status().used == 1
        if code == 7:
            break
        assert code == -signal.SIGKILL
    assert number >= 30, "there were fewer statements than this test was made for"
    assert used == {0, 1}


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
