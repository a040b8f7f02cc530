"""Paths of a Windows guest: Windows compares names without case, the kernel that mounts its disk does not."""

from __future__ import annotations

import posixpath

from conversions.protocol import GuestFiles

NAME_LIMIT = 255
"""Bytes of a name that the kernel takes which mounts the disk (limits.h, NAME_MAX)."""


class WindowsPaths:
    """Finds files by names in any case. What was found is remembered; what was not is looked for again."""

    def __init__(self, guest: GuestFiles) -> None:
        self._guest = guest
        self._known: dict[str, str] = {"/": "/"}

    def find(self, path: str) -> str:
        """The path as the guest spells it; parts that do not exist stay as they are given.

        `path` is absolute in the guest, with `/` or `\\` between names.
        """
        folder, name = posixpath.split(posixpath.normpath("/" + path.replace("\\", "/").lstrip("/")))
        return self._find(posixpath.join(folder, name))

    def exists(self, path: str) -> bool:
        """Whether something is there; a name that no file can have is of none."""
        found = self.find(path)
        return all(map(_possible, found.split("/"))) and self._guest.exists(found)

    def _find(self, path: str) -> str:
        known = self._known.get(path.lower())
        if known is not None and (known == "/" or self._guest.exists(known)):
            return known
        folder, name = posixpath.split(path)
        parent = self._find(folder)
        found = self._listed(parent, name) if _possible(name) else ""
        if found:
            self._known[path.lower()] = found
        return found or posixpath.join(parent, name)

    def _listed(self, parent: str, name: str) -> str:
        """The name in that folder: exactly so if it is there, else the first one that differs in case."""
        exact = posixpath.join(parent, name)
        if self._guest.exists(exact):
            return exact
        pattern = "".join(_either_case(char) for char in name)
        return next(iter(self._guest.glob(posixpath.join(_escaped(parent), pattern))), "")


def _possible(name: str) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) <= NAME_LIMIT and "\0" not in name


def _either_case(char: str) -> str:
    lower, upper = char.lower(), char.upper()
    if lower == upper or len(lower) != 1 or len(upper) != 1:
        return _escaped(char)
    return f"[{lower}{upper}]"


def _escaped(text: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
