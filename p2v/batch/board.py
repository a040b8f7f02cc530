"""What is seen of jobs that run at once: a line for each on a terminal, JSON lines for a program, else one
line at each end. A job talks to a terminal of its own, behind which this stands.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from p2v.batch.outcome import Outcome, State
from p2v.ui import REPORT_SECONDS, UI, Phase, ProgressStyle, Table, Volume, human_size, human_time

DRAW_SECONDS = 0.25
SAID = 200
"""Warnings that are kept of one job until it ends."""


class Cancelled(BaseException):
    """The batch ends: a job unwinds at the next block, and can be gone on with. No `Exception`, by intent."""


class Board:
    """For any number of threads. `slots` is how many jobs run at a time."""

    def __init__(self, ui: UI, total: int, slots: int) -> None:
        self._ui = ui
        self._total = total
        self._ended = 0
        self._lock = threading.Lock()
        self._free = list(range(slots - 1, -1, -1))
        self._slots: dict[str, int] = {}
        self._table = Table(ui, slots, total, "machines")

    @property
    def style(self) -> ProgressStyle:
        return self._ui.style

    def close(self) -> None:
        self._table.close()

    def started(self, name: str) -> None:
        with self._lock:
            self._slots[name] = self._free.pop()
        if self.style is ProgressStyle.JSON:
            self._ui.event({"job": name, "state": "started"})
        elif self.style is ProgressStyle.LINES:
            self._ui.say(f"{name}: started")

    def phase(self, name: str, phase: Phase, state: str) -> None:
        match self.style:
            case ProgressStyle.JSON:
                self._ui.event({"job": name, **phase.event(state)})
            case ProgressStyle.BAR:
                self._table.show(self._slots[name], f"{name:<20.20} {phase.line()}")
            case _:
                pass

    def warn(self, name: str, text: str) -> None:
        if self.style is ProgressStyle.JSON:
            self._ui.event({"job": name, "warning": text})
        else:
            self._ui.warn(f"{name}: {text}")

    def debug(self, name: str, text: str) -> None:
        self._ui.debug(f"{name}: {text}")

    def say(self, text: str) -> None:
        self._ui.say(text)

    def ended(self, outcome: Outcome) -> None:
        """Of a job that was started, or that never will be."""
        with self._lock:
            self._ended += 1
            slot = self._slots.pop(outcome.name, None)
            if slot is not None:
                self._free.append(slot)
        if slot is not None:
            self._table.show(slot, "")
        self._table.advance()
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        if self.style is ProgressStyle.JSON:
            fields = {"job": outcome.name, "state": str(outcome.state), "seconds": round(outcome.seconds, 1)}
            self._ui.event({**fields, **({"error": outcome.error} if outcome.error else {})})
            return
        text = f"{outcome.name}: {describe(outcome)} ({self._ended} of {self._total})"
        if outcome.state is State.FAILED:
            self._ui.error(text)
        else:
            self._ui.say(text)


def describe(outcome: Outcome) -> str:
    """`done in 3 min 05 s, 1.2 GiB at 88.0 MiB/s`: the state in a few words."""
    facts = outcome.facts
    match outcome.state:
        case State.DONE:
            amount = (
                f", {human_size(facts.data_size)} at {human_size(facts.rate)}/s" if facts.data_size else ""
            )
            return f"done in {human_time(outcome.seconds)}{amount}"
        case State.FAILED | State.NOT_STARTED:
            return f"{outcome.state}: {outcome.error}"
        case _:
            return str(outcome.state)


class JobUI(UI):
    """The terminal of one job. A cancelled job ends at its next sign of life."""

    def __init__(self, board: Board, name: str, cancelled: Callable[[], bool]) -> None:
        super().__init__(style=ProgressStyle.NONE, volume=Volume.QUIET)
        self.said: list[str] = []
        self._board = board
        self._name = name
        self._cancelled = cancelled

    def check(self) -> None:
        """Raises Cancelled."""
        if self._cancelled():
            raise Cancelled

    def result(self, text: str) -> None:
        """Has no place beside other jobs."""

    def say(self, text: str) -> None:
        self._board.debug(self._name, text)

    def debug(self, text: str) -> None:
        self._board.debug(self._name, text)

    def warn(self, text: str) -> None:
        if len(self.said) < SAID:
            self.said.append(text)
        self._board.warn(self._name, text)

    def error(self, text: str) -> None:
        self.warn(text)

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        self.check()
        phase = JobPhase(self, name, total)
        self.tell(phase, "started")
        state = "failed"
        try:
            yield phase
            state = "done"
        except (KeyboardInterrupt, GeneratorExit, Cancelled):
            state = "interrupted"
            raise
        finally:
            self.tell(phase, state)

    def tell(self, phase: Phase, state: str) -> None:
        self._board.phase(self._name, phase, state)

    @property
    def pause(self) -> float:
        """Seconds between two signs of life that are worth showing."""
        return REPORT_SECONDS if self._board.style is ProgressStyle.JSON else DRAW_SECONDS


class JobPhase(Phase):
    """A step of a job."""

    def __init__(self, ui: JobUI, name: str, total: int | None) -> None:
        super().__init__(ui, name, total)
        self._job_ui = ui
        self._told = time.monotonic()

    def rename(self, name: str) -> None:
        super().rename(name)
        self._tell()

    def advance(self, size: int) -> None:
        super().advance(size)
        if size > 0:
            self._job_ui.check()
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told > self._job_ui.pause:
            self._told = now
            self._job_ui.tell(self, "running")
