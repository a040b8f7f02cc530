"""What an INF pack says, as values: the index of a pack, a package for one Windows, its services and files.

Names are Microsoft's (`windows-driver-docs`, "INF file sections and directives"); registry data is as a hive
holds it, so that a writer copies and decides nothing. Every path below a pack is POSIX, relative to the pack,
and spelled as the pack spells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import IntEnum, StrEnum

from p2v.model import ProductType, WindowsSystem

FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
"""FILETIME counts 100 ns since then (minwinbase.h)."""


class Architecture(StrEnum):
    """As decorations of INF files spell it."""

    X86 = "x86"
    AMD64 = "amd64"
    ARM = "arm"
    ARM64 = "arm64"
    IA64 = "ia64"


_MACHINES = {
    "x86_64": Architecture.AMD64,
    "amd64": Architecture.AMD64,
    "i386": Architecture.X86,
    "i586": Architecture.X86,
    "i686": Architecture.X86,
    "x86": Architecture.X86,
    "aarch64": Architecture.ARM64,
    "arm64": Architecture.ARM64,
}


@dataclass(frozen=True, slots=True)
class Windows:
    """A Windows that drivers are sought for. `suites` holds VER_SUITE_* bits (winnt.h)."""

    major: int
    minor: int
    build: int
    architecture: Architecture
    product: ProductType = ProductType.WORKSTATION
    suites: int = 0

    @classmethod
    def of(cls, system: WindowsSystem, architecture: str) -> Windows | None:
        """From what a probe saw, `architecture` as `uname -m` says it; None for one that has no drivers
        here.
        """
        known = _MACHINES.get(architecture.lower())
        if known is None:
            return None
        return cls(system.major, system.minor, system.build, known, system.product_type)

    def __str__(self) -> str:
        return f"Windows {self.major}.{self.minor}.{self.build} ({self.architecture})"


@dataclass(frozen=True, slots=True)
class DeviceIds:
    """What a bus driver says about a device, the most specific first."""

    hardware: tuple[str, ...]
    compatible: tuple[str, ...] = ()


class Encoding(StrEnum):
    UTF16_LE = "utf-16-le"
    UTF16_BE = "utf-16-be"
    UTF8 = "utf-8"
    CP1252 = "cp1252"  # guessed: neither a byte order mark nor valid UTF-8


class IdKind(IntEnum):
    """Where on its Models line an id stands; the number that DriverDatabase keeps for it."""

    HARDWARE = 1
    COMPATIBLE = 2


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An id of a Models line: `section` is the install section without, `actual` with its suffix.

    `description` and `manufacturer` are the INF's own text, tokens unexpanded; see `DriverPackage.strings`.
    `position` counts within the kind: 0 for the hardware id, and for the first compatible id.
    """

    device_id: str
    kind: IdKind
    position: int
    section: str
    actual: str
    description: str
    manufacturer: str


class RegistryType(IntEnum):
    """REG_*, winnt.h. An INF may name other numbers, which are kept as they are."""

    NONE = 0
    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    MULTI_SZ = 7
    QWORD = 11


class RegistryAction(StrEnum):
    SET = "set"
    CREATE = "create"  # only where the value is not there yet
    OVERWRITE = "overwrite"  # only where it is
    APPEND = "append"  # to a REG_MULTI_SZ, where it is not in it yet
    KEY = "key"  # the key alone
    DELETE = "delete"  # the value, or the key where `name` is empty


class RegistryRoot(StrEnum):
    RELATIVE = "HKR"  # to what the section belongs to: service, software key, device key
    MACHINE = "HKLM"
    CLASSES = "HKCR"
    USER = "HKCU"
    USERS = "HKU"


@dataclass(frozen=True, slots=True)
class RegistryValue:
    """A line of an AddReg section. `data` is what a hive stores: UTF-16LE with its end, numbers little-
    endian.
    """

    root: RegistryRoot
    key: str  # below the root, "\\" between names, "" for the root itself
    name: str  # "" for the default value
    type: int
    data: bytes
    action: RegistryAction = RegistryAction.SET


class Dirid(IntEnum):
    """The directory numbers whose place on the disk is fixed ("Using Dirids")."""

    SOURCE = 1
    WINDOWS = 10
    SYSTEM = 11
    DRIVERS = 12
    DRIVER_STORE = 13
    INF = 17
    PROGRAM_FILES = 16422


