"""The counting rules: what a conversion costs, and when the unit is reserved, committed or given back."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from p2v import __version__
from p2v.errors import LicenseError
from p2v.licensing import vendor
from p2v.licensing.anchor import Anchor, advance_anchor, anchor_path, read_anchor, replace_anchor
from p2v.licensing.books import ONE, Books, Grant, Validity, iso, new_entry
from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.document import read_license
from p2v.licensing.faults import Fault, find_faults, gone, mend, note_of, refuse
from p2v.licensing.history import HistoryLine, history_lines
from p2v.licensing.host import this_host
from p2v.licensing.store import Access, Store, exists, open_store, user_name
from p2v.licensing.tiers import EVALUATION, TIERS, Feature, Features, License, Tier
from p2v.licensing.vendor import TrustedKeys
from p2v.model import LicenseUse

Clock = Callable[[], datetime]

FEW_UNITS = 5
FEW_DAYS = 7


@dataclass(frozen=True, slots=True)
class Quote:
    """What a conversion would cost now, how many units are left before it (infinite within the term of an
    unlimited license), and why.
    """

    units: int
    left: float
    reason: str


@dataclass(frozen=True, slots=True)
class LicenseStatus:
    """All licenses together: `left` is what is neither used nor reserved by a process that lives.

    `total` and `left` are None for any number. `features` are those that hold now, `warnings` what a person
    should know in time.
    """

    total: int | None
    used: int
    reserved: int
    left: int | None
    since: str
    features: Features
    licenses: tuple[Grant, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """A license after its installation; `again` where it had been installed before and nothing changed."""

    grant: Grant
    again: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at and found right; `end` is the digest of the last entry, to be kept elsewhere."""

    entries: int
    end: str
    licenses: tuple[str, ...]


