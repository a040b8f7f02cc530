"""The INF files of a folder, and the best of them for a device of a given Windows.

The index rests on what the INF files say, whatever their folders are called. Nothing of a pack is run, and
nothing outside of its folder is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drivers.inf.hints import closeness
from drivers.inf.model import DeviceIds, DriverPackage, Match, NoMatch, Rejected, Windows
from drivers.inf.models import every_id
from drivers.inf.package import InfFile, Resolved, resolve
from drivers.inf.ranking import choose, identifier_score, newest, rank
from drivers.inf.strings import with_strings
from drivers.inf.text import FILE_LIMIT, InfError, parse
from drivers.inf.tree import Tree, walk
from drivers.inf.version import read_version
from p2v.errors import UsageError

INF_LIMIT = 10_000
TEXT_LIMIT = 256 << 20
"""Bytes of all INF files together, which stay in memory."""
REASON_LIMIT = 10


@dataclass(frozen=True, slots=True)
class DriverIndex:
    """`rejected` are INF files that cannot be used on any Windows."""

    folder: Path
    files: tuple[InfFile, ...] = field(repr=False)
    rejected: tuple[Rejected, ...]
    tree: Tree = field(repr=False)


@dataclass(frozen=True, slots=True)
class Packages:
    """What a pack holds for one Windows: of each INF name the best; and what is for it, but unfit."""

    usable: tuple[DriverPackage, ...]
    refused: tuple[Rejected, ...]


def read_index(folder: Path) -> DriverIndex:
    """Every INF below a folder.

    Raises UsageError where the folder is none, or is larger than a pack of drivers can be.
    """
    tree = walk(folder)
    paths = sorted(path for path in tree.files.values() if path.lower().endswith(".inf"))
    if len(paths) > INF_LIMIT:
        raise UsageError(
            f"{folder} holds more than {INF_LIMIT} INF files", hint="Give the folder of the drivers alone"
        )
    read = tuple(_read_all(tree, paths))
    files = tuple(each for each in read if isinstance(each, InfFile))
    return DriverIndex(folder, files, tuple(each for each in read if isinstance(each, Rejected)), tree)


def best(index: DriverIndex, windows: Windows, ids: DeviceIds) -> Match | NoMatch:
    """The driver that a device gets on that Windows, or the reasons why there is none."""
    wanted = {each.upper() for each in (*ids.hardware, *ids.compatible)}
    near = sorted(
        (file for file in index.files if not wanted.isdisjoint(file.ids)),
        key=lambda file: closeness(file.path, windows),
    )
    matches: list[Match] = []
    reasons: list[str] = []
    for file in near:
        outcome = _match(file, windows, ids, index.tree)
        if isinstance(outcome, Match):
            matches.append(outcome)
        else:
            reasons.append(f"{file.path}: {outcome}")
    if matches:
        return choose(matches, windows)
    return NoMatch((*reasons[:REASON_LIMIT], *_general_reasons(index, ids, reasons)))


def packages(index: DriverIndex, windows: Windows) -> Packages:
    """All that the pack has for a Windows, extensions of other drivers included."""
    usable: dict[str, list[DriverPackage]] = {}
    refused: list[Rejected] = []
    for file in index.files:
        try:
            package = resolve(file, windows, index.tree).package
        except InfError as error:
            refused.append(Rejected(file.path, error.message))
        else:
            usable.setdefault(package.name.lower(), []).append(package)
    chosen = tuple(newest(group, windows) for group in usable.values())
    return Packages(chosen, tuple(refused))


def _read_all(tree: Tree, paths: list[str]) -> Iterator[InfFile | Rejected]:
    known: dict[str, InfFile | Rejected] = {}
    room = TEXT_LIMIT
    for path in paths:
        try:
            data = tree.read(path, FILE_LIMIT + 1)
        except InfError as error:
            yield Rejected(path, error.message)
            continue
        room -= len(data)
        if room < 0:
            raise UsageError(
                f"The INF files below {tree.folder} have more than {TEXT_LIMIT >> 20} MiB",
                hint="Give the folder of the drivers alone",
            )
        yield _read(path, data, known)


def _read(path: str, data: bytes, known: dict[str, InfFile | Rejected]) -> InfFile | Rejected:
    """Packs carry the same INF in many places; each content is parsed once."""
    digest = hashlib.sha256(data).hexdigest()
    if digest not in known:
        known[digest] = _parsed(path, digest, data)
    match known[digest]:
        case InfFile(_, _, inf, version, ids):
            return InfFile(path, digest, inf, version, ids)
        case Rejected(_, reason):
            return Rejected(path, reason)


def _parsed(path: str, digest: str, data: bytes) -> InfFile | Rejected:
    try:
        inf = with_strings(parse(data))
        version = read_version(inf)
        ids = every_id(inf)
    except InfError as error:
        return Rejected(path, error.message)
    if not version.class_guid and not version.extension:
        return Rejected(path, f"it names no class of devices that Windows has: {version.class_name[:40]!r}")
    return InfFile(path, digest, inf, version, ids)


def _match(file: InfFile, windows: Windows, ids: DeviceIds, tree: Tree) -> Match | str:
    """The match of one INF, or the reason why it has none."""
    if file.version.extension:
        return "it extends another driver, and drives nothing itself"
    try:
        resolved = resolve(file, windows, tree)
    except InfError as error:
        return error.message
    package = resolved.package
    scored = [
        (score, descriptor)
        for descriptor in package.descriptors
        if (score := identifier_score(ids, descriptor)) is not None
    ]
    if not scored:
        return _why_not(resolved, windows)
    score, descriptor = min(scored, key=lambda each: each[0])
    install = package.install(descriptor.section)
    device = {each.upper() for each in (*ids.hardware, *ids.compatible)}
    if not device.isdisjoint(each.upper() for each in install.excluded):
        return f"[{install.actual}] excludes the device"
    if install.function_driver is None and not install.needs:
        return f"[{install.actual}] names no service that drives the device"
    return Match(package, descriptor, install, rank(package, install, score))


def _why_not(resolved: Resolved, windows: Windows) -> str:
    """Of an INF that knows the device on some Windows, and has something for this one."""
    if resolved.broken:
        return next(iter(resolved.broken.values()))
    return f"it knows the device, but not on {windows}"


def _general_reasons(index: DriverIndex, ids: DeviceIds, reasons: list[str]) -> Iterator[str]:
    first = next(iter((*ids.hardware, *ids.compatible)), "the device")
    if not reasons:
        yield f"none of the {len(index.files)} INF files below {index.folder} knows {first}"
    if len(reasons) > REASON_LIMIT:
        yield f"and {len(reasons) - REASON_LIMIT} more INF files that know the device"
    if index.rejected:
        one = index.rejected[0]
        yield f"{len(index.rejected)} INF files cannot be read; {one.path}: {one.reason}"
