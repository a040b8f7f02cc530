"""The books: the account as one transaction sees it, the licenses that it is of, and the next entry."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from p2v import __version__
from p2v.errors import LicenseError
from p2v.licensing.account import Account
from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.document import read_license
from p2v.licensing.owner import is_alive, this_process
from p2v.licensing.store import Transaction, user_name
from p2v.licensing.tiers import License
from p2v.licensing.vendor import TrustedKeys
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


class Validity(StrEnum):
    IN_FORCE = "in force"
    EXPIRED = "expired"
    NOT_YET = "not yet valid"


@dataclass(frozen=True, slots=True)
class Grant:
    """A license and its account. `left` is what may still be reserved: None for any number, 0 out of term."""

    license: License
    validity: Validity
    used: int
    reserved: int
    left: int | None

    @property
    def number_left(self) -> float:
        return math.inf if self.left is None else self.left


class Books:
    """What one transaction knows and may write. `built_in` is the license that needs no file."""

    def __init__(
        self, transaction: Transaction, built_in: License, trusted: TrustedKeys, now: datetime
    ) -> None:
        self._transaction = transaction
        self.now = now
        installed = [_read_again(entry, trusted) for entry in transaction.account.licenses.values()]
        # The one that expires first is spent first.
        self.licenses = sorted([built_in, *installed], key=lambda one: (one.last_day, one.sequence))

    @property
    def account(self) -> Account:
        return self._transaction.account

    def digest_of(self, number: int) -> str:
        """The digest of an entry; empty where there is none with that number."""
        return self._transaction.digest_of(number)

    def grants(self) -> tuple[Grant, ...]:
        """All licenses, in the order in which they are spent."""
        reserved = Counter(entry.license for entry in self.account.held.values() if is_live(entry))
        return tuple(self._grant(license, reserved[license.name]) for license in self.licenses)

    def _grant(self, license: License, reserved: int) -> Grant:
        used = self.account.used[license.name]
        validity = self.validity(license)
        left = None if license.total is None else max(0, license.total - used - reserved)
        return Grant(license, validity, used, reserved, left if validity is Validity.IN_FORCE else 0)

    def validity(self, license: License) -> Validity:
        """Whether the license is in its term. A clock that went back does not make a term longer."""
        if license.last_day < max(self.now, self.account.latest).date():
            return Validity.EXPIRED
        return Validity.NOT_YET if self.now.date() < license.not_before else Validity.IN_FORCE

    def left(self) -> float:
        """Units of all licenses together; infinite within the term of an unlimited one."""
        return sum(grant.number_left for grant in self.grants())

    def left_of(self, name: str) -> int | None:
        """Units left of one license; None for any number."""
        return next((grant.left for grant in self.grants() if grant.license.name == name), 0)

    def last(self, run: str) -> LedgerEntry | None:
        """The latest event of a run decides what state it is in."""
        return self.account.last.get(run)

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
        paid = self.account.paid.get(machine)
        if paid is None or self.now - paid.moment > SAME_MACHINE_PERIOD:
            return ""
        return f"the same machine was converted on {paid.moment.date()}, within 30 days"

    def check_machine(self, *, run: str, machine: str) -> None:
        """A run id that was counted for one machine must not pay for another one."""
        last = self.last(run)
        if last is not None and last.event is not Event.RELEASED and last.machine != machine:
            raise LicenseError(
                f"Run {run} was counted for another machine ({last.title})",
                hint="Start a new run: --name NAME",
            )

    def take_back_from_dead(self) -> None:
        for entry in list(self.account.held.values()):
            if not is_live(entry):
                pid = entry.owner.pid if entry.owner else 0
                reason = f"process {pid} ended without an answer"
                self.follow(entry, Event.RELEASED, units=entry.units, reason=reason)

    def spendable(self) -> License:
        """The license that the next unit comes from. Raises LicenseError where none has one."""
        grants = self.grants()
        found = next((grant.license for grant in grants if grant.number_left > 0), None)
        if found is None:
            raise _nothing_left(grants, self.account)
        return found

    def follow(self, entry: LedgerEntry, event: Event, *, units: int, reason: str) -> LedgerEntry:
        """The next event of the run that `entry` is about, on the license that it began with."""
        return self.append(replace(entry, event=event, units=units, reason=reason))

    def open_account(self, *, run: str, machine: str, title: str, free_reason: str) -> LedgerEntry:
        """The first event of a run: a free pass where there is a reason for one, else a reservation."""
        entry = new_entry(
            Event.FREE if free_reason else Event.RESERVED,
            license=self._free_license(machine) if free_reason else self.spendable().name,
            units=0 if free_reason else 1,
            reason=free_reason or ONE,
        )
        return self.append(replace(entry, run=run, machine=machine, title=title))

    def _free_license(self, machine: str) -> str:
        """A conversion that costs nothing belongs to the license that paid for the one before it."""
        paid = self.account.paid.get(machine)
        return paid.license if paid else self.licenses[-1].name

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """Write an entry, stamped with number, moment, user, version and, where it holds a unit, process."""
        stamped = replace(
            entry,
            number=self.account.end.count + 1,
            when=iso(self.now),
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
        return LicenseUse(state, entry.license, units, self.left_of(entry.license), entry.reason)


def new_entry(event: Event, *, license: str, units: int = 0, reason: str = "") -> LedgerEntry:
    """An entry that `Books.append` will stamp."""
    return LedgerEntry(0, event, "", "", "", license, units=units, reason=reason)


def is_live(entry: LedgerEntry) -> bool:
    return entry.owner is not None and is_alive(entry.owner)


def _read_again(entry: LedgerEntry, trusted: TrustedKeys) -> License:
    """An installed license. Its signature is looked at each time: the ledger's own seal is not the vendor's.

    Raises LicenseError where this p2v is too old for a license that a newer one installed.
    """
    try:
        return _read_cached(entry.document, trusted)
    except LicenseError as error:
        raise LicenseError(
            f"The license {shown(entry.license)} is installed, but this p2v cannot use it: {error.message}",
            hint="Upgrade p2v to the version that installed it",
        ) from error


@lru_cache(maxsize=256)
def _read_cached(document: str, trusted: TrustedKeys) -> License:
    return read_license(document.encode(), trusted)


def _nothing_left(grants: tuple[Grant, ...], account: Account) -> LicenseError:
    titles = " and ".join(_grant_words(grant) for grant in grants)
    spent = [title for grant in grants for title in account.spent.get(grant.license.name, {}).values()]
    known = {grant.license.name for grant in grants}
    running = [entry.title for entry in account.held.values() if entry.license in known]
    parts = [
        f"{len(spent)} used by {_names(spent)}" if spent else "",
        f"{len(running)} reserved by running conversions of {_names(running)}" if running else "",
    ]
    words = "; ".join(part for part in parts if part)
    return LicenseError(
        f"No conversion is left of {titles}" + (f": {words}" if words else ""),
        hint="See: p2v license history. For more: p2v license install FILE",
    )


def _grant_words(grant: Grant) -> str:
    license = grant.license
    what = "an unlimited number" if license.total is None else f"the {license.total}"
    name = f"{what} of the {license.title.lower()} license"
    match grant.validity:
        case Validity.EXPIRED:
            return f"{name} ({license.name} expired on {license.not_after})"
        case Validity.NOT_YET:
            return f"{name} ({license.name} is valid from {license.not_before} on)"
        case Validity.IN_FORCE:
            return name


def _names(titles: list[str]) -> str:
    rest = f" and {len(titles) - SHOWN_MACHINES} more" if len(titles) > SHOWN_MACHINES else ""
    return ", ".join(titles[:SHOWN_MACHINES]) + rest


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
