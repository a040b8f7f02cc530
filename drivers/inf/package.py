"""An INF of a pack resolved for one Windows: what applies, with every file checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from drivers.inf.install import install_section
from drivers.inf.model import (
    Architecture,
    Descriptor,
    DriverPackage,
    InstallSection,
    PayloadFile,
    Windows,
)
from drivers.inf.models import MODEL_LIMIT, Model, decorated_sections, models
from drivers.inf.pe import HEAD, Pe, parse_pe
from drivers.inf.strings import Inf
from drivers.inf.text import InfError
from drivers.inf.tree import Tree, file_name
from drivers.inf.version import Version, catalog_name

RESULT_LIMIT = 200_000
"""Registry values and files of all install sections of a package."""
BOOT_START = 0


@dataclass(frozen=True, slots=True)
class InfFile:
    """An INF of a pack as the index keeps it. `ids` are all that it knows, for any Windows, in upper case."""

    path: str
    sha256: str
    inf: Inf = field(repr=False)
    version: Version
    ids: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resolved:
    """`broken` are install sections, in lower case, that cannot be installed, with the reason."""

    package: DriverPackage
    broken: dict[str, str]


def resolve(file: InfFile, windows: Windows, tree: Tree) -> Resolved:
    """Raises InfError where the INF has nothing for that Windows, or nothing that could be installed."""
    found = _found(file.inf, windows)
    if not found.models:
        raise InfError(_why_nothing(file.inf, windows))
    catalog, no_catalog = _catalog(file, windows.architecture, tree)
    checks = _Checks(tree, windows.architecture, no_catalog)
    installs, broken = _installs(file, found.models, checks)
    if not installs:
        raise InfError(next(iter(broken.values())))
    return Resolved(_package(file, found, catalog, installs, checks), broken)


@dataclass(frozen=True, slots=True)
class _Found:
    """The Models entries of all makers that apply, and the decoration of the first of them."""

    models: tuple[Model, ...]
    decoration: str


def _package(
    file: InfFile,
    found: _Found,
    catalog: str,
    installs: dict[str, InstallSection],
    checks: _Checks,
) -> DriverPackage:
    payload = (each.source for install in installs.values() for each in install.files)
    version = file.version
    return DriverPackage(
        inf=file.path,
        sha256=file.sha256,
        encoding=file.inf.sections.encoding,
        class_name=version.class_name,
        class_guid=version.class_guid,
        provider=version.provider,
        date=version.date,
        version=version.version,
        architecture=checks.architecture,
        decoration=found.decoration,
        catalog=catalog,
        descriptors=tuple(
            _descriptor(model, installs[model.section.lower()])
            for model in found.models
            if model.section.lower() in installs
        ),
        installs=tuple(installs.values()),
        contents=tuple(dict.fromkeys(filter(None, (file.path, catalog, *payload)))),
        strings=tuple(file.inf.strings.items()),
        warnings=tuple(_warnings(file, installs.values(), checks)),
    )


def _found(inf: Inf, windows: Windows) -> _Found:
    found: list[Model] = []
    decoration = ""
    for maker, chosen in decorated_sections(inf, windows):
        if not found:
            decoration = chosen
        found += models(inf, maker, chosen)
        if len(found) > MODEL_LIMIT:
            raise InfError(f"it has more than {MODEL_LIMIT} ids")
    return _Found(tuple(found), decoration)


def _why_nothing(inf: Inf, windows: Windows) -> str:
    served = [
        each
        for each in Architecture
        if any(True for _ in decorated_sections(inf, replace(windows, architecture=each)))
    ]
    if served:
        return f"it has no driver for {windows.architecture}, only for {', '.join(served)}"
    return f"none of its [Manufacturer] sections is for {windows}"


def _installs(
    file: InfFile, found: Sequence[Model], checks: _Checks
) -> tuple[dict[str, InstallSection], dict[str, str]]:
    """Every install section that the models name, by its name in lower case, and those that fail."""
    good: dict[str, InstallSection] = {}
    broken: dict[str, str] = {}
    size = 0
    for name in dict.fromkeys(model.section for model in found):
        try:
            section = install_section(file.inf, file.path, name, checks.architecture, checks.tree)
            checks.check(section)
        except InfError as error:
            broken[name.lower()] = error.message
            continue
        size += _size(section)
        if size > RESULT_LIMIT:
            raise InfError(f"it sets and copies more than {RESULT_LIMIT} things")
        good.setdefault(name.lower(), section)
    return good, broken


def _size(section: InstallSection) -> int:
    of_services = sum(len(each.values) + len(each.events) for each in section.services)
    return 1 + len(section.files) + len(section.software) + len(section.hardware) + of_services


def _descriptor(model: Model, install: InstallSection) -> Descriptor:
    return Descriptor(
        model.device_id,
        model.kind,
        model.position,
        model.section,
        install.actual,
        model.description,
        model.maker,
    )


def _catalog(file: InfFile, architecture: Architecture, tree: Tree) -> tuple[str, str]:
    """The catalogue's path in the pack, beside the INF, or why there is none."""
    name = catalog_name(file.inf, architecture)
    if not name:
        return "", "it names no catalogue"
    folder = file.path.rpartition("/")[0]
    own = file_name(name)
    try:
        found = tree.find(f"{folder}/{own}" if folder else own)
    except InfError as error:
        return "", f"its catalogue: {error.message}"
    return (found, "") if tree.size(found) else ("", f"its catalogue {found} is empty")


