"""The disks of the bench: 4 GiB about 20 % full with real files of this machine, and 2 TiB with the same."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from p2v import command
from p2v.model import BLOCK_SIZE, GiB, MiB

SMALL_SIZE = 4 * GiB
LARGE_SIZE = 2048 * GiB
CONTENT = 680 * MiB
SOURCES = ("/usr/bin", "/usr/share", "/usr/lib")
LARGEST_FILE = 64 * MiB


def gather(folder: Path, *, wanted: int = CONTENT) -> int:
    """Copy real files until there are `wanted` bytes of them; a third from each source. Returns bytes."""
    total = 0
    for number, source in enumerate(SOURCES, 1):
        for path in sorted(Path(source).rglob("*")):
            if total >= wanted * number // len(SOURCES):
                break
            if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_FILE:
                continue
            target = folder / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            total += path.stat().st_size
    return total


def build(path: Path, size: int, content: Path) -> Path:
    """A sparse file with ext4 on all of it, made with the defaults of mkfs.ext4, filled from a folder."""
    with path.open("wb") as handle:
        handle.truncate(size)
    program = command.need_tool("mkfs.ext4", reason="build disks", package="e2fsprogs")
    command.check([program, "-q", "-F", "-d", content, path], timeout=300, reason="build a disk")
    return path


def fill_holes(path: Path) -> Path:
    """Zeros in place of holes: a disk has none, and a copier that skips those of a file would look fast."""
    full = path.with_name(path.name + ".full")
    with path.open("rb") as source, full.open("wb") as target:
        while piece := source.read(BLOCK_SIZE):
            target.write(piece)
    full.replace(path)
    return path


def warm(path: Path) -> None:
    """Have the image in the page cache, so that no side pays for the disk of this machine; holes are not
    read, for they would be data there; nor are they by the kernel, ahead of what is asked for.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        end = os.fstat(handle).st_size
        at = 0
        while (start := next_data(handle, at)) is not None:
            at = os.lseek(handle, start, os.SEEK_HOLE)
            for offset in range(start, at, BLOCK_SIZE):
                os.pread(handle, min(BLOCK_SIZE, at - offset), offset)
            if at >= end:
                return
    finally:
        os.close(handle)


def next_data(handle: int, offset: int) -> int | None:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError:
        return None  # nothing but a hole from here on


def change(path: Path, extents: list[tuple[int, int]], *, share: float, seed: int = 1) -> int:
    """Overwrite a share of the 4 MiB blocks that are in use; returns the bytes that were overwritten.

    `extents` are (start, length) in bytes of what is in use.
    """
    whole = [
        block * BLOCK_SIZE
        for start, length in extents
        for block in range(-(-start // BLOCK_SIZE), (start + length) // BLOCK_SIZE)
    ]
    chance = random.Random(seed)
    picked = chance.sample(whole[4:], max(1, round(len(whole) * share)))
    with path.open("r+b") as handle:
        for offset in picked:
            handle.seek(offset)
            handle.write(chance.randbytes(BLOCK_SIZE))
        os.fsync(handle.fileno())
    return len(picked) * BLOCK_SIZE