class Ledger:
    """The account of one user's conversions. Every method is one transaction and raises LicenseError.

    It refuses (closed, not open) whenever the ledger was changed by something else, cannot be written, is an
    old copy, comes from another machine or from the future.
    """

    def __init__(
        self, store: Store, built_in: License, clock: Clock, *, trusted: TrustedKeys, home: Path, anchor: Path
    ) -> None:
        self._store = store
        self._home = home
        self._built_in = built_in
        self._clock = clock
        self._trusted = trusted
        self._anchor = anchor

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
        same machine within 30 days, was committed. Units of processes that died are taken back first, the
        license that expires first is spent first. Raises LicenseError where no unit is left.
        """
        with self._sound_books(Access.WRITE) as books:
            books.check_machine(run=run, machine=machine)
            books.take_back_from_dead()
            standing = books.standing(run)
            if standing is not None:
                return books.use(standing)
            reason = books.free_reason(run=run, machine=machine)
            last = books.last(run)
            if last is not None and books.was_committed(run):
                return LicenseUse("free", last.license, 0, books.left_of(last.license), reason)
            entry = books.open_account(run=run, machine=machine, title=title, free_reason=reason)
            return books.use(entry)

    def commit(self, run: str) -> LicenseUse:
        """Spend what the run has reserved; the same run may ask again and gets the same answer.

        It ends on the license that it began with, expired or not. Where another run of the same machine was
        committed in the meantime, the unit goes back. Raises LicenseError where the run has no reservation.
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
                name = self._built_in.name
                return LicenseUse("released", name, 0, books.left_of(name), "nothing was reserved")
            if last.event in (Event.COMMITTED, Event.RELEASED):
                return books.use(last)
            return books.use(books.follow(last, Event.RELEASED, units=last.units, reason=reason))

    def require_feature(self, feature: Feature, *, amount: int = 1) -> None:
        """Raise LicenseError unless a license in force includes the feature; `amount` is the number of
        machines of a manifest for `Feature.BATCH`.
        """
        with self._books(Access.READ) as books:
            grants = _granting(books.grants())
        if not any(grant.license.features.allows(feature, amount) for grant in grants):
            raise _not_included(feature, amount, grants)

    def install(self, content: bytes) -> Installed:
        """Take a license file in. Raises LicenseError, and changes nothing, where it gives nothing: cut,
        edited, not from the vendor, expired, not yet valid, or its number was installed with another content.
        """
        license = read_license(content, self._trusted)
        with self._sound_books(Access.WRITE) as books:
            again = _is_installed(books, license)
            if not again:
                _require_term(books, license)
                books.append(_installation(license, content))
        with self._books(Access.READ) as books:
            grant = next(grant for grant in books.grants() if grant.license == license)
        return Installed(grant, again)

    def status(self) -> LicenseStatus:
        with self._books(Access.READ) as books:
            grants = books.grants()
            valid = [grant for grant in grants if grant.validity is Validity.IN_FORCE]
            return LicenseStatus(
                total=_sum([grant.license.total for grant in grants]),
                used=sum(grant.used for grant in grants),
                reserved=sum(grant.reserved for grant in grants),
                left=_sum([grant.left for grant in valid]),
                since=books.account.entries[0].when,
                features=_features(_granting(grants)),
                licenses=grants,
                warnings=tuple(_warnings(grants, _now(self._clock).date())),
            )

    def history(self) -> tuple[LedgerEntry, ...]:
        """Every event there ever was, oldest first, without the license files themselves."""
        with self._books(Access.READ) as books:
            return tuple(replace(entry, document="") for entry in books.account.entries)

    def units(self) -> tuple[HistoryLine, ...]:
        """One line for each unit that was set aside, and what became of it."""
        return history_lines(self.history())

    def verify(self) -> Verification:
        """Look at everything once more: chain, seal, clock, machine, anchor, signatures."""
        with self._sound_books(Access.READ) as books:
            end = books.account.end
            return Verification(end.count, end.digest, tuple(one.name for one in books.licenses))

    def faults(self) -> tuple[Fault, ...]:
        """What stands in the way of new conversions, and `mend` would write down."""
        note = read_anchor(self._anchor)
        with self._books(Access.READ) as books:
            return find_faults(books, note, self._home)

    def mend(self) -> None:
        """Write down, on a person's word, whatever `faults` has found: it stands in the way no longer."""
        note = read_anchor(self._anchor)
        with self._books(Access.WRITE) as books:
            mend(books, find_faults(books, note, self._home), note)
            mended = note_of(books.account)
        self._replace_anchor(mended)

    def _replace_anchor(self, note: Anchor) -> None:
        try:
            replace_anchor(self._anchor, note)
        except OSError as error:
            raise LicenseError(
                f"{self._anchor} cannot be written: {error.strerror}",
                hint=f"Try: ls -la {self._anchor.parent}",
            ) from error

    @contextlib.contextmanager
    def _sound_books(self, access: Access) -> Iterator[Books]:
        """The books of a ledger without a fault."""
        # Read before the transaction begins: by then, the ledger is at least where the note says.
        note = read_anchor(self._anchor)
        with self._books(access) as books:
            refuse(find_faults(books, note, self._home))
            yield books

    @contextlib.contextmanager
    def _books(self, access: Access) -> Iterator[Books]:
        with self._store.transaction(access) as transaction:
            yield Books(transaction, self._built_in, self._trusted, _now(self._clock))
            note = note_of(transaction.account)
        if access is Access.WRITE:
            advance_anchor(self._anchor, note)


@contextlib.contextmanager
def open_ledger(
    home: Path,
    *,
    clock: Clock | None = None,
    license: License = EVALUATION,
    trusted: TrustedKeys | None = None,
) -> Iterator[Ledger]:
    """Open the ledger kept in `home`, which is made (mode 0700) where it is missing. `license` is the one
    that needs no file; `trusted` are the keys that sign the others, by default the vendor's.

    Raises LicenseError for a ledger that was changed by something else, is not whole, cannot be written, is
    an old copy, comes from another machine, or was written more than a day after what `clock` says now.
    """
    note = read_anchor(anchor_path(home))
    if note is not None and not exists(home):
        raise gone(note, home)
    with open_unchecked(home, clock=clock, license=license, trusted=trusted) as ledger:
        ledger.verify()
        yield ledger


@contextlib.contextmanager
def open_unchecked(
    home: Path,
    *,
    clock: Clock | None = None,
    license: License = EVALUATION,
    trusted: TrustedKeys | None = None,
) -> Iterator[Ledger]:
    """`open_ledger` for mending: of an old, moved or future ledger nothing is refused yet."""
    clock = clock or _utc_now
    keys = vendor.VENDOR_KEYS if trusted is None else trusted
    with open_store(home, _first_entry(license, _now(clock))) as store:
        yield Ledger(store, license, clock, trusted=keys, home=home, anchor=anchor_path(home))


