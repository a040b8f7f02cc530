"""One machine of a batch from its hooks to its outcome, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from p2v import pipeline
from p2v.batch import hooks, standing
from p2v.batch.board import Board, Cancelled, JobUI
from p2v.batch.credentials import Answers
from p2v.batch.manifest import Entry, Manifest
from p2v.batch.outcome import Facts, Outcome, State, clipped, facts_of_plan, facts_of_receipt
from p2v.batch.standing import Standing
from p2v.errors import ExitCode, LicenseError, P2VError, PlanRefused, UsageError
from p2v.house import House
from p2v.model import Receipt
from p2v.transports.rate import RateLimit, parse_rate

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Seconds between two tries of a job that failed; doubled each time."""

FINAL = (UsageError, PlanRefused, LicenseError)
"""Another try would fail in the same way."""

Make = Callable[[Entry, House], Receipt]
"""Makes the virtual machine of an entry, or goes on with it."""


def make_here(entry: Entry, house: House) -> Receipt:
    """On this machine. A run of this very job is gone on with; its source is asked only where it must be."""
    if standing.look(entry).standing is Standing.SAME:
        return pipeline.resume(entry.directory, house)
    return pipeline.convert(entry.job, house)


@dataclass(slots=True)
class Attempt:
    """What is known of a job while it runs."""

    ui: JobUI
    started: float
    tries: int = 0


class Conductor:
    """Runs jobs of a manifest; `run` is for any number of threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        house: House,
        board: Board,
        *,
        make: Make = make_here,
        limit: RateLimit | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.cancel = threading.Event()
        self._manifest = manifest
        self._house = house
        self._board = board
        self._make = make
        self._limit = limit
        self._answers = answers or Answers({})
        self._host_limits = {
            host.name: RateLimit(parse_rate(host.limit)) for host in manifest.hosts if host.limit
        }

    def run(self, entry: Entry) -> Outcome:
        """The machine made, or why not. Raises nothing that a job can do wrong."""
        attempt = Attempt(JobUI(self._board, entry.name, self.cancel.is_set), time.monotonic())
        try:
            outcome = self._run(entry, attempt)
        except Cancelled:
            outcome = self._outcome(entry, State.INTERRUPTED, hint=f"p2v resume {entry.directory}")
        except P2VError as error:
            outcome = self._failure(entry, error)
            if self.cancel.is_set():  # Ctrl-C reaches the programs of a job too, which then fail
                outcome = replace(outcome, state=State.INTERRUPTED)
        except Exception as error:
            text = f"This is a bug in p2v: {type(error).__name__}: {error}"
            outcome = self._outcome(entry, State.FAILED, error=text, exit_code=ExitCode.BUG)
        return replace(
            outcome,
            seconds=time.monotonic() - attempt.started,
            tries=max(1, attempt.tries),
            said=clipped(attempt.ui.said),
        )

    def _run(self, entry: Entry, attempt: Attempt) -> Outcome:
        found = standing.look(entry)
        if found.standing is Standing.FINISHED and found.receipt is not None:
            state, facts = State.KEPT, facts_of_receipt(found.receipt, entry.directory)
        else:
            state, facts = State.DONE, self._convert(entry, attempt)
        if entry.hooks.after and not hooks.are_done(entry.directory):
            self._after(entry, "done", ExitCode.DONE)
            hooks.note_done(entry.directory)
        return self._outcome(entry, state, facts=facts)

    def _convert(self, entry: Entry, attempt: Attempt) -> Facts:
        house = self.house_for(entry, attempt.ui)
        try:
            hooks.run_hooks(entry.hooks.before, entry, self._manifest)
            receipt = self._tried(entry, house, attempt)
        except P2VError as error:
            self._after_failure(entry, error, attempt)
            raise
        return facts_of_receipt(receipt, entry.directory)

    def _tried(self, entry: Entry, house: House, attempt: Attempt) -> Receipt:
        while True:
            attempt.tries += 1
            attempt.ui.check()
            try:
                return self._make(entry, house)
            except P2VError as error:
                if isinstance(error, FINAL) or attempt.tries > entry.on_failure.tries:
                    raise
                pause = min(FIRST_PAUSE * 2 ** (attempt.tries - 1), LONGEST_PAUSE)
                attempt.ui.warn(f"{error.message}; trying again in {pause:.0f} s")
                self.cancel.wait(pause)

    def _after(self, entry: Entry, result: str, code: ExitCode) -> None:
        extra = {"P2V_RESULT": result, "P2V_EXIT_CODE": str(int(code))}
        hooks.run_hooks(entry.hooks.after, entry, self._manifest, extra)

    def _after_failure(self, entry: Entry, error: P2VError, attempt: Attempt) -> None:
        """The programs behind a job that failed; what they do wrong must not hide why it did."""
        if self.cancel.is_set():
            return
        try:
            self._after(entry, "failed", error.exit_code)
        except P2VError as other:
            attempt.ui.warn(other.message)

    def house_for(self, entry: Entry, ui: JobUI) -> House:
        """What a job works with: its own quiet terminal, the shared limits, the answers given before."""
        limits = (self._limit, self._host_limits.get(entry.host))
        return replace(
            self._house,
            ui=ui,
            ask_password=self._answers.of(entry),
            alone=False,
            limits=tuple(limit for limit in limits if limit is not None),
        )

    def _failure(self, entry: Entry, error: P2VError) -> Outcome:
        notes = getattr(error, "__notes__", ())
        hint = "\n".join(part for part in (error.hint, *(f"Continue with: {note}" for note in notes)) if part)
        return self._outcome(entry, State.FAILED, error=error.message, hint=hint, exit_code=error.exit_code)

    def _outcome(
        self,
        entry: Entry,
        state: State,
        *,
        facts: Facts | None = None,
        error: str = "",
        hint: str = "",
        exit_code: int = 0,
    ) -> Outcome:
        return Outcome(
            entry.name,
            entry.job.source,
            state,
            facts=facts or Facts(),
            error=error,
            hint=hint,
            exit_code=int(exit_code),
            directory=entry.directory,
        )


class Planner(Conductor):
    """What the jobs would do and cost; nothing is written, and no program is run."""

    def _run(self, entry: Entry, attempt: Attempt) -> Outcome:
        found = standing.look(entry)
        if found.standing is Standing.FINISHED and found.receipt is not None:
            facts = replace(facts_of_receipt(found.receipt, entry.directory), units=0, license="done before")
            return self._outcome(entry, State.KEPT, facts=facts)
        plan = pipeline.plan_job(entry.job, self.house_for(entry, attempt.ui))
        return self._outcome(entry, State.PLANNED, facts=facts_of_plan(plan))
