"""A vendor for tests: a key of its own, licenses signed with it, and a `p2v` that trusts it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2v import cli
from p2v.licensing import vendor
from p2v.licensing.document import render, signed_part
from p2v.licensing.tiers import TIERS, License, Tier
from p2v.licensing.vendor import TrustedKeys, VendorKey, vendor_key

TODAY = date(2026, 3, 1)
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Vendor:
    """Signs whatever it is asked to, sense or not."""

    def __init__(self, seed: int = 1) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.key = VendorKey(raw)

    @property
    def trusted(self) -> TrustedKeys:
        return (self.key,)

    def license(
        self,
        tier: Tier = Tier.DESKTOP_25,
        *,
        sequence: int = 1,
        total: int | None = None,
        first: date = TODAY,
        last: date | None = None,
        customer: str = "Example Company",
    ) -> License:
        facts = TIERS[tier]
        if facts.term is not None and last is None:
            last = first + timedelta(days=facts.term)
        units = total or facts.units
        return License(
            f"{tier}/{sequence}", tier, facts.title, units, facts.features, customer, first, last,
            self.key.id, sequence,
        )  # fmt: skip

    def sign(self, license: License) -> bytes:
        license = replace(license, key=self.key.id)
        return render(license, self._key.sign(signed_part(license).encode())).encode()

    def sign_text(self, signed: str) -> bytes:
        """A right signature over whatever text."""
        empty = render(self.license(), self._key.sign(signed.encode()))
        return (signed + empty[empty.index("\n\n") + 1 :]).encode()

    def file(self, folder: Path, license: License) -> Path:
        path = folder / f"{license.name.replace('/', '-')}.p2v-license"
        path.write_bytes(self.sign(license))
        return path


def trusting(public: str, *arguments: str | Path) -> list[str]:
    """The argv of a `p2v` that trusts one key more. The product has no such switch; this is a test's."""
    return [sys.executable, "-m", "tests.licensing.vendor", public, *(str(word) for word in arguments)]


def main() -> None:
    vendor.VENDOR_KEYS = (*vendor.VENDOR_KEYS, vendor_key(sys.argv.pop(1)))
    cli.main()


if __name__ == "__main__":
    main()
