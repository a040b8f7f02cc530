"""The published table of what costs what, row by row; README shows it, and these are its proofs.

Rows that another file shows in detail are here too: this is the table, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.licensing.ledger import Ledger, open_ledger
from tests.licensing.vendor import DAY, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(tmp_path, clock=clock) as opened:
        yield opened


def account(ledger: Ledger) -> tuple[int, int]:
    """(used, reserved)"""
    return ledger.status().used, ledger.status().reserved


def convert(ledger: Ledger, run: str, machine: str) -> None:
    ledger.reserve(run=run, machine=machine, title=machine)
    ledger.commit(run)


def test_a_plan_or_dry_run_asks_what_it_would_cost_for_nothing(ledger: Ledger) -> None:
    assert ledger.quote("m", "").units == 1
    assert account(ledger) == (0, 0)


def test_a_conversion_that_starts_reserves_one(ledger: Ledger) -> None:
    ledger.reserve(run="r", machine="m", title="m")
    assert account(ledger) == (0, 1)


@pytest.mark.parametrize("why", ["failed", "cancelled", "ended by ProofFailed"])
def test_one_that_ends_without_a_machine_gives_it_back(ledger: Ledger, why: str) -> None:
    ledger.reserve(run="r", machine="m", title="m")
    ledger.release("r", why)
    assert account(ledger) == (0, 0)


def test_a_written_machine_commits_one(ledger: Ledger) -> None:
    convert(ledger, "r", "m")
    assert account(ledger) == (1, 0)


def test_resuming_retrying_and_delta_passes_are_the_same_run(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.reserve(run="r", machine="m", title="m")
    ledger.release("r", "failed")
    ledger.reserve(run="r", machine="m", title="m")
    assert account(ledger) == (0, 1)
    ledger.commit("r")
    assert account(ledger) == (1, 0)


def test_a_further_target_of_the_same_run_is_free(ledger: Ledger, clock: Clock) -> None:
    convert(ledger, "r", "m")
    clock.now += 100 * DAY
    assert ledger.quote("m", "r").units == 0
    convert(ledger, "r", "m")
    assert account(ledger) == (1, 0)


@pytest.mark.parametrize(("days", "units"), [(30, 0), (31, 1)])
def test_the_same_machine_again_is_free_for_thirty_days(
    ledger: Ledger, clock: Clock, days: int, units: int
) -> None:
    convert(ledger, "r1", "m")
    clock.now += days * DAY
    convert(ledger, "r2", "m")
    assert account(ledger) == (1 + units, 0)


def test_a_rollback_onto_its_own_machine_is_free(ledger: Ledger, clock: Clock) -> None:
    """It asks under the run that it takes back, for the machine that the run came from."""
    convert(ledger, "r", "m")
    clock.now += 100 * DAY
    use = ledger.reserve(run="r", machine="m", title="m")
    assert (use.state, use.units) == ("free", 0)
    assert ledger.commit("r").state == "committed"
    assert account(ledger) == (1, 0)


def test_a_restore_onto_another_machine_costs_one(ledger: Ledger) -> None:
    """It is a run of its own, for the machine that is written."""
    convert(ledger, "r", "m")
    convert(ledger, "restore", "another machine")
    assert account(ledger) == (2, 0)
