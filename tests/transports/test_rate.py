"""The limit of the wire, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from p2v.errors import UsageError
from p2v.transports.rate import RateLimit, Window, parse_rate, parse_windows

MONDAY = datetime(2024, 1, 1)


class Clock:
    """Sleeping moves it; nothing else does."""

    def __init__(self, start: datetime = MONDAY) -> None:
        self.start = start
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 1
        self.seconds += seconds

    def limit(self, rate: float | None, windows: Sequence[Window] = ()) -> RateLimit:
        return RateLimit(
            rate,
            windows,
            clock=lambda: self.seconds,
            now=lambda: self.start + timedelta(seconds=self.seconds),
            sleep=self.sleep,
        )


def test_a_hundred_blocks_take_the_time_that_they_should() -> None:
    clock = Clock()
    limit = clock.limit(20e6)
    for _ in range(100):
        limit.take(4_000_000)
    assert clock.seconds == pytest.approx(20.0, rel=0.02)


def test_no_limit_never_waits() -> None:
    clock = Clock()
    limit = clock.limit(None)
    limit.take(10**12)
    assert clock.seconds == 0


def test_a_pause_does_not_save_up() -> None:
    clock = Clock()
    limit = clock.limit(1e6)
    clock.seconds += 3600
    limit.take(10_000_000)
    assert clock.seconds - 3600 == pytest.approx(9.75)


def test_two_disks_share_it() -> None:
    clock = Clock()
    limit = clock.limit(10e6)
    for _ in range(25):
        limit.take(1_000_000)
        limit.take(3_000_000)
    assert clock.seconds == pytest.approx(10.0, rel=0.05)


def test_a_window_that_begins_is_noticed_while_waiting() -> None:
    clock = Clock(MONDAY.replace(hour=7, minute=59))
    limit = clock.limit(1e6, parse_windows(["Mon-Fri 08:00-18:00=10M"]))
    limit.take(160_000_000)  # a minute at 1 MB/s, the other 100 MB at 10 MB/s
    assert clock.seconds == pytest.approx(70, abs=1.5)


def test_debt_is_forgiven_when_the_limit_ends() -> None:
    clock = Clock(MONDAY.replace(hour=17, minute=59))
    limit = clock.limit(None, parse_windows(["08:00-18:00=1M"]))
    limit.take(10**9)
    assert clock.seconds == pytest.approx(60, abs=1.5)
    limit.take(10**9)
    assert clock.seconds == pytest.approx(60, abs=1.5)


@pytest.mark.parametrize(
    ("text", "when", "holds"),
    [
        ("Mon-Fri 08:00-18:00=20M", MONDAY.replace(hour=8), True),
        ("Mon-Fri 08:00-18:00=20M", MONDAY.replace(hour=18), False),
        ("Mon-Fri 08:00-18:00=20M", MONDAY + timedelta(days=5, hours=9), False),
        ("Sat,Sun 00:00-24:00=20M", MONDAY + timedelta(days=5, hours=23, minutes=59), True),
        ("Fri-Mon 10:00-11:00=20M", MONDAY + timedelta(hours=10), True),
        ("Fri-Mon 10:00-11:00=20M", MONDAY + timedelta(days=1, hours=10), False),
        ("Mon 22:00-06:00=20M", MONDAY + timedelta(days=1, hours=5), True),
        ("Mon 22:00-06:00=20M", MONDAY + timedelta(hours=5), False),
        ("22:00-06:00=20M", MONDAY + timedelta(hours=5), True),
    ],
)
def test_when_a_window_holds(text: str, when: datetime, holds: bool) -> None:
    (window,) = parse_windows([text])
    assert window.rate == 20e6
    assert window.holds(when) is holds


def test_the_lowest_of_several_windows_counts() -> None:
    clock = Clock(MONDAY.replace(hour=12))
    limit = clock.limit(None, parse_windows(["Mon 08:00-18:00=20M", "12:00-13:00=5M"]))
    assert limit.current() == 5e6


@pytest.mark.parametrize(
    ("text", "rate"), [("20M", 20e6), ("1.5g", 1.5e9), ("800k", 800e3), ("1000", 1000.0)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-5M", "20 MB", "fast", "1e9", "٢M"])
def test_no_rates(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


@pytest.mark.parametrize(
    "text",
    ["", "Mon", "Mon 8-18=1M", "Moon 08:00-18:00=1M", "Mon 08:00-08:00=1M", "Mon 08:60-18:00=1M",
     "Mon 08:00-25:00=1M", "Mon 24:00-08:00=1M", "Mon-Xyz 08:00-18:00=1M", "Mon 08:00-18:00=x"],
)  # fmt: skip
def test_no_windows(text: str) -> None:
    with pytest.raises(UsageError):
        parse_windows([text])
