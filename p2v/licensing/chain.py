"""The entries of the ledger, chained by their digests and sealed with a key: no change goes unnoticed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from p2v.errors import LicenseError
from p2v.licensing.owner import Owner

RESTORE_HINT = (
    "Put the ledger's folder (all of it) back from a backup, or move its ledger.* files away; then: "
    "p2v license mend. What was converted stays usable: p2v runs"
)


class Event(StrEnum):
    """What an entry is about. The last three are written by `p2v license mend` only.

    `MOVED`: the ledger goes on on another machine; `RESTORED`: conversions of a lost part are counted;
    `CLOCK_SET`: the clock had been ahead and is right now.
    """

    INSTALLED = "installed"
    RESERVED = "reserved"
    FREE = "free"
    COMMITTED = "committed"
    RELEASED = "released"
    MOVED = "moved"
    RESTORED = "restored"
    CLOCK_SET = "clock-set"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One event. `when` is UTC in ISO 8601, `who` the user's name, `units` how many it is about.

    `document` is the license file that was installed, `host` the machine, where the event is about one.
    """

    number: int
    event: Event
    when: str
    who: str
    version: str
    license: str
    run: str = ""
    machine: str = ""
    title: str = ""
    units: int = 0
    reason: str = ""
    owner: Owner | None = None
    document: str = ""
    host: str = ""


ENTRY = TypeAdapter(LedgerEntry)


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it is stored: its canonical text, and the digest over that and the digest before it."""

    number: int
    content: str
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """How many rows there are and the last digest, sealed: without it a cut tail would not show."""

    count: int
    digest: str
    seal: str


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain that is verified: its number of rows and the last digest."""

    count: int
    digest: str


BEGINNING = Link(0, "0" * 64)
"""What stands before the first entry."""


def make_row(entry: LedgerEntry, *, previous: str) -> Row:
    content = json.dumps(asdict(entry), sort_keys=True, separators=(",", ":"))
    return Row(entry.number, content, _link(previous, content))


def make_head(row: Row, *, key: bytes) -> Head:
    return Head(row.number, row.digest, _seal(key, row.number, row.digest))


def check_chain(rows: Iterable[Row], head: Head, *, key: bytes, after: Link = BEGINNING) -> Iterator[Row]:
    """The rows after a link that is verified already, once their digests are right.

    Raises LicenseError where a digest or the seal is not, at the latest with the end of the rows: what comes
    out before counts only once all of them have.
    """
    if not hmac.compare_digest(head.seal.encode(), _seal(key, head.count, head.digest).encode()):
        raise tampered("its seal does not fit its key")
    number, previous = after.count, after.digest
    for row in rows:
        number += 1
        if row.number != number:
            raise tampered(f"entry {number} is missing")
        previous = _link(previous, row.content)
        if row.digest != previous:
            raise tampered(f"entry {number} was edited")
        yield row
    if number != head.count or previous != head.digest:
        raise tampered(f"it has {number} entries where {head.count} were written")


def tampered(detail: str) -> LicenseError:
    return LicenseError(
        f"The license ledger was changed by something else than p2v: {detail}", hint=RESTORE_HINT
    )


def read_entry(row: Row) -> LedgerEntry:
    """Parse one row whose digest is right. Raises LicenseError where it is none of ours."""
    try:
        entry = ENTRY.validate_json(row.content)
    except ValidationError as error:
        raise LicenseError(
            f"Entry {row.number} of the license ledger is of a kind that this p2v does not know",
            hint="Upgrade p2v to the version that was used last",
        ) from error
    if entry.number != row.number:
        raise tampered(f"entry {row.number} was moved")
    return entry


def _link(previous: str, content: str) -> str:
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def _seal(key: bytes, count: int, digest: str) -> str:
    return hmac.new(key, f"{count}\n{digest}".encode(), hashlib.sha256).hexdigest()
