"""The vendor's side: the key is kept well, and what is issued can be installed."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from p2v import command
from p2v.errors import UsageError
from p2v.licensing.document import read_license
from p2v.licensing.issuing import Order, issue, load_key, make_key
from p2v.licensing.tiers import Tier
from p2v.licensing.vendor import VendorKey
from tests.conftest import need_tools

FIRST = date(2026, 3, 1)
ORDER = Order("Example Company", Tier.DESKTOP_25, FIRST)


def never() -> str:
    raise AssertionError("nobody should be asked")


def secret(text: str) -> Callable[[], str]:
    return lambda: text


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "vendor", "")
    return tmp_path / "vendor"


def trusted(path: Path) -> tuple[VendorKey, ...]:
    raw = load_key(path, never).public_key().public_bytes_raw()
    return (VendorKey(raw),)


def test_the_key_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = make_key(tmp_path / "vendor", "")
        issue(tmp_path / "vendor", ORDER, tmp_path / "license", never)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "vendor").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "vendor.issued").stat().st_mode) == 0o600
    assert trusted(tmp_path / "vendor") == (public,)


def test_a_key_is_not_overwritten(key: Path) -> None:
    before = key.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        make_key(key, "")
    assert key.read_bytes() == before


@pytest.mark.parametrize("place", ["vendor", "deep/er/vendor"])
def test_a_key_does_not_go_into_a_repository(tmp_path: Path, place: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match="repository"):
        make_key(tmp_path / place, "")
    assert not (tmp_path / place).exists()


def test_no_private_key_is_in_this_repository() -> None:
    root = Path(__file__).resolve().parents[2]
    key = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(?:[A-Za-z-]+: .*\s+)*[A-Za-z0-9+/]{40}")
    looked_at = 0
    for folder in ("p2v", "conversions", "drivers", "fixtures", "tests", ".ci"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                looked_at += 1
                assert not key.search(path.read_bytes()), path
    assert looked_at > 100


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    make_key(tmp_path / "vendor", "correct horse")
    assert b"ENCRYPTED" in (tmp_path / "vendor").read_bytes()
    load_key(tmp_path / "vendor", secret("correct horse"))
    for wrong in ("battery staple", ""):
        with pytest.raises(UsageError, match="passphrase is wrong") as caught:
            load_key(tmp_path / "vendor", secret(wrong))
        assert not wrong or wrong not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(UsageError, match="Others may read") as caught:
        issue(key, ORDER, key.with_name("license"), never)
    assert caught.value.hint == f"Try: chmod 600 {key}"


def _rsa() -> bytes:
    return generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"x" * 100_000]
)
def test_what_is_no_key_is_refused(key: Path, content: bytes) -> None:
    key.write_bytes(content)
    with pytest.raises(UsageError):
        load_key(key, never)


def test_a_key_of_another_kind_is_refused(key: Path) -> None:
    key.write_bytes(_rsa())
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        load_key(key, never)
    with pytest.raises(UsageError, match="cannot be read"):
        load_key(key.with_name("missing"), never)


@pytest.mark.parametrize(
    ("tier", "units", "last"),
    [
        (Tier.DESKTOP_25, 25, None),
        (Tier.DESKTOP_100, 100, None),
        (Tier.SITE, None, date(2027, 3, 1)),
    ],
)
def test_a_tier_gives_what_it_says(key: Path, tier: Tier, units: int | None, last: date | None) -> None:
    output = key.with_name("license")
    issued = issue(key, Order("Ämter", tier, FIRST), output, never)
    license = read_license(output.read_bytes(), trusted(key))
    assert license == issued.license
    assert (license.tier, license.total, license.not_after, license.customer) == (tier, units, last, "Ämter")


def test_numbers_are_given_once(key: Path) -> None:
    def number(name: str, sequence: int | None = None) -> int:
        order = Order("C", Tier.DESKTOP_25, FIRST, units=3, sequence=sequence)
        return issue(key, order, key.with_name(name), never).license.sequence

    assert [number("a"), number("b"), number("c", 50), number("d")] == [1, 2, 50, 51]
    with pytest.raises(UsageError, match="number 2 was given already"):
        number("e", 2)
    assert not key.with_name("e").exists()
    record = [json.loads(line) for line in key.with_name("vendor.issued").read_text().splitlines()]
    assert [line["sequence"] for line in record] == [1, 2, 50, 51]
    assert record[0]["license"] == "desktop-25/1"


def test_a_damaged_record_is_not_guessed_at(key: Path) -> None:
    key.with_name("vendor.issued").write_text("what\n")
    with pytest.raises(UsageError, match="record"):
        issue(key, ORDER, key.with_name("license"), never)


def test_a_license_file_is_not_overwritten(key: Path) -> None:
    output = key.with_name("license")
    output.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        issue(key, ORDER, output, never)
    assert output.read_text() == "precious"


@pytest.mark.parametrize(
    "order",
    [
        Order("", Tier.DESKTOP_25, FIRST),
        Order("two\nlines", Tier.DESKTOP_25, FIRST),
        Order("x" * 121, Tier.DESKTOP_25, FIRST),
        Order("C", Tier.DESKTOP_25, FIRST, units=0),
        Order("C", Tier.DESKTOP_25, FIRST, units=-25),
        Order("C", Tier.DESKTOP_25, FIRST, units=10**9),
        Order("C", Tier.DESKTOP_25, FIRST, last=date(2026, 2, 28)),
        Order("C", Tier.DESKTOP_25, FIRST, sequence=0),
        Order("C", Tier.DESKTOP_25, FIRST, sequence=-3),
        Order("C", Tier.EVALUATION, FIRST),
    ],
    ids=str,
)
def test_nonsense_is_not_issued(key: Path, order: Order) -> None:
    with pytest.raises(UsageError):
        issue(key, order, key.with_name("license"), never)
    assert not key.with_name("license").exists()
    assert not key.with_name("vendor.issued").exists()


@pytest.mark.tools
def test_openssl_reads_the_key(tmp_path: Path) -> None:
    need_tools("openssl")
    public = make_key(tmp_path / "vendor", "correct horse")
    (tmp_path / "pass").write_text("correct horse\n")
    shown = command.check(
        ["openssl", "pkey", "-in", tmp_path / "vendor", "-passin", f"file:{tmp_path / 'pass'}", "-pubout"],
        timeout=20,
        reason="read the key",
    )
    # SubjectPublicKeyInfo of RFC 8410 ends with the 32 bytes of the key.
    body = re.sub(r"-----[A-Z ]+-----|\s", "", shown)
    assert base64.b64decode(body)[-32:] == public.public
