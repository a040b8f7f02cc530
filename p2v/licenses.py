"""What the commands `p2v license …` do, the customer's and the vendor's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from p2v.errors import LicenseError, UsageError
from p2v.house import House
from p2v.licensing import issuing, vendor
from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.document import SIZE_LIMIT, read_license
from p2v.licensing.faults import Fault
from p2v.licensing.history import HistoryLine
from p2v.licensing.issuing import Issued, Order, Passphrase
from p2v.licensing.ledger import Installed, LicenseStatus, Verification, open_ledger, open_unchecked
from p2v.licensing.tiers import License
from p2v.licensing.vendor import VendorKey
from p2v.log import shown
from p2v.model import Receipt
from p2v.run import list_runs, read_receipt
from p2v.run_folder import RunState

SHOWN_RUNS = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """What `p2v license verify` found right: the ledger, and how many receipts agree with it."""

    ledger: Verification
    receipts: int


def status(house: House) -> LicenseStatus:
    with open_ledger(house.home) as ledger:
        return ledger.status()


def warn(house: House) -> None:
    """Say it in time that units or days run out; no failure of the ledger spoils what is done by now."""
    if not house.alone:
        return
    with contextlib.suppress(LicenseError):
        for warning in status(house).warnings:
            house.ui.warn(warning)


def history(house: House) -> tuple[HistoryLine, ...]:
    """What became of every unit, oldest first."""
    with open_ledger(house.home) as ledger:
        return ledger.units()


def install(file: Path, house: House) -> Installed:
    """Take a license file in. Raises UsageError for no file, LicenseError for one that gives nothing."""
    content = _read(file)
    with open_ledger(house.home) as ledger:
        return ledger.install(content)


def look(file: Path) -> License:
    """What a license file gives, without installing it. Raises LicenseError where its signature is wrong."""
    return read_license(_read(file), vendor.VENDOR_KEYS)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as handle:
            return handle.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint=f"Try: ls -l {file}") from error


def verify(house: House, folders: Sequence[Path]) -> Checked:
    """Look at the ledger once more, and at the receipts of the finished runs in `folders`.

    A receipt is kept where the ledger is not, so that it knows what an old copy of the ledger has forgotten.
    Raises LicenseError where a receipt has a unit that the ledger has not counted.
    """
    with open_ledger(house.home) as ledger:
        found, entries = ledger.verify(), ledger.history()
    paid = [receipt for folder in folders for receipt in _receipts(folder) if _has_paid(receipt)]
    _require_counted(paid, entries)
    return Checked(found, len(paid))


def _receipts(folder: Path) -> Iterator[Receipt]:
    for run in list_runs(folder):
        receipt = read_receipt(run.path) if run.state is RunState.FINISHED else None
        if receipt is not None:
            yield receipt


def _has_paid(receipt: Receipt) -> bool:
    use = receipt.license
    return use is not None and use.state == Event.COMMITTED and use.units > 0


def _require_counted(receipts: Sequence[Receipt], entries: Sequence[LedgerEntry]) -> None:
    counted = {entry.run for entry in entries if entry.event is Event.COMMITTED}
    # Mending counts what was lost without knowing the runs.
    mended = sum(entry.units for entry in entries if entry.event is Event.RESTORED)
    unknown = [shown(receipt.plan.name) for receipt in receipts if receipt.run not in counted]
    if len(unknown) > mended:
        names = ", ".join(unknown[:SHOWN_RUNS]) + (" …" if len(unknown) > SHOWN_RUNS else "")
        raise LicenseError(
            f"The receipts of {len(unknown)} runs have units that this ledger has not counted: {names}",
            hint="Were they converted by another user, or with another P2V_HOME? Else the ledger is an old "
            "copy: put the newest one back",
        )


def mend(house: House, confirm: Callable[[tuple[Fault, ...]], bool]) -> tuple[Fault, ...]:
    """Write down what stands in the way of new conversions, once a person has confirmed it; empty where
    nothing does. Raises LicenseError for a ledger that was edited: no word of a person mends that.
    """
    with open_unchecked(house.home) as ledger:
        faults = ledger.faults()
        if faults and confirm(faults):
            ledger.mend()
            return faults
    if faults:
        raise UsageError("Nothing was mended", hint="Say yes, or give --yes")
    return ()


def make_key(path: Path, passphrase: str) -> VendorKey:
    return issuing.make_key(path, passphrase)


def issue(key: Path, order: Order, output: Path, passphrase: Passphrase) -> Issued:
    return issuing.issue(key, order, output, passphrase)


def today() -> date:
    return datetime.now(UTC).date()
