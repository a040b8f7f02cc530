"""The license file: what is read of it, and everything else is refused with words."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from p2v import command
from p2v.errors import LicenseError, UsageError
from p2v.licensing.document import CUSTOMER_LIMIT, read_license, signed_part
from p2v.licensing.tiers import TIERS, UNIT_LIMIT, Feature, Features, License, Tier
from p2v.licensing.vendor import VENDOR_KEYS, VendorKey, vendor_key
from tests.conftest import need_tools
from tests.licensing.vendor import Vendor

VENDOR = Vendor()
GOOD = VENDOR.sign(VENDOR.license())

TEXT = """\
P2V-LICENSE 1
customer: Example Company
tier: desktop-25
units: 25
features: batch=25
not-before: 2026-03-01
not-after: never
key: 34750f98bd59fcfc
sequence: 1
"""


def refusal(content: bytes, vendor: Vendor = VENDOR) -> LicenseError:
    with pytest.raises(LicenseError) as caught:
        read_license(content, vendor.trusted)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()
    return caught.value


def signed(**headers: str) -> bytes:
    """A file with other values and a right signature: what a vendor's own slip would look like."""
    lines = []
    for line in TEXT.splitlines():
        name = line.partition(":")[0].replace("-", "_")
        lines.append(f"{line.partition(':')[0]}: {headers[name]}" if name in headers else line)
    return VENDOR.sign_text("\n".join([*lines, ""]))


def test_the_file_is_what_its_grammar_says() -> None:
    signed, blank, rest = GOOD.decode().partition("\n\n")
    assert f"{signed}\n" == TEXT
    assert blank
    assert len(rest) == 89


def test_a_license_gives_what_it_says() -> None:
    assert read_license(GOOD, VENDOR.trusted) == VENDOR.license()
    site = VENDOR.license(Tier.SITE, sequence=9, customer="Ämter & Söhne, 東京")
    read = read_license(VENDOR.sign(site), VENDOR.trusted)
    assert read == site
    assert (read.total, read.features, read.not_after) == (None, Features(None, True, True), date(2027, 3, 1))


def test_the_key_id_is_the_start_of_the_digest_and_known_to_openssl_users() -> None:
    # Test vector 1 of RFC 8032, section 7.1.
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    key = vendor_key(VendorKey(public).text)
    assert key.id == "21fe31dfa154a261"
    assert key.signed(b"", signature)
    assert not key.signed(b"x", signature)


@pytest.mark.parametrize("text", ["", "AAAA", "nonsense!", "é" * 44, "A" * 44 + "===="])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no public key"):
        vendor_key(text)


def test_the_keys_of_the_product_are_keys_and_no_test_key_is_among_them() -> None:
    assert VENDOR_KEYS
    assert len({key.id for key in VENDOR_KEYS}) == len(VENDOR_KEYS)
    for key in VENDOR_KEYS:
        assert vendor_key(key.text) == key
    tests = {Vendor(seed).key.id for seed in range(1, 10)}
    assert not tests & {key.id for key in VENDOR_KEYS}


@pytest.mark.tools
def test_openssl_agrees_with_the_signature(tmp_path: Path) -> None:
    need_tools("openssl")
    head, _, rest = GOOD.decode().partition("\n\n")
    pem = Ed25519PublicKey.from_public_bytes(VENDOR.key.public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "signed").write_text(f"{head}\n")
    (tmp_path / "base64").write_text(rest)
    command.check(
        ["openssl", "base64", "-d", "-in", tmp_path / "base64", "-A", "-out", tmp_path / "signature"],
        timeout=20,
        reason="decode the signature",
    )
    verify: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-rawin",
        "-pubin",
        "-inkey",
        tmp_path / "key.pem",
    ]
    verify += ["-sigfile", tmp_path / "signature", "-in", tmp_path / "signed"]
    assert command.run(verify, timeout=20).code == 0
    (tmp_path / "signed").write_text(f"{head} \n")
    assert command.run(verify, timeout=20).code != 0


