"""A guest that is a folder: `GuestFiles` without an appliance. Symbolic links resolve inside the folder."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from p2v.errors import GuestError
from p2v.model import GiB

MAX_LINKS = 20
Command = Callable[["TreeGuest", Sequence[str]], str]


def no_command(guest: TreeGuest, argv: Sequence[str]) -> str:
    raise GuestError(f"{argv[0]} is not in the guest")


class TreeGuest:
    """`commands` answer `run` by the base name of the program; rm, cp and chmod work on the tree."""

    def __init__(self, root: Path, *, free: int = GiB, **commands: Command) -> None:
        self.root = root
        self.free = free
        self.spaces: dict[str, int] = {}
        self.ran: list[tuple[str, ...]] = []
        self.commands: dict[str, Command] = {"rm": _rm, "cp": _cp, "chmod": _chmod, **commands}

    def host(self, path: str) -> Path:
        """Where a path of the guest is on the host; the last part need not exist."""
        return self.root / self._resolve(path, MAX_LINKS).lstrip("/")

    def _resolve(self, path: str, links: int) -> str:
        """Without symbolic links; a part that does not exist stays as it is, `..` never leaves the root."""
        if links == 0:
            raise GuestError(f"Too many symbolic links in {path}")
        done = "/"
        parts = [part for part in path.split("/") if part]
        for index, part in enumerate(parts):
            step = posixpath.normpath(posixpath.join(done, part))
            place = self.root / step.lstrip("/")
            if place.is_symlink():
                target = posixpath.join(done, str(place.readlink()), *parts[index + 1 :])
                return self._resolve(target, links - 1)
            done = step
        return done

    def exists(self, path: str) -> bool:
        return self.host(path).exists()

    def is_dir(self, path: str) -> bool:
        return self.host(path).is_dir()

    def size(self, path: str) -> int:
        return self._file(path).stat().st_size

    def read(self, path: str, *, limit: int = 64 * 1024 * 1024) -> bytes:
        if self.size(path) > limit:
            raise GuestError(f"{path} is too large")
        return self._file(path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        place = self.host(path)
        if not place.parent.is_dir():
            raise GuestError(f"There is no folder for {path}")
        place.write_bytes(content)

    def mkdir(self, path: str) -> None:
        self.host(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        """Of a symbolic link, the link; links among the folders are followed."""
        folder, name = posixpath.split(path)
        (self.host(folder) / name).unlink(missing_ok=True)

    def glob(self, pattern: str) -> list[str]:
        """As a shell: `*` stays within one folder, and does not match a leading dot."""
        found = ["/"]
        for part in (part for part in pattern.split("/") if part):
            found = [path for folder in found for path in self._matching(folder, part)]
        return sorted(found)

    def _matching(self, folder: str, part: str) -> list[str]:
        place = self.host(folder)
        if not place.is_dir():
            return []
        names = [name for name in os.listdir(place) if fnmatch.fnmatchcase(name, part)]  # noqa: PTH208
        return [posixpath.join(folder, name) for name in names if not name.startswith(".")]

    def sha256(self, path: str) -> str:
        place = self.host(path)
        return hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""

    def copy(self, source: str, destination: str) -> None:
        shutil.copy2(self._file(source), self.host(destination))

    def move(self, source: str, destination: str) -> None:
        self._file(source).replace(self.host(destination))

    def run(self, argv: Sequence[str]) -> str:
        self.ran.append(tuple(argv))
        return self.commands.get(posixpath.basename(argv[0]), no_command)(self, argv)

    def free_space(self, path: str) -> int:
        return self.spaces.get(path, self.free)

    def _file(self, path: str) -> Path:
        place = self.host(path)
        if not place.is_file():
            raise GuestError(f"The guest has no file {path}")
        return place


def _rm(guest: TreeGuest, argv: Sequence[str]) -> str:
    shutil.rmtree(guest.host(argv[-1]), ignore_errors=True)
    return ""


def _cp(guest: TreeGuest, argv: Sequence[str]) -> str:
    shutil.copytree(guest.host(argv[-2]), guest.host(argv[-1]), symlinks=True)
    return ""


def _chmod(guest: TreeGuest, argv: Sequence[str]) -> str:
    like = argv[-2].removeprefix("--reference=")
    mode = int(like, 8) if like == argv[-2] else guest.host(like).stat().st_mode & 0o7777
    guest.host(argv[-1]).chmod(mode)
    return ""
