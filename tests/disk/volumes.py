"""What the map tests of foreign filesystems share: FUSE mounts, partclone as an oracle, copies, mutations."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.device import BlockDevice, PlainReads
from p2v.disk.maps import used_map
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map
from p2v.errors import TransportError
from p2v.model import Extent
from tests.conftest import need_tools
from tests.disk.images import disk_of, opened

PACKAGE = "ntfs-3g dosfstools exfatprogs exfat-fuse mtools partclone sleuthkit lvm2 mdadm"


def run(*argv: str | Path) -> str:
    """Standard output; a failure fails the test."""
    name, *rest = argv
    found = command.need_tool(str(name), reason="make test disks", package=PACKAGE)
    return command.check([found, *rest], timeout=60, reason="make a test disk")


def code(*argv: str | Path) -> int:
    name, *rest = argv
    found = command.need_tool(str(name), reason="check test disks", package=PACKAGE)
    return command.run([found, *rest], timeout=60).code


def need_fuse() -> None:
    need_tools("losetup", "umount")
    if os.geteuid() == 0 and Path("/dev/fuse").exists():
        return
    if os.environ.get("CI"):
        pytest.fail("FUSE mounts need root and /dev/fuse")
    pytest.skip("FUSE mounts need root and /dev/fuse")


@contextmanager
def attached(image: Path, *options: str) -> Iterator[str]:
    """A loop device of the image."""
    loop = run("losetup", "--find", "--show", *options, image).strip()
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)


@contextmanager
def fuse_mounted(program: str, image: Path, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    with attached(image) as loop:
        run(program, "-o", ",".join(("noatime", *options)), loop, folder)
        try:
            yield folder
        finally:
            run("umount", folder)


@cache
def untouched_used(program: str, image: Path) -> list[Extent]:
    """`partclone_used` of an image that no test changes."""
    return partclone_used(program, image)


def partclone_used(program: str, image: Path) -> list[Extent]:
    """What partclone would copy."""
    domain = image.with_name("domain.log")
    domain.unlink(missing_ok=True)
    run(program, "-D", "-s", image, "-o", domain, "-L", image.with_name("partclone.log"))
    found = re.findall(r"^(0x[0-9A-F]+)  (0x[0-9A-F]+)  \+$", domain.read_text(), re.M)
    assert found
    return [Extent(int(start, 16), int(length, 16)) for start, length in found]


def sleuthkit_used(kind: str, image: Path) -> list[Extent]:
    """Sectors that The Sleuth Kit calls allocated, on a filesystem that it counts in sectors."""
    lines = run("blkls", "-el", "-f", kind, image).splitlines()
    return [Extent(int(line.split("|")[0]) * 512, 512) for line in lines if line.split("|")[1:2] == ["a"]]


def pages(extents: Sequence[Extent], size: int, page: int = 512) -> bytearray:
    """One byte for each page that is touched."""
    result = bytearray(-(-size // page))
    for extent in extents:
        first, end = extent.start // page, min(-(-extent.end // page), len(result))
        result[first:end] = b"\1" * (end - first)
    return result


def outside(inner: Sequence[Extent], outer: Sequence[Extent], size: int) -> int:
    """Bytes of `inner` that are not in `outer`."""
    # Subtraction of the two as numbers is far faster than a loop over half a million pages.
    one, other = (int.from_bytes(pages(extents, size), "little") for extents in (inner, outer))
    return (one & ~other).bit_count() * 512


def copied(image: Path, folder: Path) -> tuple[Path, int]:
    """A copy of nothing but what the disk map says, and how many bytes that is. No warning may be given."""
    files = ImageFiles(folder / "copy.raw", folder / "copy.digest")
    with opened(image) as device:
        used = disk_map(device, disk_of(image))
        assert not used.warnings
        captured = capture_disk(device, used.extents, files, progress=lambda _: None)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    return files.partial_image, used.data_size


def warning_of(image: Path) -> str:
    """The warning with which all of the image is copied."""
    with opened(image) as device:
        found = used_map(device, 0, device.size, identify(device, 0, device.size), name="sda1")
        assert found.extents == (Extent(0, device.size),)
    return found.warnings[0]


def poke(image: Path, offset: int, content: bytes) -> None:
    with image.open("r+b") as handle:
        handle.seek(offset)
        handle.write(content)


def peek(image: Path, offset: int, length: int) -> bytes:
    with image.open("rb") as handle:
        handle.seek(offset)
        return handle.read(length)


class Patched(PlainReads):
    """A device with some bytes replaced, `shift` bytes further in; it counts what is read."""

    def __init__(self, base: BlockDevice, *, shift: int = 0, live: bool = False) -> None:
        self._base = base
        self._shift = shift
        self.live = live
        self.patches: list[tuple[int, bytes]] = []
        self.reads: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return self._base.size + self._shift

    @property
    def sector_size(self) -> int:
        return 512

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        if offset < self._shift:
            raise TransportError("outside")
        data = bytearray(self._base.read(offset - self._shift, length))
        for at, patch in self.patches:
            first, end = max(at, offset), min(at + len(patch), offset + length)
            if first < end:
                data[first - offset : end - offset] = patch[first - at : end - at]
        return bytes(data)


MapReader = Callable[[BlockDevice, int, int], list[Extent]]
Repair = Callable[[Patched], None]
START = 1 << 20


def survive(
    image: Path,
    reader: MapReader,
    regions: Sequence[tuple[int, int]],
    *,
    rounds: int = 1000,
    seconds: float = 14,
    repair: Repair | None = None,
) -> tuple[int, int]:
    """Mutate the regions: extents within the partition, MapUnknown or TransportError, in bounded time.

    `repair` makes checksums right again, so that what is behind them is reached. Returns how many mutations
    gave a map and how many were refused.
    """
    chance = random.Random(5)
    started = time.monotonic()
    mapped = refused = 0
    with opened(image) as base:
        for number in range(rounds):
            device = Patched(base, shift=START, live=number % 3 == 0)
            changes = [mutation(chance, regions) for _ in range(chance.choice((1, 1, 2, 6)))]
            device.patches = [(START + at, patch) for at, patch in changes]
            if repair is not None and number % 8:
                repair(device)
            try:
                found = reader(device, START, base.size)
            except (MapUnknown, TransportError):
                refused += 1
                continue
            mapped += 1
            assert all(START <= part.start < part.end <= START + base.size for part in found)
            assert len(device.reads) < 20_000
    assert time.monotonic() - started < seconds
    assert mapped
    assert refused
    return mapped, refused


def mutation(chance: random.Random, regions: Sequence[tuple[int, int]]) -> tuple[int, bytes]:
    """Where in one of the regions (start, length) something changes, and what stands there then."""
    start, length = chance.choice(regions)
    value = chance.choice(
        (
            chance.randbytes(chance.randrange(1, 9)),
            b"\xff" * chance.choice((1, 2, 4, 8)),
            bytes(chance.choice((1, 2, 4, 8))),
            bytes([chance.choice((1, 0x7F, 0x80, 0xFE))]),
        )
    )
    return start + chance.randrange(length), value
