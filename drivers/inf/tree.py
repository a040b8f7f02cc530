"""The folder of a pack: its regular files, found without case, and never anything outside of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drivers.inf.text import InfError
from p2v.errors import UsageError

ENTRY_LIMIT = 200_000
"""Files and folders of a pack; the largest collections of vendors' packs have some ten thousand."""
DEPTH_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Tree:
    """`files` maps a path in lower case to the path as the folder spells it; `strange` is what is no file.

    Both are POSIX paths below `folder`. A symbolic link is strange, whatever it points to.
    """

    folder: Path
    files: dict[str, str] = field(repr=False)
    strange: frozenset[str] = field(repr=False)

    def find(self, path: str) -> str:
        """The path as the pack spells it. Raises InfError where there is no such regular file."""
        found = self.files.get(path.lower())
        if found is not None:
            return found
        if path.lower() in self.strange:
            raise InfError(f"{path} is not a regular file")
        if path[:-1].lower() + "_" in self.files:
            raise InfError(f"{path} is there only compressed, as {path[:-1]}_; unpack it with cabextract")
        raise InfError(f"{path} is missing from the pack")

    def read(self, path: str, limit: int) -> bytes:
        """At most `limit` bytes of a file that `find` or `files` named.

        Raises InfError where it is gone, or no longer a regular file.
        """
        try:
            handle = os.open(self.folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InfError(f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InfError(f"{path} is not a regular file")
            return file.read(limit)

    def size(self, path: str) -> int:
        """Bytes. Raises InfError where the file is gone."""
        try:
            return (self.folder / path).stat(follow_symlinks=False).st_size
        except OSError as error:
            raise InfError(f"{path} cannot be read: {error.strerror}") from error


def walk(folder: Path) -> Tree:
    """Everything below a folder. Raises UsageError where it is none, or holds more than a pack can."""
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder of drivers at {folder}", hint="Give a folder or an ISO image: --drivers PATH"
        )
    files: dict[str, str] = {}
    strange: set[str] = set()
    for count, (path, regular) in enumerate(_entries(folder)):
        if count >= ENTRY_LIMIT:
            raise UsageError(
                f"{folder} holds more than {ENTRY_LIMIT} files", hint="Give the folder of the drivers alone"
            )
        if regular:
            files.setdefault(path.lower(), path)
        else:
            strange.add(path.lower())
    return Tree(folder, files, frozenset(strange))


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Paths below the folder with whether they are regular files; links are not followed."""
    waiting = [("", 0)]
    while waiting:
        below, depth = waiting.pop()
        for entry in _listed(folder / below):
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if depth >= DEPTH_LIMIT:
                    raise UsageError(f"Folders below {folder} are nested more than {DEPTH_LIMIT} deep")
                waiting.append((path, depth + 1))
            else:
                yield path, entry.is_file(follow_symlinks=False)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be read: {error.strerror}") from error


def source_path(*parts: str) -> str:
    """A path below the pack from the parts that an INF names, which use backslashes.

    Raises InfError for what leads out of it: `..`, a drive letter, another machine, a device.
    """
    names: list[str] = []
    for part in parts:
        if part.startswith("\\\\") or any(char in part for char in '/:*?"<>|') or not _printable(part):
            raise InfError(f"a path leads out of the pack: {part[:80]!r}")
        names += [name for name in part.split("\\") if name not in ("", ".")]
    if any(set(name.rstrip()) <= {"."} for name in names):
        raise InfError(f"a path leads out of the pack: {parts!r}")
    return "/".join(names)


def file_name(text: str) -> str:
    """A name without any folder. Raises InfError for anything else."""
    path = source_path(text)
    if not path or "/" in path or "\\" in text:
        raise InfError(f"no name of a file: {text[:80]!r}")
    return path


def _printable(text: str) -> bool:
    return all(char >= " " and not "\ud800" <= char <= "\udfff" for char in text)
