"""The coordinator: as many jobs at a time as may run, each in a thread, until all have ended.

A killed batch is started again with the same command: what is finished is known by its receipt, and what is
not goes on where it stood.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from p2v.batch import standing
from p2v.batch.board import Board
from p2v.batch.conduct import Conductor
from p2v.batch.manifest import Answer, Entry, Manifest
from p2v.batch.order_book import OrderBook
from p2v.batch.outcome import Outcome, State

WAKE_SECONDS = 0.5
"""How often the main thread looks up: for signals, and for windows of time that open."""

GRACE_SECONDS = 60.0
"""How long jobs have to end in order when the batch is interrupted; the kernel cleans up behind the rest."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a batch went. `interrupted`: not all that was to be done could be begun."""

    outcomes: tuple[Outcome, ...]
    started: datetime
    seconds: float
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to run: so many at a time; whether a failure stops what has not begun."""

    parallel: int
    stop_on_failure: bool = False
    grace: float = GRACE_SECONDS


class Runner:
    """Runs machines of a manifest to their end. Used once."""

    def __init__(
        self,
        manifest: Manifest,
        selected: Sequence[Entry],
        conductor: Conductor,
        board: Board,
        wishes: Wishes,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._orders = OrderBook(manifest, selected, finished=standing.is_finished, now=now)
        self._rank = {entry.name: number for number, entry in enumerate(selected)}
        self._conductor = conductor
        self._board = board
        self._wishes = wishes
        self._running: dict[str, Entry] = {}
        self._ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._threads = 0
        self._outcomes: list[Outcome] = []
        self._waits = False

    def run(self) -> tuple[Course, BaseException | None]:
        """The course, and what interrupted it: to be raised again once somebody has been told."""
        started, begin = datetime.now(UTC), time.monotonic()
        interruption: BaseException | None = None
        try:
            self._run()
        except BaseException as error:
            interruption = error
            self._end_all()
        finally:
            self._board.close()
            for _ in range(self._threads):
                self._todo.put(None)
        outcomes = tuple(sorted(self._outcomes, key=lambda one: self._rank[one.name]))
        seconds = time.monotonic() - begin
        return Course(outcomes, started, seconds, interruption is not None), interruption

    def _run(self) -> None:
        while len(self._orders) or self._running:
            while len(self._running) < self._wishes.parallel and self._start_one():
                pass
            self._say_waiting()
            self._take(WAKE_SECONDS)

    def _start_one(self) -> bool:
        entry = self._orders.start()
        if entry is None:
            return False
        self._running[entry.name] = entry
        self._board.started(entry.name)
        if self._threads < len(self._running):
            self._threads += 1
            # A daemon: one that hangs in a program must not keep an interrupted batch from ending.
            threading.Thread(target=self._conduct, name=f"p2v-job-{self._threads}", daemon=True).start()
        self._todo.put(entry)
        return True

    def _conduct(self) -> None:
        """Job after job: a thread for each would leave its share of the heap behind."""
        while (entry := self._todo.get()) is not None:
            self._ended.put(self._conductor.run(entry))

    def _take(self, seconds: float) -> None:
        """Wait for a job to end, and draw the consequences."""
        try:
            outcome = self._ended.get(timeout=seconds)
        except queue.Empty:
            return
        entry = self._running.pop(outcome.name)
        self._keep(outcome)
        self._orders.end(entry, good=outcome.state.good)
        if outcome.state is State.FAILED and self._stops(entry):
            self._give_up(f"{entry.name} failed")
        if not outcome.state.good:
            self._drop_hopeless()

    def _drop_hopeless(self) -> None:
        for other, reason in self._orders.hopeless():
            self._keep(self._not_started(other, f"it needs {reason}, which is not done"))

    def _stops(self, entry: Entry) -> bool:
        return self._wishes.stop_on_failure or entry.on_failure.answer is Answer.STOP

    def _keep(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._board.ended(outcome)

    def _give_up(self, reason: str) -> None:
        for entry in self._orders.give_up():
            self._keep(self._not_started(entry, reason))

    def _not_started(self, entry: Entry, reason: str) -> Outcome:
        return Outcome(
            entry.name, entry.job.source, State.NOT_STARTED, error=reason, directory=entry.directory
        )

    def _say_waiting(self) -> None:
        """Once, when nothing runs because no window of time is open."""
        waits = bool(len(self._orders)) and not self._running
        if waits and not self._waits:
            self._drop_hopeless()
            if len(self._orders):
                self._board.say(f"{len(self._orders)} machines wait for their windows of time")
        self._waits = waits

    def _end_all(self) -> None:
        """Let the running jobs end at their next block; whatever is typed meanwhile ends the waiting."""
        self._conductor.cancel.set()
        if self._running:
            self._board.say(f"Ending {len(self._running)} jobs in order; again to leave at once")
        deadline = time.monotonic() + self._wishes.grace
        while self._running and time.monotonic() < deadline:
            try:
                outcome = self._ended.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                continue
            self._running.pop(outcome.name)
            self._keep(outcome)
        for entry in self._running.values():
            hint = f"p2v resume {entry.directory}"
            state = State.INTERRUPTED
            self._keep(Outcome(entry.name, entry.job.source, state, hint=hint, directory=entry.directory))
        self._give_up("the batch was interrupted")
