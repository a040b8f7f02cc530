"""DriverDatabase of the SYSTEM hive, by which Windows 8 and later bind a device before any INF is read.

Its layout is that of a Windows 10 (19041) and of what DISM writes into an offline image: a package under its
label, the ids of its devices, and the names by which both find each other. A package that is only staged has
no Configurations and no Descriptors, and Windows does not start from it.
"""

from __future__ import annotations

import re
import struct
import uuid

from conversions.nt.identify import text_of
from conversions.nt.registry import Value, ValueType, binary, dword, multi_sz, sz
from conversions.nt.work import WindowsWork
from drivers.inf.model import Architecture, DriverPackage, InstallSection, RegistryValue
from p2v.errors import GuestError

ROOT = "DriverDatabase"
SIGNED = 0x0D000005
"""SignerScore of a driver that Windows Hardware Compatibility Publisher signed."""
NORMAL = 0x12
"""StatusFlags of a package whose devices are configured."""
SCOPE = 7
"""ConfigScope: nothing but the INF is needed to configure a device."""
MACHINES = {Architecture.X86: 0, Architecture.AMD64: 9, Architecture.ARM64: 12}
"""PROCESSOR_ARCHITECTURE_*, winnt.h."""
LABELS = {Architecture.X86: "x86", Architecture.AMD64: "amd64", Architecture.ARM64: "arm64"}
LAST_OEM = 9999
OEM = re.compile(r"oem(\d{1,4})\.inf", re.IGNORECASE)


def label_of(package: DriverPackage) -> str:
    """The name of a package: INF, architecture and sixteen hex digits, here of the INF's content."""
    return f"{package.name.lower()}_{LABELS[package.architecture]}_{package.sha256[:16]}"


def published_name(work: WindowsWork, package: DriverPackage) -> str:
    """The `oemN.inf` that this package has in the guest, or will have: the first that nobody uses."""
    known = text_of(work.system, f"{ROOT}\\DriverPackages\\{label_of(package)}", "")
    if OEM.fullmatch(known):
        return known.lower()
    taken = {name.lower() for name in work.system.keys(f"{ROOT}\\DriverInfFiles")}
    taken |= {path.rsplit("/", 1)[-1].lower() for path in work.guest.glob(work.in_windows("inf") + "/*")}
    for number in range(LAST_OEM + 1):
        name = f"oem{number}.inf"
        if name not in taken and not _marked(work, number):
            return name
    raise GuestError("The guest has no free number for a driver: oem0.inf to oem9999.inf are all used")


def write_package(work: WindowsWork, package: DriverPackage, published: str, reason: str) -> None:
    """Everything by which Windows finds the driver for its devices, and configures them."""
    label = label_of(package)
    _write_names(work, package, published, label, reason)
    _write_ids(work, package, published, reason)
    key = f"{ROOT}\\DriverPackages\\{label}"
    for value in _package_values(package, published):
        work.system.set(key, value, reason)
    for section in package.installs:
        _write_configuration(work, section, f"{key}\\Configurations\\{section.actual}", reason)
    for descriptor in package.descriptors:
        place = f"{key}\\Descriptors\\{descriptor.device_id}"
        for value in (
            sz("Configuration", descriptor.actual),
            sz("Description", descriptor.description.lower()),
            sz("Manufacturer", descriptor.manufacturer.lower()),
        ):
            work.system.set(place, value, reason)
    for token, text in _used_strings(package):
        work.system.set(f"{key}\\Strings", sz(token, text), reason)
    _mark(work, published, reason)


def version_blob(package: DriverPackage) -> bytes:
    """`Version` of a package, 48 bytes: origin, architecture, class, date, and the version backwards."""
    machine = MACHINES[package.architecture]
    head = struct.pack("<BBHI", 0x00, 0xFF, machine, 0)  # 00 ff: not Windows' own
    version = struct.pack("<4H", *reversed(package.version))
    kind = uuid.UUID(package.class_guid).bytes_le
    return head + kind + struct.pack("<Q", package.filetime) + version + bytes(8)


def _write_names(work: WindowsWork, package: DriverPackage, published: str, label: str, reason: str) -> None:
    key = f"{ROOT}\\DriverInfFiles\\{published}"
    sections = [section.actual for section in package.installs]
    for value in (multi_sz("", [label]), sz("Active", label), multi_sz("Configurations", sections)):
        work.system.set(key, value, reason)


def _write_ids(work: WindowsWork, package: DriverPackage, published: str, reason: str) -> None:
    ids = f"{ROOT}\\DeviceIds"
    nothing = Value(published, ValueType.NONE, b"")
    work.system.set(f"{ids}\\{package.class_guid.lower()}", nothing, reason)
    written: dict[str, bytes] = {}
    for descriptor in package.descriptors:
        score = package.install(descriptor.section).feature_score
        found = bytes((descriptor.kind, score & 0xFF, min(descriptor.position, 0xFF), 0))
        written[descriptor.device_id] = min(found, written.get(descriptor.device_id, found))
    for identifier, found in written.items():
        work.system.set(f"{ids}\\{identifier}", binary(published, found), reason)


def _package_values(package: DriverPackage, published: str) -> tuple[Value, ...]:
    catalog = package.catalog.rsplit("/", 1)[-1]
    return (
        sz("", published),
        binary("Version", version_blob(package)),
        sz("Provider", package.string(package.provider)),
        sz("InfName", package.name.lower()),
        *((sz("Catalog", catalog.lower()),) if catalog else ()),
        dword("SignerScore", SIGNED),
        dword("StatusFlags", NORMAL),
    )


def _write_configuration(work: WindowsWork, section: InstallSection, key: str, reason: str) -> None:
    work.system.set(key, dword("ConfigFlags", 0), reason)
    work.system.set(key, dword("ConfigScope", SCOPE), reason)
    if section.function_driver:
        work.system.set(key, sz("Service", section.function_driver.name), reason)
    if section.include:
        work.system.set(key, multi_sz("IncludedInfs", section.include), reason)
    for value in section.hardware:
        work.system.set(_below(f"{key}\\Device", value), value_of(value), reason)
    for service in section.services:
        for value in service.values:
            work.system.set(_below(f"{key}\\Services\\{service.name}", value), value_of(value), reason)


def value_of(value: RegistryValue) -> Value:
    return Value(value.name, value.type, value.data)


def _below(key: str, value: RegistryValue) -> str:
    return f"{key}\\{value.key}" if value.key else key


def _used_strings(package: DriverPackage) -> list[tuple[str, str]]:
    """The tokens that its descriptors name; the others are of no use outside of the INF."""
    texts = {text.lower() for each in package.descriptors for text in (each.description, each.manufacturer)}
    return [(token, text) for token, text in package.strings if f"%{token}%" in texts]


def _marked(work: WindowsWork, number: int) -> bool:
    bits = _oem_map(work)
    return number < 8 * len(bits) and bool(bits[number // 8] & 0x80 >> number % 8)


def _mark(work: WindowsWork, published: str, reason: str) -> None:
    """OemInfMap: one bit for each oemN.inf in use, from the highest of the first byte."""
    found = OEM.fullmatch(published)
    number = int(found[1]) if found else 0
    bits = bytearray(_oem_map(work).ljust(number // 8 + 1, b"\0"))
    bits[number // 8] |= 0x80 >> number % 8
    work.system.set(ROOT, binary("OemInfMap", bytes(bits)), reason)


def _oem_map(work: WindowsWork) -> bytes:
    value = work.system.value(ROOT, "OemInfMap")
    return value.data if value else b""
