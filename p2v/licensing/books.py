"""The account: what the entries of the ledger add up to at one moment, and the next entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from p2v import __version__
from p2v.errors import LicenseError
from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.owner import is_alive, this_process
from p2v.licensing.store import Transaction, user_name
from p2v.licensing.tiers import License
from p2v.log import shown
from p2v.model import LicenseUse

SAME_MACHINE_PERIOD = timedelta(days=30)
"""How long after its committed conversion a machine converts for nothing; the last moment counts."""

CLOCK_TOLERANCE = timedelta(days=1)
"""How far a clock may have gone back since the last entry: a wrong time zone is no fraud."""

SHOWN_MACHINES = 10

ONE = "one conversion"

HOLDING = (Event.RESERVED, Event.FREE)
"""Events after which a run holds something that a commit or a release ends."""


class Books:
    """The verified entries as one transaction sees them, and what they add up to."""

    def __init__(self, transaction: Transaction, license: License, now: datetime) -> None:
        self._transaction = transaction
        self._license = license
        self._now = now

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        return self._transaction.entries

    def last(self, run: str) -> LedgerEntry | None:
        """The latest event of a run decides what state it is in."""
        return next((entry for entry in reversed(self.entries) if run and entry.run == run), None)

    def used(self) -> int:
        return sum(entry.units for entry in self._mine() if entry.event is Event.COMMITTED)

    def reserved(self) -> int:
        return sum(entry.units for entry in self._reservations() if is_live(entry))

    def left(self) -> int:
        return self._license.total - self.used() - self.reserved()

    def _mine(self) -> Iterator[LedgerEntry]:
        return (entry for entry in self.entries if entry.license == self._license.name)

    def _reservations(self) -> list[LedgerEntry]:
        latest = {entry.run: entry for entry in self._mine()}
        return [entry for entry in latest.values() if entry.event is Event.RESERVED]

    def standing(self, run: str) -> LedgerEntry | None:
        """What the run holds already: its reservation, while the process behind it lives, or a free pass."""
        last = self.last(run)
        if last is None or last.event not in HOLDING:
            return None
        return last if last.event is Event.FREE or is_live(last) else None

    def was_committed(self, run: str) -> bool:
        last = self.last(run)
        return last is not None and last.event is Event.COMMITTED

    def free_reason(self, *, run: str, machine: str) -> str:
        """Why a conversion costs nothing, or nothing where it does cost."""
        last = self.last(run)
        if last is not None and last.event is Event.COMMITTED and last.machine == machine:
            return "this run has been counted already"
        return self.recent_reason(machine)

    def recent_reason(self, machine: str) -> str:
        """Only a conversion that cost a unit opens a period: free ones must not prolong it for ever."""
        for entry in reversed(self.entries):
            if entry.event is Event.COMMITTED and entry.units and entry.machine == machine:
                when = datetime.fromisoformat(entry.when)
                if self._now - when <= SAME_MACHINE_PERIOD:
                    return f"the same machine was converted on {when.date()}, within 30 days"
        return ""

    def check_clock(self) -> None:
        latest = max(datetime.fromisoformat(entry.when) for entry in self.entries)
        if latest - self._now > CLOCK_TOLERANCE:
            raise LicenseError(
                f"The clock was set back: it says {iso(self._now)}, but the license ledger was last written "
                f"at {iso(latest)}",
                hint="Set the clock, for example with: timedatectl set-ntp true",
            )

    def check_machine(self, *, run: str, machine: str) -> None:
        """A run id that was counted for one machine must not pay for another one."""
        last = self.last(run)
        if last is not None and last.event is not Event.RELEASED and last.machine != machine:
            raise LicenseError(
                f"Run {run} was counted for another machine ({last.title})",
                hint="Start a new run: --name NAME",
            )

    def take_back_from_dead(self) -> None:
        for entry in self._reservations():
            if not is_live(entry):
                pid = entry.owner.pid if entry.owner else 0
                reason = f"process {pid} ended without an answer"
                self.follow(entry, Event.RELEASED, units=entry.units, reason=reason)

    def require_unit(self) -> None:
        if self.left() > 0:
            return
        paid = [entry.title for entry in self._mine() if entry.event is Event.COMMITTED and entry.units]
        running = [entry.title for entry in self._reservations()]
        parts = [f"{len(paid)} used by {_names(paid)}" if paid else "", _running(running)]
        raise LicenseError(
            f"No conversion is left of the {self._license.total} of the {self._license.title.lower()} "
            f"license: {'; '.join(part for part in parts if part)}",
            hint="Try: p2v license history",
        )

    def follow(self, entry: LedgerEntry, event: Event, *, units: int, reason: str) -> LedgerEntry:
        """The next event of the run that `entry` is about, on the license that it began with."""
        return self._append(replace(entry, event=event, units=units, reason=reason))

    def open_account(self, *, run: str, machine: str, title: str, free_reason: str) -> LedgerEntry:
        """The first event of a run: a free pass where there is a reason for one, else a reservation."""
        entry = LedgerEntry(
            number=0,
            event=Event.FREE if free_reason else Event.RESERVED,
            when="",
            who="",
            version="",
            license=self._license.name,
            run=run,
            machine=machine,
            title=title,
            units=0 if free_reason else 1,
            reason=free_reason or ONE,
        )
        return self._append(entry)

    def _append(self, entry: LedgerEntry) -> LedgerEntry:
        stamped = replace(
            entry,
            number=len(self.entries) + 1,
            when=iso(self._now),
            who=user_name(),
            version=__version__,
            title=shown(entry.title),
            reason=shown(entry.reason),
            owner=this_process() if entry.event in HOLDING else None,
        )
        self._transaction.append(stamped)
        return stamped

    def use(self, entry: LedgerEntry) -> LicenseUse:
        """What an event means for the receipt of its run."""
        state = "free" if entry.event is Event.COMMITTED and not entry.units else entry.event.value
        units = 0 if entry.event is Event.RELEASED else entry.units
        return LicenseUse(state, entry.license, units, self.left(), entry.reason)


def is_live(entry: LedgerEntry) -> bool:
    return entry.owner is not None and is_alive(entry.owner)


def _names(titles: list[str]) -> str:
    rest = f" and {len(titles) - SHOWN_MACHINES} more" if len(titles) > SHOWN_MACHINES else ""
    return ", ".join(titles[:SHOWN_MACHINES]) + rest


def _running(titles: list[str]) -> str:
    return f"{len(titles)} reserved by running conversions of {_names(titles)}" if titles else ""


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
