"""Lost connections: pauses grow, tries end, progress starts them anew, other errors are left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2v.errors import ConnectionLost, ExitCode, P2VError, ReadError, TransportError, UsageError
from p2v.retry import Clock, Retries, parse_duration


class Night:
    """A clock that only sleeping moves, and work that fails as it is told."""

    def __init__(self, *, limit: float = 600, luck: float = 0.5) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.said: list[str] = []
        self.recovered = 0
        self.done = 0
        self.tries = 0
        clock = Clock(now=lambda: self.now, sleep=self.sleep, random=lambda: luck)
        self.retries = Retries(self.said.append, limit=limit, clock=clock)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def run(self, work: Callable[[], str], recover: Callable[[], None] = lambda: None) -> str:
        def recovering() -> None:
            self.recovered += 1
            recover()

        return self.retries.run(work, recover=recovering, progress=lambda: self.done)

    def fails(self, times: int, *, progress: int = 0, error: P2VError | None = None) -> Callable[[], str]:
        def work() -> str:
            self.tries += 1
            if self.tries > times:
                return "done"
            self.done += progress
            raise error or ConnectionLost(f"lost {self.tries}")

        return work


def test_work_that_succeeds_is_done_once() -> None:
    night = Night()
    assert night.run(night.fails(0)) == "done"
    assert (night.tries, night.recovered, night.said) == (1, 0, [])


def test_pauses_double_up_to_a_minute_and_each_is_told() -> None:
    night = Night()
    assert night.run(night.fails(9)) == "done"
    assert night.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert night.recovered == 9
    assert night.said[0] == "lost 1; trying again in 1 s"
    assert len(night.said) == 9


def test_it_ends_after_the_limit_and_never_much_later() -> None:
    night = Night(limit=100)
    with pytest.raises(ConnectionLost, match=r"lost 8; given up after 100 s") as caught:
        night.run(night.fails(10**6))
    assert caught.value.exit_code == ExitCode.TRANSPORT
    assert night.now == pytest.approx(100)


def test_no_retries_at_all() -> None:
    night = Night(limit=0)
    with pytest.raises(ConnectionLost, match=r"^lost 1$"):
        night.run(night.fails(1))
    assert (night.pauses, night.said) == ([], [])


def test_progress_starts_the_time_anew() -> None:
    """A line that breaks again and again but moves something each time is never given up."""
    night = Night(limit=10)
    assert night.run(night.fails(500, progress=1)) == "done"
    assert night.pauses == [1] * 500


def test_a_recovery_that_fails_counts_like_the_work() -> None:
    night = Night(limit=60)

    def unreachable() -> None:
        raise ConnectionLost("refused the connection")

    with pytest.raises(ConnectionLost, match="refused the connection; given up after 60 s"):
        night.run(night.fails(1), unreachable)
    assert night.tries == 1


@pytest.mark.parametrize(
    "error", [TransportError("the host key changed"), ReadError("bad sector", offset=0), UsageError("no")]
)
def test_what_another_try_would_not_change_is_not_tried_again(error: P2VError) -> None:
    night = Night()
    with pytest.raises(type(error)) as caught:
        night.run(night.fails(1, error=error))
    assert caught.value is error
    assert night.pauses == []

    def refused() -> None:
        raise error

    night = Night()
    with pytest.raises(type(error)):
        night.run(night.fails(1), refused)
    assert len(night.pauses) == 1


@pytest.mark.parametrize(("luck", "pause"), [(0.0, 0.8), (1.0, 1.2)])
def test_pauses_differ_a_little(luck: float, pause: float) -> None:
    night = Night(luck=luck)
    night.run(night.fails(1))
    assert night.pauses == [pytest.approx(pause)]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1d", "1.5h", "10 m", "m", "9" * 30, "\u0661s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)
