"""The license file: what a person can read, and a signature over exactly that.

    P2V-LICENSE 1
    customer: Example Company
    tier: desktop-25
    units: 25
    features: batch=25
    not-before: 2026-03-01
    not-after: never
    key: 9f86d081884c7d65
    sequence: 17

    mQ3…88 characters of base64…==

Grammar (RFC 5234; UTF-8, at most 4096 bytes; every line ends with LF):

    file       = signed LF signature LF
    signed     = "P2V-LICENSE 1" LF "customer: " customer LF "tier: " tier LF "units: " units LF
                 "features: " features LF "not-before: " date LF "not-after: " (date / "never") LF
                 "key: " 16HEXLOW LF "sequence: " number LF
    customer   = 1*120(printable character), neither first nor last a blank
    tier       = "desktop-25" / "desktop-100" / "site"
    units      = number / "unlimited"              ; number: 1 to 1000000; unlimited needs a not-after date
    features   = "batch=" units ["," SP "v2p"] ["," SP "cluster"]
    date       = 4DIGIT "-" 2DIGIT "-" 2DIGIT      ; ISO 8601, UTC, the whole day
    number     = %x31-39 *11DIGIT                  ; no leading zero
    signature  = 86BASE64 "=="                     ; Ed25519 over the bytes of `signed`

The signed bytes begin with the format, so that no other signed thing can stand for a license. What mail and
Windows do to a text is undone before it is read: a byte order mark, CRLF, blanks at the end of a line, empty
lines around it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import date

from p2v.errors import LicenseError
from p2v.licensing.tiers import TIERS, UNIT_LIMIT, Features, License, Tier
from p2v.licensing.vendor import TrustedKeys
from p2v.log import shown

MAGIC = "P2V-LICENSE 1"
HEADERS = ("customer", "tier", "units", "features", "not-before", "not-after", "key", "sequence")

SIZE_LIMIT = 4096
SIGNATURE_SIZE = 64
SIGNATURE_CHARS = 88
CUSTOMER_LIMIT = 120

UNLIMITED = "unlimited"
NEVER = "never"

NUMBER = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
KEY = re.compile(r"[0-9a-f]{16}", re.ASCII)
FEATURES = re.compile(r"batch=([0-9a-z]+)(, v2p)?(, cluster)?", re.ASCII)

AGAIN = "Copy the file again as the vendor sent it, whole and unedited"


def signed_part(license: License) -> str:
    """The canonical text that the signature is over."""
    values = (
        license.customer,
        license.tier.value,
        _units_text(license.total),
        _features_text(license.features),
        license.not_before.isoformat(),
        license.not_after.isoformat() if license.not_after else NEVER,
        license.key,
        str(license.sequence),
    )
    lines = [f"{header}: {value}" for header, value in zip(HEADERS, values, strict=True)]
    return "\n".join([MAGIC, *lines, ""])


def render(license: License, signature: bytes) -> str:
    """The whole file."""
    return f"{signed_part(license)}\n{base64.b64encode(signature).decode()}\n"


def read_license(content: bytes, trusted: TrustedKeys) -> License:
    """What a license file gives, once its signature is right; whether it is valid today is another question.

    Raises LicenseError for what is cut short, edited, not signed by one of `trusted`, or not known here.
    """
    lines, signature = _split(_text(content))
    license = _read_headers(lines)
    key = next((key for key in trusted if key.id == license.key), None)
    if key is None:
        known = ", ".join(key.id for key in trusted) or "none"
        raise LicenseError(
            f"The license is signed with the key {license.key}, which this p2v does not trust "
            f"(it trusts: {known})",
            hint="Is the file from the vendor of p2v? A newer p2v may know the key",
        )
    if not key.signed(signed_part(license).encode(), signature):
        raise LicenseError("The license was changed after it had been signed", hint=AGAIN)
    return license


def _text(content: bytes) -> str:
    if len(content) > SIZE_LIMIT:
        raise _no_license(f"it is larger than {SIZE_LIMIT} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_license("it is not text") from error
    return "\n".join(line.rstrip(" \t\r") for line in text.split("\n")).strip("\n")


def _split(text: str) -> tuple[list[str], bytes]:
    """The lines of the signed part and the signature."""
    lines = text.split("\n")
    if lines[0] != MAGIC:
        raise _other_format(lines[0])
    if "" not in lines:
        raise _cut("its signature is missing")
    blank = lines.index("")
    if len(lines) != blank + 2:
        raise LicenseError("The license has more lines than a license has", hint=AGAIN)
    return lines[:blank], _signature(lines[-1])


def _other_format(line: str) -> LicenseError:
    if line.startswith("P2V-LICENSE "):
        return LicenseError(
            f"The license has a format unknown to this p2v: {shown(line)}", hint="Upgrade p2v"
        )
    if line and MAGIC.startswith(line):
        return _cut("it ends in its first line")
    return _no_license(f"its first line is not {MAGIC!r}")


def _signature(line: str) -> bytes:
    if len(line) < SIGNATURE_CHARS:
        raise _cut(f"its signature has {len(line)} of {SIGNATURE_CHARS} characters")
    try:
        signature = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LicenseError("The signature of the license is not base64", hint=AGAIN) from error
    # Base64 has several spellings of the same bytes; one is enough.
    if len(signature) != SIGNATURE_SIZE or base64.b64encode(signature).decode() != line:
        raise LicenseError("The signature of the license has the wrong length", hint=AGAIN)
    return signature


def _read_headers(lines: Sequence[str]) -> License:
    values = _values(lines)
    customer, tier_name, units, features, first, last, key, sequence = values
    tier = _tier(tier_name)
    license = License(
        name=f"{tier}/{sequence}",
        tier=tier,
        title=TIERS[tier].title,
        total=_units(units, "units"),
        features=_features(features),
        customer=_customer(customer),
        not_before=_date(first, "not-before"),
        not_after=None if last == NEVER else _date(last, "not-after"),
        key=_key(key),
        sequence=_number(sequence, "sequence"),
    )
    check_sense(license)
    return license


def _values(lines: Sequence[str]) -> list[str]:
    """The values of the headers, all there and in their order."""
    values = []
    for number, header in enumerate(HEADERS, start=1):
        if number >= len(lines):
            raise _cut(f"{header!r} is missing")
        name, colon, value = lines[number].partition(": ")
        if not colon or name != header:
            raise _bad(header, f"{shown(lines[number])!r} stands in its place")
        values.append(value)
    if len(lines) > len(HEADERS) + 1:
        raise _bad(lines[len(HEADERS) + 1], "a license has no such line")
    return values


def check_sense(license: License) -> None:
    """What no single line shows. Raises LicenseError."""
    if license.tier is Tier.EVALUATION:
        raise _bad("tier", "the evaluation is built in and needs no file")
    if license.total is None and license.not_after is None:
        raise _bad("units", "an unlimited license needs a last day")
    if license.last_day < license.not_before:
        raise _bad("not-after", f"{license.not_after} is before {license.not_before}")


def _tier(value: str) -> Tier:
    if value not in TIERS:
        known = ", ".join(tier for tier in TIERS if tier is not Tier.EVALUATION)
        raise LicenseError(
            f"The license is for the tier {shown(value)!r}, which this p2v does not know (it knows: {known})",
            hint="Upgrade p2v, or ask the vendor for a license of one of these tiers",
        )
    return Tier(value)


def _units(value: str, header: str) -> int | None:
    if value == UNLIMITED:
        return None
    number = int(value) if NUMBER.fullmatch(value) else 0
    if not 1 <= number <= UNIT_LIMIT:
        raise _bad(header, f"{shown(value)!r} is not a number from 1 to {UNIT_LIMIT}, nor {UNLIMITED!r}")
    return number


def _number(value: str, header: str) -> int:
    if not NUMBER.fullmatch(value):
        raise _bad(header, f"{shown(value)!r} is not a number from 1 on")
    return int(value)


def _features(value: str) -> Features:
    match = FEATURES.fullmatch(value)
    if match is None:
        raise _bad("features", f"{shown(value)!r} is not like 'batch=25, v2p, cluster'")
    return Features(_units(match[1], "features"), v2p=bool(match[2]), cluster=bool(match[3]))


def _customer(value: str) -> str:
    if not 1 <= len(value) <= CUSTOMER_LIMIT or not value.isprintable() or value != value.strip():
        raise _bad("customer", f"a name has 1 to {CUSTOMER_LIMIT} printable characters")
    return value


def _date(value: str, header: str) -> date:
    try:
        if DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise _bad(header, f"{shown(value)!r} is not a day like 2026-03-01")


def _key(value: str) -> str:
    if not KEY.fullmatch(value):
        raise _bad("key", f"{shown(value)!r} is not 16 hexadecimal digits")
    return value


def _units_text(units: int | None) -> str:
    return UNLIMITED if units is None else str(units)


def _features_text(features: Features) -> str:
    words = [f"batch={_units_text(features.batch)}"]
    words += ["v2p"] if features.v2p else []
    words += ["cluster"] if features.cluster else []
    return ", ".join(words)


def _no_license(why: str) -> LicenseError:
    return LicenseError(f"The file is no p2v license: {why}", hint="Give the file that the vendor sent")


def _cut(where: str) -> LicenseError:
    return LicenseError(f"The license is cut short: {where}", hint=AGAIN)


def _bad(header: str, why: str) -> LicenseError:
    return LicenseError(f"The license is not right in {shown(header)!r}: {why}", hint=AGAIN)
