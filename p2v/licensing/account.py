"""The account: what the verified entries of a ledger add up to, kept up to date entry by entry.

A ledger is looked at several times for each conversion. Adding up all entries each time would make the
thousandth conversion a thousand times as slow as the first.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime

from p2v.licensing.chain import BEGINNING, Event, LedgerEntry, Link

EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Paid:
    """A conversion of a machine that cost a unit: when, and of which license."""

    moment: datetime
    license: str


class Account:
    """Sums over the entries seen so far. Whoever adds an entry has verified it."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.end: Link = BEGINNING
        self.installation = ""
        self.host = ""
        self.latest = EARLIEST
        self.clocks_set = 0
        self.last: dict[str, LedgerEntry] = {}
        """The latest event of each run, which decides what state it is in."""
        self.held: dict[str, LedgerEntry] = {}
        """The reservations, by run, whether their processes live or not."""
        self.used: Counter[str] = Counter()
        """Units spent, by license."""
        self.spent: dict[str, dict[str, str]] = {}
        """Titles of what was spent, by license and run."""
        self.paid: dict[str, Paid] = {}
        self.licenses: dict[str, LedgerEntry] = {}

    def copy(self) -> Account:
        """Another account of the same entries, which grows by itself."""
        other = copy(self)
        other.entries = self.entries.copy()
        other.last, other.held, other.used = self.last.copy(), self.held.copy(), self.used.copy()
        other.spent = {name: runs.copy() for name, runs in self.spent.items()}
        other.paid, other.licenses = self.paid.copy(), self.licenses.copy()
        return other

    def add(self, entry: LedgerEntry, digest: str) -> None:
        """Take in the next entry, whose digest is right."""
        self.entries.append(entry)
        self.end = Link(entry.number, digest)
        self.installation = self.installation or digest
        self.host = entry.host or self.host
        moment = datetime.fromisoformat(entry.when)
        self.latest = max(self.latest, moment)
        if entry.run:
            self._add_run(entry, moment)
        match entry.event:
            case Event.INSTALLED if entry.document:
                self.licenses[entry.license] = entry
            case Event.RESTORED:
                self.used[entry.license] += entry.units
            case Event.CLOCK_SET:
                self._set_clock(moment)
            case _:
                pass

    def _add_run(self, entry: LedgerEntry, moment: datetime) -> None:
        self.last[entry.run] = entry
        self.held.pop(entry.run, None)
        if entry.event is Event.RESERVED:
            self.held[entry.run] = entry
        if entry.event is Event.COMMITTED and entry.units:
            self.used[entry.license] += entry.units
            self.spent.setdefault(entry.license, {})[entry.run] = entry.title
            # Only what cost a unit opens a period: free conversions must not prolong it for ever.
            self.paid[entry.machine] = Paid(moment, entry.license)

    def _set_clock(self, moment: datetime) -> None:
        """What was written while the clock was ahead counts as written now."""
        self.latest = moment
        self.clocks_set += 1
        self.paid = {
            machine: Paid(min(paid.moment, moment), paid.license) for machine, paid in self.paid.items()
        }
