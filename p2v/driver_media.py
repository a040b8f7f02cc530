"""Drivers that a user brings: a folder, or an ISO image that is unpacked for as long as they are read.

An image is somebody else's: what is neither file nor folder is dropped before anything is written, names
that no Windows pack has are refused, and its size is known before it is unpacked.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.errors import TargetError, UsageError

SIGNATURE = b"CD001"
SIGNATURE_OFFSET = 16 * 2048 + 1
"""ECMA-119, 8.1: the first volume descriptor is in sector 16, its identifier behind the type byte."""

SIZE_LIMIT = 8 << 30
"""Bytes unpacked. virtio-win's image has 0.7 GiB."""
ENTRY_LIMIT = 200_000
LIST_SECONDS = 120.0
UNPACK_SECONDS = 900.0

OTHER_TYPES = ("link", "pipe", "char", "block", "socket")
"""Of -find's -type, xorriso(1): everything that is neither file nor folder."""

_ENTRY = re.compile(r"([-dlpcbs])\S+ +\d+ +\d+ +\d+ +(?:(\d+)|\d+,\d+) .{12} ('.*')")
_QUOTE = "'\"'\"'"


@dataclass(frozen=True, slots=True)
class Content:
    """What an image holds: regular files and folders, and the bytes of the files."""

    entries: int
    size: int


@contextlib.contextmanager
def opened(media: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """The folder of the drivers at `media`, a folder or an ISO image; an image is unpacked below `scratch`.

    Raises UsageError for what is neither, TargetError where xorriso or disk space is missing, or where the
    image is damaged or hostile.
    """
    if media.is_dir():
        yield media
        return
    _check_image(media)
    with tempfile.TemporaryDirectory(prefix="p2v-drivers-", dir=scratch) as folder:
        yield _unpacked(media, Path(folder))


def _check_image(media: Path) -> None:
    hint = "Give a folder or an ISO image: --drivers PATH"
    if not media.is_file():
        raise UsageError(f"There is no folder and no file at {media}", hint=hint)
    with media.open("rb") as file:
        file.seek(SIGNATURE_OFFSET)
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise UsageError(f"{media} is neither a folder nor an ISO image", hint=hint)


def _unpacked(media: Path, folder: Path) -> Path:
    xorriso = command.need_tool("xorriso", reason=f"unpack {media.name}", package="xorriso")
    # A path that begins with a dash would be an option, and one with a colon a drive.
    reading = [
        xorriso,
        "-abort_on",
        "FAILURE",
        "-report_about",
        "SORRY",
        "-indev",
        f"stdio:{media.resolve()}",
    ]
    listing = command.check(
        [*reading, "-find", "/", "-exec", "lsdl", "--"], timeout=LIST_SECONDS, reason=f"list {media}"
    )
    content = parse_listing(listing)
    _check_space(media, content, folder)
    drop = [word for kind in OTHER_TYPES for word in ("-find", "/", "-type", kind, "-exec", "rm", "--")]
    unpack = ["-chmod_r", "0700", "/", "--", "-osirrox", "on:auto_chmod_on", "-extract", "/"]
    target = folder / "drivers"
    command.check(
        [*reading, *drop, *unpack, str(target), "-rollback_end"],
        timeout=UNPACK_SECONDS,
        reason=f"unpack {media}",
    )
    return target


def parse_listing(listing: str) -> Content:
    """What `lsdl` of xorriso shows. Raises TargetError for names and amounts that a pack does not have."""
    entries = size = 0
    for line in listing.rstrip("\n").split("\n"):
        found = _ENTRY.match(line)
        if found is None:
            raise TargetError(f"The image holds a name that no pack of drivers has, near {line[:80]!r}")
        kind, length, name = found.groups()
        if kind in "-d":
            _check_name(name[1:-1].replace(_QUOTE, "'"))
        entries += 1
        size += int(length or 0) if kind == "-" else 0
    if entries > ENTRY_LIMIT or size > SIZE_LIMIT:
        raise TargetError(
            f"The image holds {entries} files of {size >> 20} MiB, which no pack of drivers has",
            hint="Unpack what is needed of it, and give that folder: --drivers PATH",
        )
    return Content(entries, size)


def _check_name(path: str) -> None:
    names = path.split("/")
    if ".." in names or not path.isprintable() or "\\" in path:
        raise TargetError(f"The image holds a name that no pack of drivers has: {path[:80]!r}")


def _check_space(media: Path, content: Content, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if content.size > free:
        raise TargetError(
            f"{media} needs {content.size >> 20} MiB below {folder.parent}, where {free >> 20} MiB are free",
            hint="Set TMPDIR to a folder with more room",
        )
