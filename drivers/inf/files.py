"""CopyFiles: which files of a pack go where ("INF CopyFiles Directive" and what it refers to)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drivers.inf.model import Architecture, Dirid, PayloadFile, Place
from drivers.inf.strings import Inf, number
from drivers.inf.text import InfError, Line
from drivers.inf.tree import Tree, file_name, source_path

FILE_LIMIT = 2_000
"""Files that one install section may copy; graphics drivers copy some hundreds."""

_BINARY = re.compile(r"%(\d{1,5})%\\(.+)")
_SYSTEM_ROOT = ("\\systemroot\\", "%systemroot%\\", "system32\\")


def payload(
    inf: Inf, path: str, section: str, architecture: Architecture, tree: Tree
) -> tuple[PayloadFile, ...]:
    """The files that the CopyFiles directives of a section copy, each of which is in the pack.

    `path` is the INF's own below the pack. Raises InfError for a file that is missing, that lies outside of
    the pack, or that has no destination.
    """
    found: dict[Place, PayloadFile] = {}
    for count, (place, name) in enumerate(_copies(inf, section)):
        if count >= FILE_LIMIT:
            raise InfError(f"[{section}] copies more than {FILE_LIMIT} files")
        if place not in found:
            found[place] = PayloadFile(tree.find(_source(inf, path, name, architecture)), place)
    return tuple(found.values())


def binary_place(text: str) -> Place:
    """The file of a service: `%12%\\x.sys`, or a path below the system root. Raises InfError otherwise."""
    if found := _BINARY.fullmatch(text):
        return _place(int(found.group(1)), found.group(2))
    lower = text.lower()
    for prefix in _SYSTEM_ROOT:
        if lower.startswith(prefix):
            return _place(Dirid.WINDOWS, text if prefix == "system32\\" else text[len(prefix) :])
    raise InfError(f"no place for a service's file: {text[:80]!r}")


def _place(dirid: int, below: str) -> Place:
    *folders, name = source_path(below).split("/")
    return Place(dirid, "\\".join(folders), file_name(name))


def _copies(inf: Inf, section: str) -> Iterator[tuple[Place, str]]:
    """Where to, and the source's name, of every file that a section copies."""
    for item in inf.values(section, "copyfiles"):
        if item.startswith("@"):
            name = file_name(item[1:])
            yield _destination(inf, "", name), name
            continue
        for line in inf.sections.lines(item):
            yield _copy(inf, item, line)


def _copy(inf: Inf, section: str, line: Line) -> tuple[Place, str]:
    fields = inf.fields(line) if line.key is None else (inf.expand(line.key), *inf.fields(line))
    name = file_name(fields[0])
    source = file_name(fields[1]) if len(fields) > 1 and fields[1] else name
    return _destination(inf, section, name), source


def _destination(inf: Inf, section: str, name: str) -> Place:
    keys = (section, "defaultdestdir") if section else ("defaultdestdir",)
    line = next((line for key in keys for line in inf.keyed("destinationdirs", key)), None)
    if line is None:
        raise InfError(f"[DestinationDirs] says nothing of {section or name}")
    dirid, *folder = inf.fields(line)
    return Place(number(dirid), source_path(folder[0] if folder else "").replace("/", "\\"), name)


def _source(inf: Inf, path: str, name: str, architecture: Architecture) -> str:
    """The path below the pack: the INF's folder, the disk's, the file's."""
    line = _entry(inf, "sourcedisksfiles", name, architecture)
    disk, folder, *_ = (*(inf.fields(line) if line else ()), "", "")
    names = _entry(inf, "sourcedisksnames", disk, architecture) if disk else None
    root = inf.fields(names)[3] if names and len(names.fields) > 3 else ""
    base = path.rpartition("/")[0]
    below = source_path(root, folder, name)
    return f"{base}/{below}" if base else below


def _entry(inf: Inf, section: str, key: str, architecture: Architecture) -> Line | None:
    """The architecture's own section counts before the general one."""
    sections = (f"{section}.{architecture}", section)
    return next((line for each in sections for line in inf.keyed(each, key)), None)