@dataclass(frozen=True, slots=True)
class Place:
    """A file on the target: `directory` "" or below the dirid, "\\" between names."""

    dirid: int
    directory: str
    name: str

    @property
    def windows_path(self) -> str | None:
        """The path below %SystemRoot%, with "\\"; None where the dirid is not a fixed folder there."""
        base = _BELOW_SYSTEM_ROOT.get(self.dirid)
        if base is None:
            return None
        return "\\".join(part for part in (base, self.directory, self.name) if part)


_BELOW_SYSTEM_ROOT: dict[int, str] = {
    Dirid.WINDOWS: "",
    Dirid.SYSTEM: "System32",
    Dirid.DRIVERS: "System32\\drivers",
    # The store's folder has a name that only Windows can give; a file copied here loads as well.
    Dirid.DRIVER_STORE: "System32\\drivers",
    Dirid.INF: "INF",
}


@dataclass(frozen=True, slots=True)
class Service:
    """An AddService line with its service section. Numbers are those of CreateService (winsvc.h)."""

    name: str
    function_driver: bool  # SPSVCINST_ASSOCSERVICE
    type: int
    start: int
    error_control: int
    binary: Place
    group: str = ""
    display_name: str = ""
    description: str = ""
    dependencies: tuple[str, ...] = ()
    values: tuple[RegistryValue, ...] = ()  # relative to Services\NAME
    events: tuple[RegistryValue, ...] = ()  # relative to Services\EventLog\System\NAME


@dataclass(frozen=True, slots=True)
class PayloadFile:
    """A file to place: `source` below the pack, `place` on the target."""

    source: str
    place: Place


@dataclass(frozen=True, slots=True)
class InstallSection:
    """A DDInstall section, whole: `name` as the Models line says it, `actual` with its platform suffix.

    `software` goes below the driver's software key, `hardware` below the device's own key. `include` and
    `needs` name inbox INF files and their sections, which the first boot installs. `excluded` are ids of
    devices that the section must not drive.
    """

    name: str
    actual: str
    services: tuple[Service, ...]
    files: tuple[PayloadFile, ...]
    software: tuple[RegistryValue, ...] = ()
    hardware: tuple[RegistryValue, ...] = ()
    include: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    feature_score: int = 0xFF
    excluded: tuple[str, ...] = ()

    @property
    def function_driver(self) -> Service | None:
        return next((service for service in self.services if service.function_driver), None)


@dataclass(frozen=True, slots=True)
class DriverPackage:
    """An INF resolved for one Windows: everything that a registry writer needs.

    `descriptors` and `installs` hold what applies to that Windows; every file was checked. `catalog` is the
    catalogue's path in the pack, "" where drivers carry their signatures themselves. `contents` are the files
    of the package: INF, catalogue, payload of every section that applies. `warnings` are sentences.
    """

    inf: str  # path in the pack
    sha256: str
    encoding: Encoding
    class_name: str
    class_guid: str  # "{4d36e97b-e325-11ce-bfc1-08002be10318}", lower case
    provider: str
    date: date
    version: tuple[int, int, int, int]
    architecture: Architecture
    decoration: str  # of the Models sections, "" where undecorated
    catalog: str
    descriptors: tuple[Descriptor, ...]
    installs: tuple[InstallSection, ...]
    contents: tuple[str, ...]
    strings: tuple[tuple[str, str], ...]  # tokens in lower case
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file name of the INF."""
        return self.inf.rsplit("/", 1)[-1]

    @property
    def filetime(self) -> int:
        """The driver's date in FILETIME's 100 ns since 1601, midnight UTC as Windows stores it."""
        midnight = datetime(self.date.year, self.date.month, self.date.day, tzinfo=UTC)
        return (midnight - FILETIME_EPOCH).days * 86_400 * 10_000_000

    def install(self, name: str) -> InstallSection:
        """The install section that a descriptor names (`Descriptor.section`); KeyError for another name."""
        for section in self.installs:
            if section.name.lower() == name.lower():
                return section
        raise KeyError(name)

    def string(self, text: str) -> str:
        """`%token%` as it reads in the INF's language-neutral strings; other text unchanged."""
        if len(text) > 2 and text.startswith("%") and text.endswith("%"):
            return dict(self.strings).get(text[1:-1].lower(), text)
        return text


@dataclass(frozen=True, slots=True)
class Match:
    """The driver that a device gets. `rank` is 0xSSGGTHHH, lower is better ("How Windows Ranks Drivers")."""

    package: DriverPackage
    descriptor: Descriptor
    install: InstallSection
    rank: int


@dataclass(frozen=True, slots=True)
class NoMatch:
    """No driver, and why: `reasons` are sentences about the INF files that came near, the nearest first."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An INF that cannot be used at all, and why."""

    path: str
    reason: str