@pytest.mark.parametrize(
    "changed",
    [
        GOOD.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + GOOD,
        b"\n\n" + GOOD + b"\n \n",
        GOOD.replace(b"\n", b" \t\n"),
        GOOD.rstrip(),
    ],
    ids=["CRLF", "byte order mark", "empty lines", "blanks at the ends", "no last line end"],
)
def test_what_mail_and_windows_do_to_a_text_is_harmless(changed: bytes) -> None:
    assert read_license(changed, VENDOR.trusted) == VENDOR.license()


@pytest.mark.parametrize("length", range(len(GOOD) - 1))
def test_a_license_cut_anywhere_is_refused(length: int) -> None:
    error = refusal(GOOD[:length])
    assert any(
        word in error.message for word in ("cut short", "not right", "no p2v license", "does not know")
    )


def test_the_words_for_a_cut_name_what_is_missing() -> None:
    assert "its signature has 10 of 88 characters" in refusal(GOOD[:-79]).message
    assert "its signature is missing" in refusal(TEXT.encode()).message
    without_key = TEXT[: TEXT.index("key:")]
    assert "'key' is missing" in refusal(VENDOR.sign_text(without_key)).message
    assert "first line" in refusal(GOOD[:5]).message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("units: 25", "units: 26"),
        ("features: batch=25", "features: batch=25, cluster"),
        ("customer: Example", "customer: Another"),
        ("not-after: never", "not-after: 2099-01-01"),
        ("sequence: 1", "sequence: 2"),
        ("tier: desktop-25", "tier: desktop-100"),
        ("not-before: 2026-03-01", "not-before: 2020-03-01"),
    ],
)
def test_every_line_is_signed(old: str, new: str) -> None:
    assert old.encode() in GOOD
    error = refusal(GOOD.replace(old.encode(), new.encode(), 1))
    assert error.message == "The license was changed after it had been signed"


def test_a_license_of_another_key_is_refused() -> None:
    error = refusal(GOOD, Vendor(2))
    assert "34750f98bd59fcfc, which this p2v does not trust" in error.message
    # Another's signature under our key's name.
    stolen = GOOD.replace(VENDOR.key.id.encode(), Vendor(2).key.id.encode())
    assert "changed after" in refusal(stolen, Vendor(2)).message


def test_a_license_for_another_tier_says_which_are_known() -> None:
    error = refusal(signed(tier="enterprise-9000"))
    assert "'enterprise-9000', which this p2v does not know (it knows: desktop-25" in error.message
    assert "Upgrade p2v" in error.hint
    assert "built in" in refusal(signed(tier="evaluation")).message


@pytest.mark.parametrize(
    "headers",
    [
        {"units": "-5"},
        {"units": "0"},
        {"units": "025"},
        {"units": "2.5"},
        {"units": "1e9"},
        {"units": "٢٥"},
        {"units": "25 "},
        {"units": "1000001"},
        {"units": "9" * 400},
        {"units": "unlimited"},
        {"units": ""},
        {"features": "batch=0"},
        {"features": "batch=25,v2p"},
        {"features": "batch=25, cluster, v2p"},
        {"features": "everything"},
        {"customer": ""},
        {"customer": " x"},
        {"customer": "x" * (CUSTOMER_LIMIT + 1)},
        {"customer": "a\x1b[31mb"},
        {"not_before": "2026-02-30"},
        {"not_before": "20260301"},
        {"not_before": "2026-W09-7"},
        {"not_before": "never"},
        {"not_after": "2026-02-28"},
        {"not_after": "tomorrow"},
        {"key": "34750F98BD59FCFC"},
        {"key": "34750f98"},
        {"sequence": "0"},
        {"sequence": "-1"},
        {"sequence": "1234567890123"},
    ],
    ids=str,
)
def test_nonsense_is_refused_even_where_it_is_signed(headers: dict[str, str]) -> None:
    refusal(signed(**headers))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\0" * 100,
        b"\xff\xfe" + "P2V-LICENSE 1".encode("utf-16-le"),
        b"-----BEGIN LICENSE FILE-----\n",
        b"x" * 10_000_000,
        GOOD.replace(b"P2V-LICENSE 1", b"P2V-LICENSE 2"),
        GOOD + GOOD,
        GOOD.replace(b"units: 25\n", b"units: 25\nunits: 25\n"),
        GOOD.replace(b"\n\n", b"\nmore: yes\n\n"),
        GOOD.replace(b"units: 25\nfeatures: batch=25\n", b"features: batch=25\nunits: 25\n"),
        GOOD[:-3] + b"=\n",
        GOOD[:-4] + b"A==\n",
        GOOD.replace(b"==\n", b"==AAAA\n"),
    ],
    ids=range(14),
)
def test_what_is_no_license_is_refused(content: bytes) -> None:
    refusal(content)


