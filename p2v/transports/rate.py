"""`--limit RATE` and `--limit-window "Mon-Fri 08:00-18:00=20M"`: how much may come over the wire.

One `RateLimit` is shared by all disks of a job. It only delays: who has received some bytes takes as many
from the bucket, and the source, whose channel then fills up, waits.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from p2v.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
BURST_SECONDS = 0.25
"""How much of a second's allowance may come at once after a pause."""
LONGEST_SLEEP = 1.0
"""Seconds: a window that begins or ends is noticed within this time."""

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)", re.IGNORECASE)
_WINDOW = re.compile(r"([A-Za-z,-]+)?\s*([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})\s*=\s*(\S+)")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_HINT = 'Try: --limit 20M, or --limit-window "Mon-Fri 08:00-18:00=20M"'


def parse_rate(text: str) -> float:
    """Bytes per second of `20M` (units of 1000, as networks count). Raises UsageError."""
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    if rate <= 0:
        raise UsageError(f"{text!r} is not a rate in bytes per second", hint=_HINT)
    return rate


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to `end` (minutes after midnight, local time) on `days` (0 = Monday) this rate holds.

    One that ends before it starts goes on after midnight; `days` are those on which it starts.
    """

    days: frozenset[int]
    start: int
    end: int
    rate: float

    def holds(self, when: datetime) -> bool:
        minute = when.hour * 60 + when.minute
        if self.start < self.end:
            return when.weekday() in self.days and self.start <= minute < self.end
        yesterday = (when - timedelta(days=1)).weekday()
        return (when.weekday() in self.days and minute >= self.start) or (
            yesterday in self.days and minute < self.end
        )


def parse_windows(texts: Sequence[str]) -> tuple[Window, ...]:
    """`Mon-Fri 08:00-18:00=20M`, `Sat,Sun 00:00-24:00=1G`, `22:00-06:00=500M`. Raises UsageError."""
    return tuple(_window(text) for text in texts)


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a window", hint=_HINT)
    start, end = _minutes(found[2], found[3], text), _minutes(found[4], found[5], text)
    if start in (end, 24 * 60):
        raise UsageError(f"{text!r} is a window without length", hint=_HINT)
    return Window(_days(found[1] or "mon-sun", text), start, end, parse_rate(found[6]))


def _minutes(hours: str, minutes: str, text: str) -> int:
    value = int(hours) * 60 + int(minutes)
    if value > 24 * 60 or int(minutes) > 59:
        raise UsageError(f"{hours}:{minutes} in {text!r} is not a time of day", hint=_HINT)
    return value


def _days(words: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for word in words.lower().split(","):
        first, _, last = word.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise UsageError(f"{word!r} in {text!r} is not a day of the week", hint=_HINT)
        start, count = DAYS.index(first), (DAYS.index(last or first) - DAYS.index(first)) % 7
        days.update((start + step) % 7 for step in range(count + 1))
    return frozenset(days)


class RateLimit:
    """A token bucket: `take` returns once that many bytes may have come. For any number of threads.

    `rate` is bytes per second outside of all windows, None = as fast as it goes; of several windows that hold
    at the same time the lowest rate counts.
    """

    def __init__(
        self,
        rate: float | None,
        windows: Sequence[Window] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._windows = tuple(windows)
        self._clock, self._now, self._sleep = clock, now, sleep
        self._lock = threading.Lock()
        self._allowance = 0.0
        self._counted = clock()

    def current(self) -> float | None:
        """Bytes per second at this moment; None = no limit."""
        now = self._now()
        rates = [window.rate for window in self._windows if window.holds(now)]
        return min(rates) if rates else self._rate

    def take(self, size: int) -> None:
        """Account for `size` bytes that came; waits while more came than may have."""
        with self._lock:
            self._refill()
            self._allowance -= size
        while (seconds := self._debt()) > 0:
            self._sleep(min(seconds, LONGEST_SLEEP))

    def _debt(self) -> float:
        """Seconds until the bucket is not below empty, at the rate of this moment."""
        with self._lock:
            rate = self._refill()
            return 0.0 if rate is None or self._allowance > -1 else -self._allowance / rate

    def _refill(self) -> float | None:
        now, rate = self._clock(), self.current()
        passed, self._counted = now - self._counted, now
        if rate is None:
            self._allowance = 0.0
        else:
            self._allowance = min(self._allowance + passed * rate, rate * BURST_SECONDS)
        return rate