def _first_entry(license: License, now: datetime) -> LedgerEntry:
    """The beginning of a new ledger, unlike that of any other, so that its digest names the ledger."""
    entry = LedgerEntry(1, Event.INSTALLED, iso(now), user_name(), __version__, license.name)
    return replace(entry, reason=f"new ledger {secrets.token_hex(8)}", host=this_host())


def _is_installed(books: Books, license: License) -> bool:
    """Whether exactly this license is there. Raises LicenseError for another one with its number."""
    there = next((one for one in books.licenses if one.sequence == license.sequence), None)
    if there is not None and there != license:
        raise LicenseError(
            f"Another license with the number {license.sequence} is installed: {there.name} for "
            f"{there.customer}",
            hint="Ask the vendor for a license with a number of its own",
        )
    return there is not None


def _require_term(books: Books, license: License) -> None:
    """Raise LicenseError unless the license is in its term."""
    match books.validity(license):
        case Validity.EXPIRED:
            raise LicenseError(
                f"The license {license.name} expired on {license.not_after}",
                hint=f"Ask the vendor for a new one. Is the clock right? It says {iso(books.now)}",
            )
        case Validity.NOT_YET:
            raise LicenseError(
                f"The license {license.name} is not valid before {license.not_before}",
                hint=f"Install it then. Is the clock right? It says {iso(books.now)}",
            )
        case Validity.IN_FORCE:
            pass


def _installation(license: License, content: bytes) -> LedgerEntry:
    units = "any number of conversions" if license.total is None else f"{license.total} conversions"
    term = f"until {license.not_after}" if license.not_after else "for ever"
    entry = new_entry(
        Event.INSTALLED, license=license.name, units=license.total or 0, reason=f"{units}, {term}"
    )
    return replace(entry, title=license.customer, document=content.decode())


def _granting(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The licenses whose features hold: those that were bought, or else what is built in."""
    valid = [grant for grant in grants if grant.validity is Validity.IN_FORCE]
    bought = tuple(grant for grant in valid if grant.license.sequence)
    return bought or tuple(valid)


def _features(grants: Sequence[Grant]) -> Features:
    """What several licenses include together."""
    each = [grant.license.features for grant in grants]
    batches = [features.batch for features in each]
    return Features(
        batch=None if None in batches else max((batch or 1 for batch in batches), default=1),
        v2p=any(features.v2p for features in each),
        cluster=any(features.cluster for features in each),
    )


def _not_included(feature: Feature, amount: int, grants: Sequence[Grant]) -> LicenseError:
    there = ", ".join(grant.license.name for grant in grants)
    tiers = [tier for tier, facts in TIERS.items() if facts.features.allows(feature, amount)]
    match feature:
        case Feature.BATCH:
            most = _features(grants).batch
            what = f"A batch of {amount} machines is more than the {most} that the license allows ({there})"
        case Feature.V2P:
            what = f"Writing onto other machines (V2P) is not in the license ({there})"
        case Feature.CLUSTER:
            what = f"Converting on a cluster is not in the license ({there})"
    bought = ", ".join(tier for tier in tiers if tier is not Tier.EVALUATION)
    return LicenseError(what, hint=f"Included in: {bought}. Install one with: p2v license install FILE")


def _warnings(grants: Sequence[Grant], today: date) -> Iterator[str]:
    """Said in time: few units or few days left."""
    left = sum(grant.number_left for grant in grants)
    if left <= FEW_UNITS and any(grant.used or grant.reserved for grant in grants):
        yield f"{left:.0f} conversion{' is' if left == 1 else 's are'} left of all licenses together"
    for grant in grants:
        day = grant.license.not_after
        if day is not None and grant.number_left and (day - today).days < FEW_DAYS:
            what = "" if grant.left is None else f" with {grant.left} unspent"
            yield f"The license {grant.license.name} ends with {day} (UTC){what}"


def _sum(numbers: Iterable[int | None]) -> int | None:
    """None stands for any number, and so does a sum with it."""
    known = list(numbers)
    return None if None in known else sum(number or 0 for number in known)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _now(clock: Clock) -> datetime:
    return clock().astimezone(UTC)
