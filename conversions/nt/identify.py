"""Which Windows is on a disk, by its registry and the machine type of one of its programs.

Every value is hostile: what is not text, or no number, counts as missing.
"""

from __future__ import annotations

import re
import struct

from conversions.nt.registry import Hive, Readable
from p2v.errors import GuestError
from p2v.model import OperatingSystem, ProductType, WindowsSystem

FAMILY = "windows"
SELECT = "Select"
VERSION_KEY = r"Microsoft\Windows NT\CurrentVersion"
TEXT_LIMIT = 200
PE_MACHINES = {0x014C: "i686", 0x8664: "x86_64", 0xAA64: "aarch64", 0x01C4: "armv7l", 0x0200: "ia64"}
"""`Machine` of a COFF header (Microsoft's PE format), and what uname calls it."""
NAMED_ARCHITECTURES = {"x86": "i686", "amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "ia64": "ia64"}
"""PROCESSOR_ARCHITECTURE of the system's environment."""
FIRST_BUILD_OF_11 = 22000
"""Windows 11 still calls itself `Windows 10` in ProductName."""
PRODUCTS = {
    "winnt": ProductType.WORKSTATION,
    "lanmannt": ProductType.DOMAIN_CONTROLLER,
    "servernt": ProductType.SERVER,
}


def text_of(hive: Readable, key: str, name: str) -> str:
    """A string, printable and bounded; empty where there is none."""
    return next(iter(texts_of(hive, key, name)), "")


def texts_of(hive: Readable, key: str, name: str) -> tuple[str, ...]:
    """A list of strings, each printable and bounded; none where the value is no text."""
    value = hive.value(key, name)
    try:
        texts = value.texts() if value else ()
    except (GuestError, UnicodeDecodeError):
        return ()
    return tuple("".join(char for char in text if char.isprintable())[:TEXT_LIMIT].strip() for text in texts)


def number_of(hive: Readable, key: str, name: str) -> int | None:
    """A DWORD or a QWORD; None where there is none."""
    value = hive.value(key, name)
    try:
        return value.number() if value else None
    except GuestError:
        return None


def control_set(system: Readable) -> str:
    """The control set that booted last, `ControlSet001`. Raises GuestError where the hive has none."""
    wanted = [number_of(system, SELECT, name) for name in ("Current", "Default")]
    names = [f"ControlSet{number:03d}" for number in wanted if number is not None and number < 1000]
    for name in (*names, *(key for key in system.keys("") if re.fullmatch(r"(?i)ControlSet\d{3}", key))):
        if system.has(rf"{name}\Services"):
            return name
    raise GuestError(
        "The SYSTEM hive of this Windows has no control set: it is damaged",
        hint="Repair Windows on the source, or restore the hive from a backup, then capture again",
    )


def identify(system: Hive, software: Hive, *, root: str, program: bytes) -> OperatingSystem:
    """The system whose folder is `root`, such as `/Windows`; `program` is the start of a program of its.

    Raises GuestError where the registry does not say which version it is.
    """
    current = control_set(system)
    major, minor, build = _version(software)
    product = text_of(system, rf"{current}\Control\ProductOptions", "ProductType").lower()
    windows = WindowsSystem(
        major,
        minor,
        build,
        PRODUCTS.get(product, ProductType.WORKSTATION),
        text_of(software, VERSION_KEY, "EditionID"),
        root,
    )
    return OperatingSystem(
        id="windows",
        version=f"{major}.{minor}.{build}",
        name=_name(software, windows),
        family=FAMILY,
        architecture=_architecture(system, current, program),
        machine_id=_machine_id(software),
        windows=windows,
    )


def _version(software: Hive) -> tuple[int, int, int]:
    major = number_of(software, VERSION_KEY, "CurrentMajorVersionNumber")
    minor = number_of(software, VERSION_KEY, "CurrentMinorVersionNumber")
    if major is None or minor is None:
        found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text_of(software, VERSION_KEY, "CurrentVersion"))
        if not found:
            raise GuestError("The SOFTWARE hive of this Windows does not say which version it is")
        major, minor = int(found[1]), int(found[2])
    build = next(
        (
            text
            for name in ("CurrentBuildNumber", "CurrentBuild")
            if re.fullmatch(r"\d{1,6}", text := text_of(software, VERSION_KEY, name))
        ),
        "0",
    )
    return major, minor, int(build)


def _name(software: Hive, windows: WindowsSystem) -> str:
    name = text_of(software, VERSION_KEY, "ProductName") or f"Windows {windows.major}.{windows.minor}"
    name = re.sub(r"^Microsoft\s+", "", name)
    if windows.build >= FIRST_BUILD_OF_11 and windows.product_type is ProductType.WORKSTATION:
        return name.replace("Windows 10", "Windows 11")
    return name


def pe_machine(program: bytes) -> str:
    """The architecture of a program by its start, as uname names it; empty for what is no PE file."""
    if program[:2] != b"MZ" or len(program) < 64:
        return ""
    # 60: offset of the PE signature, behind which the COFF header begins with its machine type.
    at = struct.unpack_from("<I", program, 60)[0]
    if program[at : at + 4] != b"PE\0\0" or at + 6 > len(program):
        return ""
    return PE_MACHINES.get(struct.unpack_from("<H", program, at + 4)[0], "unknown")


def _architecture(system: Hive, current: str, program: bytes) -> str:
    environment = rf"{current}\Control\Session Manager\Environment"
    named = NAMED_ARCHITECTURES.get(text_of(system, environment, "PROCESSOR_ARCHITECTURE").lower(), "")
    return pe_machine(program) or named or "unknown"


def _machine_id(software: Hive) -> str:
    """MachineGuid as a machine-id is written: setup makes a new one for each installation."""
    plain = text_of(software, r"Microsoft\Cryptography", "MachineGuid").replace("-", "").lower()
    return plain if re.fullmatch(r"[0-9a-f]{32}", plain) else ""


def host_name(system: Hive) -> str:
    """The name of the machine, as TCP/IP spells it, else NetBIOS; empty where it has none."""
    current = control_set(system)
    places = (
        (rf"{current}\Services\Tcpip\Parameters", "NV Hostname"),
        (rf"{current}\Services\Tcpip\Parameters", "Hostname"),
        (rf"{current}\Control\ComputerName\ComputerName", "ComputerName"),
    )
    return next((name for place in places if (name := text_of(system, *place))), "")