def test_only_one_spelling_of_a_signature_counts() -> None:
    # The last character before the padding has four bits that base64 does not use.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(chr(GOOD[-4]))
    other = alphabet[(last & 0x30) | ((last + 1) & 0x0F)]
    refusal(GOOD[:-4] + other.encode() + GOOD[-3:])


def test_a_thousand_mutations_are_refused_without_a_traceback() -> None:
    dice = random.Random(20260301)
    right = VENDOR.license()
    refused = 0
    for _ in range(1000):
        error = _error_of(_mutated(dice, GOOD), right)
        if error is not None:
            refused += 1
            assert error.hint
            assert error.message.isprintable()
    # The others changed nothing but blanks at the ends of lines.
    assert refused >= 950


def _error_of(content: bytes, right: License) -> LicenseError | None:
    try:
        assert read_license(content, VENDOR.trusted) == right
    except LicenseError as error:
        return error
    return None


def _mutated(dice: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        match dice.randrange(5):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at:at] = bytes([dice.randrange(256)]) * dice.randint(1, 8)
            case 2:
                del data[at : at + dice.randint(1, 8)]
            case 3:
                other = dice.randrange(len(data))
                data[at], data[other] = data[other], data[at]
            case _:
                data[at:at] = data[dice.randrange(len(data)) :][: dice.randint(1, 40)]
    return bytes(data)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_bytes_from_anywhere_are_refused(head: bytes, tail: bytes) -> None:
    for content in (head, b"P2V-LICENSE 1\n" + head, TEXT.encode() + head + b"\n" + tail):
        with pytest.raises(LicenseError):
            read_license(content, VENDOR.trusted)


@given(
    st.sampled_from([tier for tier in Tier if tier is not Tier.EVALUATION]),
    st.integers(1, UNIT_LIMIT),
    st.text(min_size=1, max_size=CUSTOMER_LIMIT).filter(
        lambda text: text.isprintable() and text == text.strip()
    ),
    st.integers(1, 10**11),
)
def test_every_license_survives_being_written_and_read(
    tier: Tier, units: int, customer: str, sequence: int
) -> None:
    license = VENDOR.license(tier, total=units, customer=customer, sequence=sequence)
    assert read_license(VENDOR.sign(license), VENDOR.trusted) == license
    assert signed_part(replace(license, total=units + 1)) != signed_part(license)


def test_the_tiers_are_those_of_the_price_list() -> None:
    table = {
        tier.value: (
            facts.units,
            facts.features.batch,
            facts.features.v2p,
            facts.features.cluster,
            facts.term,
        )
        for tier, facts in TIERS.items()
    }
    assert table == {
        "evaluation": (5, 5, True, True, None),
        "desktop-25": (25, 25, False, False, None),
        "desktop-100": (100, 100, True, False, None),
        "site": (None, None, True, True, 365),
    }


@pytest.mark.parametrize(
    ("feature", "amount", "allowed"),
    [
        (Feature.BATCH, 25, True),
        (Feature.BATCH, 26, False),
        (Feature.V2P, 1, False),
        (Feature.CLUSTER, 1, False),
    ],
)
def test_features_of_the_entry_tier(feature: Feature, amount: int, allowed: bool) -> None:
    assert TIERS[Tier.DESKTOP_25].features.allows(feature, amount) is allowed
