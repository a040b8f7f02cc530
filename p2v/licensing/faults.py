"""What makes a whole and sealed ledger one that must not be written on, and how a person mends that.

Nothing here is undone silently: each fault refuses new conversions until `p2v license mend` has written into
the ledger what was found. Mending gives nobody a unit: what a lost part had spent is counted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from p2v.errors import LicenseError
from p2v.licensing.account import Account
from p2v.licensing.anchor import Anchor, Spent
from p2v.licensing.books import CLOCK_TOLERANCE, Books, iso, new_entry
from p2v.licensing.chain import Event
from p2v.licensing.host import this_host

CLOCK_MENDS = 3
"""How often a ledger believes a person who says that its clock had been ahead."""


class FaultKind(StrEnum):
    MOVED = "moved"
    RESTORED = "restored"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    message: str
    hint: str


def refuse(faults: Sequence[Fault]) -> None:
    """Raise LicenseError for the first fault, if there is one."""
    if faults:
        raise LicenseError(faults[0].message, hint=faults[0].hint)


def find_faults(books: Books, note: Anchor | None, home: Path) -> tuple[Fault, ...]:
    """Everything that is not as it should be. `note` was read before the transaction of `books` began."""
    found = (_moved(books.account, home), _restored(books, note, home), _clock(books))
    return tuple(fault for fault in found if fault is not None)


def _moved(account: Account, home: Path) -> Fault | None:
    host = this_host()
    if not host or not account.host or host == account.host:
        return None
    return Fault(
        FaultKind.MOVED,
        f"The license ledger in {home} was made on another machine",
        "Install a license here in a home of its own (P2V_HOME), or, where the ledger has moved here for "
        "good: p2v license mend",
    )


def _restored(books: Books, note: Anchor | None, home: Path) -> Fault | None:
    if note is None:
        return None
    account = books.account
    if note.installation != account.installation:
        return _gone(note, home)
    if books.digest_of(note.count) == note.digest:
        return None
    missing = sum(spent.units for spent in _missing(account, note))
    return Fault(
        FaultKind.RESTORED,
        f"The license ledger in {home} is an old copy: it has {account.end.count} entries, but {note.count} "
        f"had been written by {note.when}",
        f"Put the newest copy back; where there is none: p2v license mend, which counts what is missing "
        f"({_conversions(missing)})",
    )


def gone(note: Anchor, home: Path) -> LicenseError:
    """A ledger of which nothing but the note is left."""
    fault = _gone(note, home)
    return LicenseError(fault.message, hint=fault.hint)


def _gone(note: Anchor, home: Path) -> Fault:
    return Fault(
        FaultKind.RESTORED,
        f"The license ledger that was kept in {home} is gone: it had counted {_conversions(note.units)} by "
        f"{note.when}",
        "Put the folder back from a backup; where there is none: p2v license mend, which begins a new ledger "
        "with them counted",
    )


def _clock(books: Books) -> Fault | None:
    if books.account.latest - books.now <= CLOCK_TOLERANCE:
        return None
    hint = "Set the clock, for example with: timedatectl set-ntp true"
    if books.account.clocks_set < CLOCK_MENDS:
        hint += ". If it is right now and was wrong then: p2v license mend"
    return Fault(
        FaultKind.CLOCK,
        f"The clock was set back: it says {iso(books.now)}, but the license ledger was last written at "
        f"{iso(books.account.latest)}",
        hint,
    )


def mend(books: Books, faults: Sequence[Fault], note: Anchor | None) -> None:
    """Write down what was found, so that it is a fault no longer. Raises LicenseError for a clock that was
    said to be right too often.
    """
    # The clock comes first: what is written after it has the right time.
    for fault in sorted(faults, key=lambda fault: fault.kind is not FaultKind.CLOCK):
        MENDERS[fault.kind](books, note)


def _mend_clock(books: Books, note: Anchor | None) -> None:
    if books.account.clocks_set >= CLOCK_MENDS:
        raise LicenseError(
            f"The clock of this ledger was said to have been wrong {CLOCK_MENDS} times already",
            hint=f"Ask the vendor, or wait until {books.account.latest.date()}",
        )
    reason = f"said to be right, and to have been ahead at {iso(books.account.latest)}"
    books.append(new_entry(Event.CLOCK_SET, license=books.licenses[-1].name, reason=reason))


def _mend_moved(books: Books, note: Anchor | None) -> None:
    entry = new_entry(Event.MOVED, license=books.licenses[-1].name, reason="goes on on this machine")
    books.append(replace(entry, host=this_host()))


def _mend_restored(books: Books, note: Anchor | None) -> None:
    if note is None:
        return
    lost = _missing(books.account, note) or (Spent(books.licenses[-1].name, 0),)
    for spent in lost:
        reason = f"counted by {note.when} in a ledger of which an old copy or nothing was left"
        books.append(new_entry(Event.RESTORED, license=spent.license, units=spent.units, reason=reason))


MENDERS: dict[FaultKind, Callable[[Books, Anchor | None], None]] = {
    FaultKind.CLOCK: _mend_clock,
    FaultKind.MOVED: _mend_moved,
    FaultKind.RESTORED: _mend_restored,
}


def note_of(account: Account) -> Anchor:
    """How far the ledger has come."""
    spent = tuple(Spent(name, units) for name, units in sorted(account.used.items()) if units)
    return Anchor(
        account.installation, account.end.count, account.end.digest, account.entries[-1].when, spent
    )


def _missing(account: Account, note: Anchor) -> tuple[Spent, ...]:
    """What the note has seen spent and the account has not."""
    found = (Spent(spent.license, spent.units - account.used[spent.license]) for spent in note.spent)
    return tuple(spent for spent in found if spent.units > 0)


def _conversions(number: int) -> str:
    return f"{number} conversion{'' if number == 1 else 's'}"
