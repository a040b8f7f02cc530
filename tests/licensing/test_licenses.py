"""Licenses that were bought: they add up, run out, expire; what gives nothing changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from p2v.errors import LicenseError
from p2v.licensing.books import Validity
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.licensing.tiers import Feature, Features, Tier
from tests.licensing.vendor import DAY, TODAY, Clock, Vendor

VENDOR = Vendor()
WEEK = TODAY + timedelta(days=6)
MONTH = TODAY + timedelta(days=30)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def opened(home: Path, clock: Clock) -> AbstractContextManager[Ledger]:
    return open_ledger(home, clock=clock, trusted=VENDOR.trusted)


@pytest.fixture
def ledger(home: Path, clock: Clock) -> Iterator[Ledger]:
    with opened(home, clock) as ledger:
        yield ledger


def convert(ledger: Ledger, run: str) -> str:
    """Convert a machine of its own; the name of the license that paid."""
    name = ledger.reserve(run=run, machine=f"machine of {run}", title=run).license
    ledger.commit(run)
    return name


def spend_evaluation(ledger: Ledger) -> None:
    for number in range(5):
        convert(ledger, f"trial{number}")


def refused(ledger: Ledger, content: bytes, match: str) -> LicenseError:
    """The refusal of a license; nothing was written."""
    before = ledger.history()
    with pytest.raises(LicenseError, match=match) as caught:
        ledger.install(content)
    assert ledger.history() == before
    assert caught.value.hint
    return caught.value


def test_a_license_installed_when_nothing_is_left_lets_it_go_on(ledger: Ledger) -> None:
    spend_evaluation(ledger)
    with pytest.raises(LicenseError, match="No conversion is left of the 5 of the evaluation license"):
        ledger.reserve(run="r", machine="m", title="web")
    installed = ledger.install(VENDOR.sign(VENDOR.license(sequence=17)))
    assert not installed.again
    assert (installed.grant.license.name, installed.grant.left) == ("desktop-25/17", 25)
    assert ledger.quote("m", "r").left == 25
    assert convert(ledger, "r") == "desktop-25/17"
    assert (ledger.status().used, ledger.status().left) == (6, 24)


def test_licenses_add_up_and_the_first_to_expire_is_spent_first(ledger: Ledger) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(sequence=1, last=MONTH, total=2)))
    ledger.install(VENDOR.sign(VENDOR.license(sequence=2, last=WEEK, total=1)))
    ledger.install(VENDOR.sign(VENDOR.license(Tier.DESKTOP_100, sequence=3)))
    assert ledger.status().total == ledger.status().left == 5 + 2 + 1 + 100
    order = [convert(ledger, f"r{number}") for number in range(9)]
    expected = ["desktop-25/2", *["desktop-25/1"] * 2, *["evaluation"] * 5, "desktop-100/3"]
    assert order == expected
    assert ledger.status().left == 99


def test_a_unit_that_is_given_back_goes_back_to_its_own_license(ledger: Ledger) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(last=MONTH, total=1)))
    assert ledger.reserve(run="a", machine="a", title="a").license == "desktop-25/1"
    assert ledger.reserve(run="b", machine="b", title="b").license == "evaluation"
    ledger.release("a", "cancelled")
    assert ledger.reserve(run="c", machine="c", title="c").license == "desktop-25/1"


def test_a_site_license_is_unlimited_within_its_term(ledger: Ledger, clock: Clock) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(Tier.SITE, last=MONTH)))
    assert ledger.quote("m", "").left == math.inf
    for number in range(30):
        assert convert(ledger, f"r{number}") == "site/1"
    status = ledger.status()
    assert (status.total, status.left, status.used) == (None, None, 30)
    use = ledger.reserve(run="one more", machine="m", title="web")
    assert (use.units, use.left) == (1, None)
    clock.now += 31 * DAY
    assert ledger.status().left == 5
    assert convert(ledger, "later") == "evaluation"


def test_the_last_day_counts_whole(ledger: Ledger, clock: Clock) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(last=TODAY)))
    clock.now = clock.now.replace(hour=23, minute=59, second=59)
    assert convert(ledger, "r1") == "desktop-25/1"
    clock.now += timedelta(seconds=1)
    assert convert(ledger, "r2") == "evaluation"


def test_a_license_that_expires_while_a_job_runs_pays_for_it_and_for_no_other(
    ledger: Ledger, clock: Clock
) -> None:
    spend_evaluation(ledger)
    ledger.install(VENDOR.sign(VENDOR.license(last=TODAY)))
    ledger.reserve(run="r1", machine="m1", title="web01")
    clock.now += 2 * DAY
    # The same run may still ask, while its process lives.
    assert ledger.reserve(run="r1", machine="m1", title="web01").state == "reserved"
    use = ledger.commit("r1")
    assert (use.state, use.license, use.units, use.left) == ("committed", "desktop-25/1", 1, 0)
    with pytest.raises(LicenseError, match="desktop-25/1 expired on 2026-03-01"):
        ledger.reserve(run="r2", machine="m2", title="web02")
    # What was paid for stays free: a further target, the same machine within 30 days.
    assert ledger.reserve(run="r1", machine="m1", title="web01").units == 0
    assert ledger.reserve(run="r3", machine="m1", title="web01").state == "free"
    assert ledger.status().left == 0


def test_a_clock_that_went_back_a_little_does_not_prolong_a_license(ledger: Ledger, clock: Clock) -> None:
    spend_evaluation(ledger)
    ledger.install(VENDOR.sign(VENDOR.license(last=TODAY)))
    ledger.reserve(run="r1", machine="m1", title="web01")
    clock.now += DAY
    ledger.commit("r1")
    clock.now -= DAY
    with pytest.raises(LicenseError, match="expired"):
        ledger.reserve(run="r2", machine="m2", title="web02")


@pytest.mark.parametrize(
    ("license", "match"),
    [
        (VENDOR.license(first=TODAY - 9 * DAY, last=TODAY - DAY), "expired on 2026-02-28"),
        (VENDOR.license(first=TODAY + DAY), "not valid before 2026-03-02"),
        (VENDOR.license(first=TODAY + DAY, last=TODAY - DAY), "before"),
        (VENDOR.license(total=-5), "-5"),
        (VENDOR.license(total=10**9), "1000000000"),
        (replace(VENDOR.license(), total=None), "last day"),
        (VENDOR.license(sequence=-1), "-1"),
        (VENDOR.license(customer="two\nlines: 1"), "lines: 1"),
    ],
    ids=["expired", "not yet", "backwards", "below zero", "absurd", "endless", "number", "customer"],
)
def test_what_gives_nothing_changes_nothing(ledger: Ledger, license: object, match: str) -> None:
    assert isinstance(license, type(VENDOR.license()))
    refused(ledger, VENDOR.sign(license), match)
    assert ledger.status().left == 5


def test_cut_edited_and_strange_files_change_nothing(ledger: Ledger) -> None:
    good = VENDOR.sign(VENDOR.license())
    refused(ledger, good[:-20], "cut short")
    refused(ledger, good.replace(b"units: 25", b"units: 99"), "changed after")
    refused(ledger, Vendor(2).sign(VENDOR.license()), "does not trust")
    refused(ledger, b"", "no p2v license")
    assert not ledger.install(good).again


def test_the_same_license_twice_counts_once(ledger: Ledger, home: Path, clock: Clock) -> None:
    content = VENDOR.sign(VENDOR.license())
    ledger.install(content)
    convert(ledger, "r1")
    before = ledger.history()
    again = ledger.install(content.replace(b"\n", b"\r\n"))
    assert (again.again, again.grant.left) == (True, 25)
    assert ledger.history() == before
    with opened(home, clock) as other:
        assert other.install(content).again
        assert other.status().total == 30


def test_an_expired_license_that_is_installed_may_be_installed_again(ledger: Ledger, clock: Clock) -> None:
    content = VENDOR.sign(VENDOR.license(last=TODAY))
    ledger.install(content)
    clock.now += 3 * DAY
    installed = ledger.install(content)
    assert (installed.again, installed.grant.validity, installed.grant.left) == (True, Validity.EXPIRED, 0)


@pytest.mark.parametrize("tier", [Tier.DESKTOP_25, Tier.DESKTOP_100])
def test_a_number_is_good_for_one_license(ledger: Ledger, tier: Tier) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(sequence=5)))
    other = VENDOR.license(tier, sequence=5, customer="Somebody Else")
    error = refused(ledger, VENDOR.sign(other), "Another license with the number 5 is installed")
    assert "Example Company" in error.message


def test_licenses_survive_a_restart_and_are_judged_by_their_signature_each_time(
    ledger: Ledger, home: Path, clock: Clock
) -> None:
    ledger.install(VENDOR.sign(VENDOR.license()))
    with opened(home, clock) as again:
        assert again.status().total == 30
    # A program that does not know the key counts nothing that it cannot check, and says so.
    other = open_ledger(home, clock=clock, trusted=Vendor(2).trusted)
    with pytest.raises(LicenseError, match="this p2v cannot use it") as caught, other:
        pass
    assert "Upgrade" in caught.value.hint


def test_no_variable_of_the_environment_adds_a_key(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("P2V_VENDOR_KEY", "P2V_VENDOR_KEYS", "P2V_TRUSTED_KEYS", "VENDOR_KEYS", "P2V_LICENSE_KEY"):
        monkeypatch.setenv(name, VENDOR.key.text)
    with open_ledger(home, clock=clock) as ledger:
        refused(ledger, VENDOR.sign(VENDOR.license()), "does not trust")


def test_the_evaluation_shows_everything(ledger: Ledger) -> None:
    for feature in Feature:
        ledger.require_feature(feature)
    ledger.require_feature(Feature.BATCH, amount=5)
    with pytest.raises(LicenseError, match="6 machines is more than the 5") as caught:
        ledger.require_feature(Feature.BATCH, amount=6)
    assert "desktop-25, desktop-100, site" in caught.value.hint


def test_what_was_bought_decides_over_features(ledger: Ledger, clock: Clock) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(sequence=1, last=MONTH)))
    ledger.require_feature(Feature.BATCH, amount=25)
    with pytest.raises(LicenseError, match="cluster is not in the license"):
        ledger.require_feature(Feature.CLUSTER)
    with pytest.raises(LicenseError, match="V2P") as caught:
        ledger.require_feature(Feature.V2P)
    assert "desktop-100, site" in caught.value.hint
    ledger.install(VENDOR.sign(VENDOR.license(Tier.SITE, sequence=2, last=WEEK)))
    ledger.require_feature(Feature.V2P)
    ledger.require_feature(Feature.CLUSTER)
    ledger.require_feature(Feature.BATCH, amount=10_000)
    assert ledger.status().features == Features(None, v2p=True, cluster=True)
    clock.now += 10 * DAY
    assert ledger.status().features == Features(25)
    with pytest.raises(LicenseError, match="V2P"):
        ledger.require_feature(Feature.V2P)
    clock.now += 40 * DAY
    assert ledger.status().features == Features(5, v2p=True, cluster=True)


def test_a_warning_at_five_units(ledger: Ledger) -> None:
    assert ledger.status().warnings == ()
    ledger.install(VENDOR.sign(VENDOR.license(total=2)))
    convert(ledger, "r1")
    assert ledger.status().warnings == ()
    convert(ledger, "r2")
    assert ledger.status().warnings == ("5 conversions are left of all licenses together",)
    for number in range(4):
        convert(ledger, f"more{number}")
    assert ledger.status().warnings == ("1 conversion is left of all licenses together",)


def test_a_warning_at_seven_days(ledger: Ledger, clock: Clock) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(last=TODAY + timedelta(days=7))))
    ledger.install(VENDOR.sign(VENDOR.license(Tier.SITE, sequence=2, last=MONTH)))
    assert ledger.status().warnings == ()
    clock.now += DAY
    assert ledger.status().warnings == (
        "The license desktop-25/1 ends with 2026-03-08 (UTC) with 25 unspent",
    )
    clock.now += 29 * DAY
    assert ledger.status().warnings == ("The license site/2 ends with 2026-03-31 (UTC)",)


def test_the_history_tells_of_each_unit(ledger: Ledger, clock: Clock) -> None:
    ledger.install(VENDOR.sign(VENDOR.license(total=2, last=MONTH)))
    convert(ledger, "done")
    ledger.reserve(run="failed", machine="m2", title="web02")
    clock.now += DAY
    ledger.release("failed", "ended by ConnectionLost")
    ledger.reserve(run="failed", machine="m2", title="web02")
    ledger.reserve(run="again", machine="machine of done", title="done")
    ledger.commit("again")
    lines = ledger.units()
    assert [(line.event, line.units, line.license, line.run) for line in lines] == [
        ("installed", 0, "evaluation", ""),
        ("installed", 0, "desktop-25/1", ""),
        ("committed", 1, "desktop-25/1", "done"),
        ("released", 0, "desktop-25/1", "failed"),
        ("reserved", 1, "desktop-25/1", "failed"),
        ("free", 0, "desktop-25/1", "again"),
    ]
    assert (lines[3].began, lines[3].ended) == ("2026-03-01T12:00:00+00:00", "2026-03-02T12:00:00+00:00")
    assert lines[3].reason == "ended by ConnectionLost"
    assert (lines[4].ended, lines[4].who != "") == ("", True)
    assert "within 30 days" in lines[5].reason
    assert "SIGNATURE" not in str(ledger.history())
    assert "P2V-LICENSE" not in str(ledger.history())
