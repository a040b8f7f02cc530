"""The [Version] section."""

from __future__ import annotations

from datetime import date

import pytest

from drivers.inf.model import Architecture
from drivers.inf.strings import Inf, with_strings
from drivers.inf.text import InfError, parse
from drivers.inf.version import NO_DATE, Version, catalog_name, read_version

SCSI = "{4d36e97b-e325-11ce-bfc1-08002be10318}"


def inf(*entries: str, signature: str = '"$Windows NT$"') -> Inf:
    body = "\n".join(entries)
    return with_strings(parse(f"[Version]\nSignature={signature}\n{body}".encode()))


def version(*entries: str, signature: str = '"$Windows NT$"') -> Version:
    return read_version(inf(*entries, signature=signature))


@pytest.mark.parametrize("signature", ['"$WINDOWS NT$"', "$Chicago$", '"$CHICAGO$"'])
def test_signatures_of_inf_files(signature: str) -> None:
    assert version("Class=Net", signature=signature).class_name == "Net"


@pytest.mark.parametrize("signature", ["", "$Windows 95$", "autorun"])
def test_what_is_signed_otherwise_is_no_inf(signature: str) -> None:
    with pytest.raises(InfError, match="signature"):
        version("Class=Net", signature=signature)


def test_everything_that_a_registry_needs() -> None:
    seen = version(
        "Class=SCSIAdapter",
        "ClassGUID={4D36E97B-E325-11CE-BFC1-08002BE10318}",
        "Provider=Example",
        "DriverVer=09/24/2026,100.85.104.20800",
    )
    assert seen == Version(
        "SCSIAdapter", SCSI, "Example", date(2026, 9, 24), (100, 85, 104, 20800), extension=False
    )
    assert seen.storage


@pytest.mark.parametrize(
    ("entry", "when", "numbers"),
    [
        ("DriverVer=01/29/2010", date(2010, 1, 29), (0, 0, 0, 0)),
        ("DriverVer=1-2-2010,5.1", date(2010, 1, 2), (5, 1, 0, 0)),
        ("DriverVer=01/29/0100,1.2.3.4", NO_DATE, (1, 2, 3, 4)),
        ("", NO_DATE, (0, 0, 0, 0)),
    ],
)
def test_driver_versions(entry: str, when: date, numbers: tuple[int, ...]) -> None:
    seen = version("Class=Net", entry)
    assert (seen.date, seen.version) == (when, numbers)


@pytest.mark.parametrize(
    "entry",
    [
        "DriverVer=13/29/2010",
        "DriverVer=02/30/2010",
        "DriverVer=yesterday",
        "DriverVer=01/29/2010,1.2.3.70000",
        "DriverVer=01/29/2010,1.2.3.4.5",
        "DriverVer=01/29/2010,one",
        "ClassGuid={nonsense}",
    ],
)
def test_nonsense_is_refused(entry: str) -> None:
    with pytest.raises(InfError):
        version("Class=Net", entry)


def test_a_class_of_windows_needs_no_number() -> None:
    assert version("Class=hdc").class_guid == "{4d36e96a-e325-11ce-bfc1-08002be10318}"
    assert version("Class=Gadgets").class_guid == ""


@pytest.mark.parametrize("entry", ["Class=Extension", "Class=Net\nExtensionId={AA}"])
def test_extensions_are_known(entry: str) -> None:
    assert version(entry).extension


def test_the_catalogue_of_the_architecture_counts_first() -> None:
    several = inf("CatalogFile=all.cat", "CatalogFile.NTamd64=x64.cat", "CatalogFile.nt=nt.cat")
    assert catalog_name(several, Architecture.AMD64) == "x64.cat"
    assert catalog_name(several, Architecture.X86) == "nt.cat"
    assert catalog_name(inf("CatalogFile=all.cat"), Architecture.ARM64) == "all.cat"
    assert catalog_name(inf(), Architecture.AMD64) == ""
