"""The vendor's side: make a signing key, and sign licenses with it.

The private key is a PEM file (PKCS #8, RFC 5958; encrypted where a passphrase is given) that only its owner
can read. Beside it lies its record: one line for each license that was issued, because a number must never be
given twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2v.atomic import LockHeld, locked, write_atomically
from p2v.errors import LicenseError, UsageError
from p2v.licensing.document import read_license, render, signed_part
from p2v.licensing.tiers import TIERS, License, Tier
from p2v.licensing.vendor import VendorKey

KEY_LIMIT = 16 * 1024
PRIVATE = 0o600
LOCK_SECONDS = 10.0

Passphrase = Callable[[], str]
"""Asked only where a passphrase is needed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer bought. `units` None: what the tier gives; `last` None: the term of the tier, or for
    ever; `sequence` None: the next number.
    """

    customer: str
    tier: Tier
    first: date
    units: int | None = None
    last: date | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed license and the file that holds it."""

    license: License
    text: str


def make_key(path: Path, passphrase: str) -> VendorKey:
    """Make a signing key at `path` (mode 0600), encrypted unless the passphrase is empty.

    Raises UsageError where the file exists, cannot be written, or would lie in a repository.
    """
    _refuse_repository(path)
    key = Ed25519PrivateKey.generate()
    hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else None
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        hidden or serialization.NoEncryption(),
    )
    _write_new(path, content, PRIVATE)
    return _public(key)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists and was not overwritten", hint="Give another name, or move it away"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _refuse_repository(path: Path) -> None:
    """A signing key in a work tree is one `git add` away from everybody."""
    for folder in path.absolute().resolve().parents:
        if (folder / ".git").exists():
            raise UsageError(
                f"{path} would lie in the repository {folder}", hint="Keep the key outside of any repository"
            )


def load_key(path: Path, passphrase: Passphrase) -> Ed25519PrivateKey:
    """Read a signing key. Raises UsageError where others could read it, or it is none."""
    content = _read_private(path)
    secret = passphrase().encode() if b"ENCRYPTED" in content else None
    try:
        key = serialization.load_pem_private_key(content, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = (
            "the passphrase is wrong, or it is damaged" if secret is not None else "it is no PEM private key"
        )
        # What the library says may hold parts of the file.
        raise UsageError(f"{path} cannot be opened: {why}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key", hint="Try: p2v license keygen")
    return key


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(KEY_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="Try: p2v license keygen"
        ) from error
    if mode & 0o077:
        raise UsageError(f"Others may read the private key {path}", hint=f"Try: chmod 600 {path}")
    if len(content) > KEY_LIMIT:
        raise UsageError(f"{path} is too large to be a key")
    return content


def issue(path: Path, order: Order, output: Path, passphrase: Passphrase) -> Issued:
    """Sign a license with the key at `path`, note it in the record, and write it to `output`, a new file.

    Raises UsageError for an order that no license can hold, and for a number that was given already.
    """
    key = load_key(path, passphrase)
    record = path.with_name(f"{path.name}.issued")
    try:
        with locked(record.with_name(f"{record.name}.lock"), wait=LOCK_SECONDS):
            issued = _sign(key, order, given=_given(record))
            # Noted first: a number that was lost is harmless, one that was given twice is not.
            _note(record, issued.license)
            _write_new(output, issued.text.encode(), 0o644)
    except (LockHeld, OSError) as error:
        raise UsageError(f"The record {record} cannot be used: {error}") from error
    return issued


def _sign(key: Ed25519PrivateKey, order: Order, *, given: set[int]) -> Issued:
    public = _public(key)
    license = replace(_ordered(order, given), key=public.id)
    signature = key.sign(signed_part(license).encode())
    text = render(license, signature)
    try:
        # Whatever the customer could not install must not leave the house.
        return Issued(read_license(text.encode(), (public,)), text)
    except LicenseError as error:
        raise UsageError(f"That license cannot be issued: {error.message}") from error


def _ordered(order: Order, given: set[int]) -> License:
    sequence = max(given, default=0) + 1 if order.sequence is None else order.sequence
    if sequence in given:
        raise UsageError(
            f"The number {sequence} was given already", hint="Leave --sequence out to have the next one"
        )
    facts = TIERS[order.tier]
    last = order.last
    if last is None and facts.term is not None:
        last = order.first + timedelta(days=facts.term)
    return License(
        name="",
        tier=order.tier,
        title=facts.title,
        total=facts.units if order.units is None else order.units,
        features=facts.features,
        customer=order.customer,
        not_before=order.first,
        not_after=last,
        sequence=sequence,
    )


def _given(record: Path) -> set[int]:
    """The numbers in the record. Raises UsageError where it is damaged: a guess could give one twice."""
    try:
        lines = record.read_text().splitlines() if record.exists() else []
        return {int(json.loads(line)["sequence"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"The record {record} is damaged", hint="Each line is one JSON object with a number 'sequence'"
        ) from error


def _note(record: Path, license: License) -> None:
    line = {
        "sequence": license.sequence,
        "license": license.name,
        "customer": license.customer,
        "units": license.total,
        "not_after": license.not_after.isoformat() if license.not_after else None,
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    before = record.read_bytes() if record.exists() else b""
    write_atomically(record, before + json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _public(key: Ed25519PrivateKey) -> VendorKey:
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return VendorKey(raw)
