"""Lost connections: tried again with growing pauses, and given up in the end."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from p2v.errors import ConnectionLost, UsageError

T = TypeVar("T")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
JITTER = 0.2
"""Pauses differ by up to this part, so that many jobs do not come back at the same moment."""

DEFAULT_LIMIT = 600.0
"""Seconds without a byte of progress after which a connection is given up."""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `2h` or `1h30m`. Raises UsageError."""
    parts = re.findall(r"([0-9]+)([smh]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text or len(text) > 20:
        raise UsageError(f"{text!r} is not a duration", hint="For example 90s, 10m or 2h; 0 for none")
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as `Retries` sees it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


class Retries:
    """Does work again that a lost connection ended; every other error passes through.

    `limit` is in seconds, 0 means never again. The time counts from the first failure after the last
    progress: a line that breaks every hour of a long night is not given up, one that stays away is.
    """

    def __init__(
        self, say: Callable[[str], None], *, limit: float = DEFAULT_LIMIT, clock: Clock | None = None
    ) -> None:
        self._say = say
        self._limit = limit
        self._clock = clock or Clock()

    def run(self, work: Callable[[], T], *, recover: Callable[[], None], progress: Callable[[], int]) -> T:
        """The result of `work`. `recover` comes before each further try; its failures count like those of the
        work. `progress` tells how much (bytes) is done.

        Raises ConnectionLost once the limit is reached, and whatever else `work` or `recover` raise.
        """
        seen, began, pause = progress(), self._clock.now(), 0.0
        while True:
            try:
                if pause:
                    recover()
                return work()
            except ConnectionLost as error:
                if not pause or progress() > seen:
                    seen, began, pause = progress(), self._clock.now(), FIRST_PAUSE
                self._wait(error, began, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _wait(self, error: ConnectionLost, began: float, pause: float) -> None:
        left = began + self._limit - self._clock.now()
        if left <= 0:
            self._give_up(error)
        pause = min(left, pause * (1 + JITTER * (2 * self._clock.random() - 1)))
        self._say(f"{error.message}; trying again in {pause:.0f} s")
        self._clock.sleep(pause)

    def _give_up(self, error: ConnectionLost) -> None:
        if not self._limit:
            raise error
        raise ConnectionLost(
            f"{error.message}; given up after {self._limit:.0f} s", hint=error.hint
        ) from error
