"""The counting rules, line by line, as a customer would check them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from p2v.errors import LicenseError
from p2v.licensing.chain import Event
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.licensing.tiers import EVALUATION, Tier
from tests.licensing.vendor import DAY, SECOND, START, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "home", clock=clock) as opened:
        yield opened


def convert(ledger: Ledger, run: str, machine: str) -> None:
    ledger.reserve(run=run, machine=machine, title=f"host-{machine}")
    ledger.commit(run)


def account(ledger: Ledger) -> tuple[int, int, int | None]:
    status = ledger.status()
    return status.used, status.reserved, status.left


def test_a_new_installation_has_the_five_conversions_of_the_evaluation(ledger: Ledger) -> None:
    status = ledger.status()
    assert [grant.license.tier for grant in status.licenses] == [Tier.EVALUATION]
    assert (status.total, status.since) == (5, START.isoformat())
    assert account(ledger) == (0, 0, 5)


def test_a_quote_costs_nothing_and_writes_nothing(ledger: Ledger) -> None:
    before = ledger.history()
    quote = ledger.quote("m1", "")
    assert (quote.units, quote.left) == (1, 5)
    assert ledger.history() == before


def test_a_conversion_that_starts_reserves_one(ledger: Ledger) -> None:
    use = ledger.reserve(run="r1", machine="m1", title="web01")
    assert (use.state, use.license, use.units, use.left) == ("reserved", "evaluation", 1, 4)
    assert account(ledger) == (0, 1, 4)


def test_one_that_fails_gives_it_back(ledger: Ledger) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    use = ledger.release("r1", "the proof failed")
    assert (use.state, use.units, use.left, use.reason) == ("released", 0, 5, "the proof failed")
    assert account(ledger) == (0, 0, 5)


def test_the_written_machine_spends_it(ledger: Ledger) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    use = ledger.commit("r1")
    assert (use.state, use.units, use.left) == ("committed", 1, 4)
    assert account(ledger) == (1, 0, 4)


def test_each_call_may_be_repeated(ledger: Ledger) -> None:
    first = ledger.reserve(run="r1", machine="m1", title="web01")
    assert ledger.reserve(run="r1", machine="m1", title="web01") == first
    done = ledger.commit("r1")
    assert ledger.commit("r1") == done
    ledger.reserve(run="r2", machine="m2", title="web02")
    gone = ledger.release("r2", "cancelled")
    assert ledger.release("r2", "cancelled again") == gone
    assert account(ledger) == (1, 0, 4)


def test_a_commit_is_never_undone(ledger: Ledger) -> None:
    convert(ledger, "r1", "m1")
    assert ledger.release("r1", "too late").state == "committed"
    assert account(ledger) == (1, 0, 4)


def test_a_retry_after_a_failure_costs_one_in_all(ledger: Ledger) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    ledger.release("r1", "disk full")
    convert(ledger, "r1", "m1")
    assert account(ledger) == (1, 0, 4)


def test_a_further_target_of_the_same_run_is_free_for_ever(ledger: Ledger, clock: Clock) -> None:
    convert(ledger, "r1", "m1")
    clock.now += 400 * DAY
    assert ledger.quote("m1", "r1").units == 0
    use = ledger.reserve(run="r1", machine="m1", title="web01")
    assert (use.state, use.units, use.left) == ("free", 0, 4)
    assert use.reason
    assert ledger.commit("r1").state == "committed"
    assert account(ledger) == (1, 0, 4)


@pytest.mark.parametrize(("later", "units"), [(30 * DAY, 0), (30 * DAY + SECOND, 1), (-DAY / 2, 0)])
def test_the_same_machine_is_free_for_thirty_days(
    ledger: Ledger, clock: Clock, later: timedelta, units: int
) -> None:
    convert(ledger, "r1", "m1")
    clock.now += later
    assert ledger.quote("m1", "r2").units == units
    assert ledger.reserve(run="r2", machine="m1", title="web01").units == units
    ledger.commit("r2")
    assert account(ledger) == (1 + units, 0, 4 - units)


def test_the_thirty_days_count_from_the_commit_not_the_reservation(ledger: Ledger, clock: Clock) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    clock.now += 3 * DAY
    ledger.commit("r1")
    clock.now += 29 * DAY
    assert ledger.quote("m1", "r2").units == 0


def test_free_conversions_do_not_prolong_the_thirty_days(ledger: Ledger, clock: Clock) -> None:
    convert(ledger, "r1", "m1")
    clock.now += 29 * DAY
    convert(ledger, "r2", "m1")
    assert account(ledger) == (1, 0, 4)
    clock.now += 2 * DAY
    assert ledger.quote("m1", "r3").units == 1


def test_a_free_conversion_that_ends_after_the_thirty_days_stays_free(ledger: Ledger, clock: Clock) -> None:
    convert(ledger, "r1", "m1")
    clock.now += 29 * DAY
    ledger.reserve(run="r2", machine="m1", title="web01")
    clock.now += 2 * DAY
    assert ledger.quote("m1", "r2").units == 0
    assert ledger.commit("r2").state == "free"
    assert account(ledger) == (1, 0, 4)


def test_a_reservation_of_the_same_machine_does_not_make_another_run_free(ledger: Ledger) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    assert ledger.reserve(run="r2", machine="m1", title="web01").units == 1


def test_two_runs_of_one_machine_at_once_spend_one(ledger: Ledger) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    ledger.reserve(run="r2", machine="m1", title="web01")
    ledger.commit("r1")
    assert ledger.commit("r2").state == "free"
    assert account(ledger) == (1, 0, 4)


def test_another_machine_costs_another_unit(ledger: Ledger) -> None:
    convert(ledger, "r1", "m1")
    convert(ledger, "r2", "m2")
    assert account(ledger) == (2, 0, 3)


@pytest.mark.parametrize("state", ["reserved", "committed"])
def test_a_run_id_pays_for_its_own_machine_only(ledger: Ledger, state: str) -> None:
    ledger.reserve(run="r1", machine="m1", title="web01")
    if state == "committed":
        ledger.commit("r1")
    with pytest.raises(LicenseError, match="another machine"):
        ledger.reserve(run="r1", machine="m2", title="web02")


def test_the_sixth_conversion_is_refused_and_says_who_used_the_others(ledger: Ledger) -> None:
    for number in range(3):
        convert(ledger, f"r{number}", f"m{number}")
    ledger.reserve(run="r3", machine="m3", title="busy\x1b[31m")
    ledger.reserve(run="r4", machine="m4", title="host-m4")
    assert ledger.quote("m5", "r5").left == 0
    with pytest.raises(LicenseError) as caught:
        ledger.reserve(run="r5", machine="m5", title="host-m5")
    message = caught.value.message
    assert "3 used by host-m0, host-m1, host-m2" in message
    assert "2 reserved by running conversions of busy?[31m, host-m4" in message
    assert "p2v license history" in caught.value.hint
    assert "p2v license install" in caught.value.hint
    assert account(ledger) == (3, 2, 0)


def test_with_nothing_left_what_was_paid_still_works(ledger: Ledger) -> None:
    for number in range(5):
        convert(ledger, f"r{number}", f"m{number}")
    assert ledger.reserve(run="r0", machine="m0", title="again").state == "free"
    assert ledger.reserve(run="new", machine="m0", title="again").state == "free"
    assert ledger.commit("new").units == 0


def test_a_commit_without_a_reservation_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LicenseError, match="no license unit reserved"):
        ledger.commit("r1")
    ledger.reserve(run="r1", machine="m1", title="web01")
    ledger.release("r1", "cancelled")
    with pytest.raises(LicenseError, match="cancelled"):
        ledger.commit("r1")
    assert account(ledger) == (0, 0, 5)


def test_releasing_what_was_never_reserved_is_harmless(ledger: Ledger) -> None:
    before = ledger.history()
    assert ledger.release("r1", "failed early").units == 0
    assert ledger.history() == before


def test_the_history_says_who_when_and_with_what(ledger: Ledger, clock: Clock) -> None:
    # A clock in another time zone is the same moment.
    clock.now = datetime(2026, 3, 1, 23, 0, tzinfo=timezone(timedelta(hours=9)))
    convert(ledger, "r1", "m1")
    installed, reserved, committed = ledger.history()
    assert [installed.event, reserved.event, committed.event] == [
        Event.INSTALLED,
        Event.RESERVED,
        Event.COMMITTED,
    ]
    assert reserved.when == "2026-03-01T14:00:00+00:00"
    assert (reserved.run, reserved.machine, reserved.title) == ("r1", "m1", "host-m1")
    assert reserved.who
    assert reserved.version
    assert [entry.number for entry in ledger.history()] == [1, 2, 3]


def test_everything_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    with open_ledger(tmp_path, clock=clock) as ledger:
        convert(ledger, "r1", "m1")
        ledger.reserve(run="r2", machine="m2", title="web02")
    with open_ledger(tmp_path, clock=clock) as ledger:
        assert account(ledger) == (1, 1, 3)
        assert ledger.commit("r2").left == 3


def test_a_name_that_no_text_can_hold_does_not_break_the_ledger(ledger: Ledger) -> None:
    with pytest.raises(LicenseError):
        ledger.reserve(run="r1", machine="serial-\udc80", title="web\udc80")
    ledger.reserve(run="r2", machine="m2", title="web\udc80")
    assert ledger.commit("r2").left == 4


def test_a_clock_set_back_by_more_than_a_day_is_refused(tmp_path: Path, clock: Clock) -> None:
    with open_ledger(tmp_path, clock=clock) as ledger:
        convert(ledger, "r1", "m1")
        clock.now = START - DAY
        ledger.reserve(run="r2", machine="m2", title="a day is tolerated")
        clock.now = START - DAY - SECOND
        with pytest.raises(LicenseError, match="clock was set back") as caught:
            ledger.reserve(run="r3", machine="m3", title="no")
        assert "timedatectl" in caught.value.hint
        # What was begun may end: the work is done by then.
        assert ledger.commit("r2").state == "committed"
    with pytest.raises(LicenseError, match="clock was set back"), open_ledger(tmp_path, clock=clock):
        pass
    clock.now = START
    with open_ledger(tmp_path, clock=clock) as ledger:
        assert ledger.status().used == 2


def test_another_license_counts_its_own_conversions(tmp_path: Path, clock: Clock) -> None:
    bought = replace(EVALUATION, name="contract-17", title="Contract 17", total=2)
    with open_ledger(tmp_path, clock=clock) as ledger:
        convert(ledger, "r1", "m1")
        ledger.reserve(run="r2", machine="m2", title="begun before")
    with open_ledger(tmp_path, clock=clock, license=bought) as ledger:
        assert account(ledger) == (0, 0, 2)
        assert ledger.reserve(run="r3", machine="m1", title="same machine").units == 0
        # What began on the old license ends on it.
        assert ledger.commit("r2").license == "evaluation"
        assert account(ledger) == (0, 0, 2)