@dataclass(frozen=True, slots=True)
class _Checks:
    """What the programs of a package must be; each file is looked at once."""

    tree: Tree
    architecture: Architecture
    no_catalog: str  # why none vouches for the files; empty where one does
    seen: dict[str, Pe] = field(default_factory=dict)

    def check(self, section: InstallSection) -> None:
        """Raises InfError for a driver of another architecture or without signature, or one that is not
        copied.
        """
        for file in section.files:
            if file.source.lower().endswith(".sys"):
                self._check_driver(file)
        for service in section.services:
            name = service.binary.name.lower()
            shipped = any(file.place.name.lower() == name for file in section.files)
            if not shipped and not section.needs:
                raise InfError(
                    f"the file of its service {service.name}, {service.binary.name}, is not copied"
                )

    def driver(self, path: str) -> Pe:
        if path not in self.seen:
            self.seen[path] = self._parse(path)
        return self.seen[path]

    def _check_driver(self, file: PayloadFile) -> None:
        program = self.driver(file.source)
        if program.architecture is not self.architecture:
            raise InfError(f"{file.source} is for {program.architecture}, not for {self.architecture}")
        if not program.signed and self.no_catalog:
            raise InfError(f"{file.source} is not signed, and no catalogue vouches for it: {self.no_catalog}")

    def _parse(self, path: str) -> Pe:
        try:
            return parse_pe(self.tree.read(path, HEAD), self.tree.size(path))
        except InfError as error:
            raise InfError(f"{path}: {error.message}") from error


def _warnings(file: InfFile, installs: Iterable[InstallSection], checks: _Checks) -> Iterator[str]:
    if checks.no_catalog:
        yield f"{file.path}: {checks.no_catalog}, so Windows itself would call the package unsigned"
    yield from _unsigned_boot_drivers(installs, checks)


def _unsigned_boot_drivers(installs: Iterable[InstallSection], checks: _Checks) -> Iterator[str]:
    """On x64 the boot loader reads no catalogues: "Kernel-Mode Code Signing Requirements"."""
    if checks.architecture is Architecture.X86:
        return
    boot = {
        file.source
        for install in installs
        for service in install.services
        for file in install.files
        if service.start == BOOT_START and file.place.name.lower() == service.binary.name.lower()
    }
    for path in sorted(boot):
        if not checks.driver(path).signed:
            yield (
                f"{path} carries no signature of its own; a catalogue alone may not satisfy the boot loader "
                f"of a Windows on {checks.architecture}"
            )
