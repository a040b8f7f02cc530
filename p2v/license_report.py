"""The answers of `p2v license …`: as text for a person, JSON and CSV for a program. Pure functions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from p2v.licenses import Checked
from p2v.licensing.books import Grant
from p2v.licensing.faults import Fault
from p2v.licensing.history import HistoryLine
from p2v.licensing.ledger import Installed, LicenseStatus
from p2v.licensing.tiers import Features, License
from p2v.licensing.vendor import VendorKey
from p2v.report import shown, table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a vendor's key that everybody may know: its id, and its 32 bytes as base64."""

    id: str
    public: str


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula; a host name comes from a source that is not trusted."""


def _json(adapter: TypeAdapter[T], value: T) -> str:
    return adapter.dump_json(value, indent=2).decode()


def status_json(status: LicenseStatus) -> str:
    return _json(TypeAdapter(LicenseStatus), status)


def status_text(status: LicenseStatus) -> str:
    rows: list[tuple[str, ...]] = [
        ("LICENSE", "CUSTOMER", "STATE", "CONVERSIONS", "USED", "RUNNING", "LEFT", "LAST DAY")
    ]
    rows += [_grant_row(grant) for grant in status.licenses]
    total = f"{_number(status.left)} left: {status.used} used, {status.reserved} in progress"
    lines = [table(rows), "", total, f"included: {features_text(status.features)}"]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in status.warnings)])


def _grant_row(grant: Grant) -> tuple[str, ...]:
    license = grant.license
    return (
        license.name,
        shown(license.customer) or "-",
        grant.validity.value,
        _number(license.total),
        str(grant.used),
        str(grant.reserved),
        _number(grant.left),
        str(license.not_after or "-"),
    )


def _number(number: int | None) -> str:
    return "unlimited" if number is None else str(number)


def features_text(features: Features) -> str:
    batch = "batches of any size" if features.batch is None else f"batches of up to {features.batch} machines"
    words = [batch]
    words += ["V2P"] if features.v2p else []
    words += ["cluster"] if features.cluster else []
    return ", ".join(words)


def installed_json(installed: Installed) -> str:
    return _json(TypeAdapter(Installed), installed)


def installed_text(installed: Installed) -> str:
    said = "was installed already; nothing was changed" if installed.again else "is installed"
    return f"{license_text(installed.grant.license)}\n{installed.grant.license.name} {said}"


def license_json(license: License) -> str:
    return _json(TypeAdapter(License), license)


def license_text(license: License) -> str:
    """What a license file gives."""
    return "\n".join(
        [
            f"{license.title} license {license.name} for {shown(license.customer)}",
            f"  conversions  {_number(license.total)}",
            f"  included     {features_text(license.features)}",
            f"  valid        from {license.not_before} {_until(license)} (UTC)",
        ]
    )


def _until(license: License) -> str:
    return f"to {license.not_after}" if license.not_after else "on"


def checked_json(checked: Checked) -> str:
    return _json(TypeAdapter(Checked), checked)


def checked_text(checked: Checked) -> str:
    return "\n".join(_checked_lines(checked))


def _checked_lines(checked: Checked) -> Iterator[str]:
    ledger = checked.ledger
    yield f"ledger    whole and sealed: {ledger.entries} entries, the last one is {ledger.end}"
    yield f"licenses  {', '.join(ledger.licenses)}"
    if checked.receipts:
        yield f"receipts  {checked.receipts} with a unit, all of them counted"


def history_json(lines: tuple[HistoryLine, ...]) -> str:
    return _json(TypeAdapter(tuple[HistoryLine, ...]), lines)


def history_text(lines: tuple[HistoryLine, ...]) -> str:
    rows = [("BEGAN", "ENDED", "STATE", "UNITS", "LICENSE", "MACHINE", "RUN", "BY", "WHY")]
    for line in lines:
        row = (line.began, line.ended, line.event, str(line.units), line.license, line.title, line.run[:8])
        rows.append((*row, line.who, line.reason))
    return table([tuple(shown(cell) or "-" for cell in row) for row in rows])


def history_csv(lines: tuple[HistoryLine, ...]) -> str:
    """One row a unit, all columns (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([field.name for field in fields(HistoryLine)])
    for line in lines:
        writer.writerow([_cell(str(value)) for value in astuple(line)])
    return text.getvalue().removesuffix("\r\n")


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def mended_json(faults: tuple[Fault, ...]) -> str:
    return _json(TypeAdapter(tuple[Fault, ...]), faults)


def mended_text(faults: tuple[Fault, ...]) -> str:
    if not faults:
        return "nothing to mend"
    return "\n".join(
        ["written into the ledger, which is in order again:", *(f"  {f.message}" for f in faults)]
    )


def key_json(key: VendorKey) -> str:
    return _json(TypeAdapter(PublicKey), PublicKey(key.id, key.text))


def key_text(key: VendorKey, file: Path) -> str:
    """Where the private key is, and the line that makes programs trust it."""
    return "\n".join(
        [
            f"private key  {file} (mode 0600; its record will be {file}.issued)",
            f"key          {key.id}",
            "Add this line to VENDOR_KEYS in p2v/licensing/vendor.py:",
            f'    vendor_key("{key.text}"),',
        ]
    )
