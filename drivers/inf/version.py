"""The [Version] section: what an INF file is, who made it, when, and which catalogue vouches for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from drivers.inf.model import Architecture
from drivers.inf.strings import Inf
from drivers.inf.text import InfError

SIGNATURES = ("$windows nt$", "$chicago$")
"""Anything else is not accepted as an INF ("INF Version Section")."""

NO_DATE = date(1601, 1, 1)
"""Of a driver without DriverVer: FILETIME 0, older than any other."""

CLASSES = {
    "scsiadapter": "{4d36e97b-e325-11ce-bfc1-08002be10318}",
    "hdc": "{4d36e96a-e325-11ce-bfc1-08002be10318}",
    "system": "{4d36e97d-e325-11ce-bfc1-08002be10318}",
    "net": "{4d36e972-e325-11ce-bfc1-08002be10318}",
    "diskdrive": "{4d36e967-e325-11ce-bfc1-08002be10318}",
    "display": "{4d36e968-e325-11ce-bfc1-08002be10318}",
    "usb": "{36fc9e60-c465-11cf-8056-444553540000}",
    "mouse": "{4d36e96f-e325-11ce-bfc1-08002be10318}",
    "keyboard": "{4d36e96b-e325-11ce-bfc1-08002be10318}",
    "hidclass": "{745a17a0-74d3-11d0-b6fe-00a0c90f57da}",
}
"""devguid.h, for the INF files that name a class and leave its number out."""

STORAGE_CLASSES = frozenset((CLASSES["scsiadapter"], CLASSES["hdc"]))

_GUID = re.compile(r"\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}")
_DATE = re.compile(r"(\d{1,2})[/-](\d{1,2})[/-](\d{4})")
_VERSION = re.compile(r"\d{1,5}(?:\.\d{1,5}){0,3}")


@dataclass(frozen=True, slots=True)
class Version:
    """`class_guid` is empty where the INF names a class that is not of Windows' own, and no number for it."""

    class_name: str
    class_guid: str
    provider: str
    date: date
    version: tuple[int, int, int, int]
    extension: bool  # adds to another driver, and drives nothing itself

    @property
    def storage(self) -> bool:
        return self.class_guid in STORAGE_CLASSES


def read_version(inf: Inf) -> Version:
    """Raises InfError where the section is missing, or says what cannot be."""
    signature = inf.value("version", "signature").lower()
    if signature not in SIGNATURES:
        raise InfError(f"its signature is {signature[:40]!r}, so it is no INF of a driver")
    name = inf.value("version", "class")
    when, version = _driver_version(inf.values("version", "driverver"))
    return Version(
        name,
        _class_guid(inf.value("version", "classguid"), name),
        inf.value("version", "provider"),
        when,
        version,
        extension=bool(inf.value("version", "extensionid")) or name.lower() == "extension",
    )


def catalog_name(inf: Inf, architecture: Architecture) -> str:
    """The file name of the catalogue for an architecture, empty where there is none."""
    keys = (f"catalogfile.nt{architecture}", "catalogfile.nt", "catalogfile")
    return next((name for key in keys if (name := inf.value("version", key))), "")


def _class_guid(guid: str, name: str) -> str:
    if not guid:
        return CLASSES.get(name.lower(), "")
    lower = guid.lower()
    if not _GUID.fullmatch(lower):
        raise InfError(f"its ClassGuid is no GUID: {guid[:60]!r}")
    return lower


def _driver_version(fields: tuple[str, ...]) -> tuple[date, tuple[int, int, int, int]]:
    """`mm/dd/yyyy[,w.x.y.z]`; Windows takes an entry without a version for 0.0.0.0."""
    if not fields:
        return NO_DATE, (0, 0, 0, 0)
    return _date(fields[0]), _numbers(fields[1]) if len(fields) > 1 else (0, 0, 0, 0)


def _date(text: str) -> date:
    found = _DATE.fullmatch(text)
    if not found:
        raise InfError(f"its DriverVer is no date: {text[:40]!r}")
    month, day, year = map(int, found.groups())
    try:
        return max(date(year, month, day), NO_DATE)
    except ValueError as error:
        raise InfError(f"its DriverVer is no date: {text[:40]!r}") from error


def _numbers(text: str) -> tuple[int, int, int, int]:
    if not _VERSION.fullmatch(text):
        raise InfError(f"its DriverVer has no version: {text[:40]!r}")
    first, second, third, fourth, *_ = [*map(int, text.split(".")), 0, 0, 0]
    if max(first, second, third, fourth) > 0xFFFF:
        raise InfError(f"its DriverVer has a number beyond 65535: {text!r}")
    return first, second, third, fourth
