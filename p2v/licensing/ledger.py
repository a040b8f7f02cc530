"""The counting rules: what a conversion costs, and when the unit is reserved, committed or given back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from p2v import __version__
from p2v.errors import LicenseError
from p2v.licensing.books import ONE, Books, iso
from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.store import Access, Store, open_store, user_name
from p2v.licensing.tiers import EVALUATION, License, Tier
from p2v.model import LicenseUse

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Quote:
    """What a conversion would cost now, how many units are left before it, and why."""

    units: int
    left: int
    reason: str


@dataclass(frozen=True, slots=True)
class LicenseStatus:
    """The license and its account: `left` is what is neither used nor reserved by a process that lives."""

    tier: Tier
    title: str
    total: int
    used: int
    reserved: int
    left: int
    since: str


class Ledger:
    """The account of one user's conversions. Every method is one transaction and raises LicenseError.

    It refuses (closed, not open) whenever the ledger was changed by something else, cannot be written or
    comes from the future.
    """

    def __init__(self, store: Store, license: License, clock: Clock) -> None:
        self._store = store
        self._license = license
        self._clock = clock

    def quote(self, machine: str, run: str) -> Quote:
        """What a conversion would cost; `run` is empty where there is none yet. Changes nothing."""
        with self._books(Access.READ) as books:
            left = books.left()
            standing = books.standing(run)
            if standing is not None:
                return Quote(0, left, "this run holds what it needs already")
            reason = books.free_reason(run=run, machine=machine)
            return Quote(0, left, reason) if reason else Quote(1, left, ONE)

    def reserve(self, *, run: str, machine: str, title: str) -> LicenseUse:
        """Set a unit aside for a run before it starts; the same run may ask again.

        `machine` is `Machine.identity`, `title` names it for people. Costs nothing where this run, or the
        same machine within 30 days, was committed. Units of processes that died are taken back first. Raises
        LicenseError where no unit is left.
        """
        with self._books(Access.WRITE) as books:
            books.check_clock()
            books.check_machine(run=run, machine=machine)
            books.take_back_from_dead()
            standing = books.standing(run)
            if standing is not None:
                return books.use(standing)
            reason = books.free_reason(run=run, machine=machine)
            if books.was_committed(run):
                return LicenseUse("free", self._license.name, 0, books.left(), reason)
            if not reason:
                books.require_unit()
            entry = books.open_account(run=run, machine=machine, title=title, free_reason=reason)
            return books.use(entry)

    def commit(self, run: str) -> LicenseUse:
        """Spend what the run has reserved; the same run may ask again and gets the same answer.

        Where another run of the same machine was committed in the meantime, the unit goes back. Raises
        LicenseError where the run has no reservation.
        """
        with self._books(Access.WRITE) as books:
            last = books.last(run)
            if last is None or last.event is Event.RELEASED:
                why = f": {last.reason}" if last is not None else ""
                raise LicenseError(f"Run {run} has no license unit reserved{why}", hint="Try: p2v resume RUN")
            if last.event is Event.COMMITTED:
                return books.use(last)
            reason = last.reason if last.event is Event.FREE else books.recent_reason(last.machine)
            units = 0 if reason else 1
            return books.use(books.follow(last, Event.COMMITTED, units=units, reason=reason or ONE))

    def release(self, run: str, reason: str) -> LicenseUse:
        """Give back what a run that failed or was cancelled has reserved. A commit is never undone."""
        with self._books(Access.WRITE) as books:
            last = books.last(run)
            if last is None:
                return LicenseUse("released", self._license.name, 0, books.left(), "nothing was reserved")
            if last.event in (Event.COMMITTED, Event.RELEASED):
                return books.use(last)
            return books.use(books.follow(last, Event.RELEASED, units=last.units, reason=reason))

    def status(self) -> LicenseStatus:
        with self._books(Access.READ) as books:
            return LicenseStatus(
                tier=self._license.tier,
                title=self._license.title,
                total=self._license.total,
                used=books.used(),
                reserved=books.reserved(),
                left=books.left(),
                since=books.entries[0].when,
            )

    def history(self) -> tuple[LedgerEntry, ...]:
        """Every event there ever was, oldest first."""
        with self._books(Access.READ) as books:
            return books.entries

    @contextlib.contextmanager
    def _books(self, access: Access) -> Iterator[Books]:
        with self._store.transaction(access) as transaction:
            yield Books(transaction, self._license, _now(self._clock))


@contextlib.contextmanager
def open_ledger(home: Path, *, clock: Clock | None = None, license: License = EVALUATION) -> Iterator[Ledger]:
    """Open the ledger kept in `home`, which is made (mode 0700) where it is missing.

    Raises LicenseError for a ledger that was changed by something else, is not whole, cannot be written, or
    was written more than a day after what `clock` says now.
    """
    clock = clock or _utc_now
    first = LedgerEntry(1, Event.INSTALLED, iso(_now(clock)), user_name(), __version__, license.name)
    with open_store(home, first) as store:
        with store.transaction(Access.READ) as transaction:
            Books(transaction, license, _now(clock)).check_clock()
        yield Ledger(store, license, clock)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _now(clock: Clock) -> datetime:
    return clock().astimezone(UTC)
