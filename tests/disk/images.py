"""Small disks made by the tools of their own filesystems, and the disk map that ties them together."""

from __future__ import annotations

import hashlib
import random
from contextlib import AbstractContextManager
from pathlib import Path

from p2v import command
from p2v.disk.device import FileDevice, open_file_device
from p2v.model import Disk, MiB


def tool(*argv: str | Path) -> str:
    name, *rest = argv
    found = command.need_tool(str(name), reason="make test disks", package="e2fsprogs fdisk")
    return command.check([found, *rest], timeout=120, reason="make a test disk")


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as handle:
        handle.truncate(size)
    return path


def opened(path: Path, sector_size: int = 512) -> AbstractContextManager[FileDevice]:
    return open_file_device(path, sector_size=sector_size)


def disk_of(path: Path) -> Disk:
    return Disk(path=str(path), size=path.stat().st_size)


def fill_folder(folder: Path, *, seed: int, files: int = 60, largest: int = 2 * MiB) -> dict[str, str]:
    """Files of random sizes and content; returns name -> SHA-256."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for number in range(files):
        content = chance.randbytes(chance.randrange(1, largest if number % 7 == 0 else 40_000))
        (folder / f"file{number:03d}").write_bytes(content)
        digests[f"file{number:03d}"] = hashlib.sha256(content).hexdigest()
    return digests


def partitioned(path: Path, script: str, size: int) -> Path:
    """A disk with the partition table that an sfdisk script describes."""
    sparse(path, size)
    found = command.need_tool("sfdisk", reason="make test disks", package="fdisk")
    command.check([found, "-q", path], timeout=30, reason="write a table", input_text=script)
    return path
