"""Filesystems that are mounted and written to while a test looks at their disks: loop devices and a writer.

A filesystem that a test left frozen would hold up everything behind it, so each is thawed before it goes.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.model import Disk, MiB
from tests.conftest import need_tools
from tests.disk.mounting import need_mounts

MAKERS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
SIZE = 320 * MiB


def tool(name: str) -> str:
    return command.need_tool(
        name, reason="make test disks", package="util-linux e2fsprogs xfsprogs btrfs-progs"
    )


def run(name: str, *words: str | Path, timeout: float = 30) -> str:
    return command.check([tool(name), *words], timeout=timeout, reason="prepare a test")


@dataclass(frozen=True, slots=True)
class LoopDisk:
    """A mounted filesystem on a whole loop device."""

    kind: str
    device: str
    folder: Path
    image: Path

    @property
    def disk(self) -> Disk:
        return Disk(self.device, self.image.stat().st_size, serial=self.device)

    def is_frozen(self) -> bool:
        """Whether a write waits, tried by a child that may be left behind."""
        child = subprocess.Popen(
            [sys.executable, "-c", f"open({str(self.folder / 'probe')!r}, 'w').write('x')"]
        )
        try:
            child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            child.kill()
            return True
        return False

    def thaw(self) -> None:
        command.run([tool("fsfreeze"), "--unfreeze", self.folder], timeout=10)


@contextmanager
def loop_disk(kind: str, folder: Path, name: str = "disk") -> Iterator[LoopDisk]:
    """A fresh filesystem, mounted at `folder/name`; thawed and unmounted at the end."""
    need_mounts(kind)
    need_tools("fsfreeze", "losetup", MAKERS[kind][0])
    image, place = folder / f"{name}.img", folder / name
    with image.open("wb") as handle:
        handle.truncate(SIZE)
    run(*MAKERS[kind], image)
    place.mkdir()
    device = run("losetup", "--find", "--show", image).strip()
    try:
        run("mount", device, place)
        disk = LoopDisk(kind, device, place, image)
        try:
            yield disk
        finally:
            disk.thaw()
            unmount(place)
    finally:
        run("losetup", "--detach", device)


def unmount(place: Path) -> None:
    """A child that waited for the thaw may need a moment to end."""
    for _ in range(20):
        if command.run([tool("umount"), place], timeout=30).code == 0:
            return
        time.sleep(0.1)
    run("umount", place)


# Writes to the first file, then to the second one: nowhere does the second one know more than the first.
WRITER = """
import os, struct, sys, time
first, second, noise = sys.argv[1:]
one, other = (os.open(path, os.O_RDWR | os.O_CREAT) for path in (first, second))
count = 0
while True:
    count += 1
    os.pwrite(one, struct.pack("!Q", count), 0)
    os.pwrite(other, struct.pack("!Q", count), 0)
    if count % 200 == 0:
        with open(os.path.join(noise, "n%d" % (count // 200 % 20)), "wb") as handle:
            handle.write(os.urandom(300000))
        time.sleep(0.01)
"""


@dataclass(frozen=True, slots=True)
class Writer:
    """A program that never stops to write; `first` and `second` hold a counter each."""

    first: Path
    second: Path

    @property
    def count(self) -> int:
        return read_count(self.second)

    def goes_on(self, seconds: float = 5.0) -> bool:
        """Whether it writes something new within so much time."""
        before, deadline = self.count, time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.count > before:
                return True
            time.sleep(0.02)
        return False


def read_count(path: Path) -> int:
    content = path.read_bytes() if path.exists() else b""
    return int(struct.unpack("!Q", content)[0]) if len(content) == 8 else 0


@contextmanager
def writing(disks: Sequence[LoopDisk]) -> Iterator[Writer]:
    """A writer on the first and the last of the disks; it has written something when the block begins."""
    writer = Writer(disks[0].folder / "first", disks[-1].folder / "second")
    words = [sys.executable, "-c", WRITER, writer.first, writer.second, disks[0].folder]
    with command.start([str(word) for word in words]):
        try:
            assert writer.goes_on()
            yield writer
        finally:
            for disk in disks:
                disk.thaw()


@contextmanager
def mounted_copy(image: Path, folder: Path) -> Iterator[Path]:
    """A captured image mounted as a machine would find it at its next start, in a copy of its own."""
    copy = folder / f"{image.name}.copy"
    run("cp", "--sparse=always", image, copy)
    copy.chmod(0o600)
    place = folder / f"{image.name}.mounted"
    place.mkdir()
    run("mount", "-o", "loop", copy, place)
    try:
        yield place
    finally:
        unmount(place)
        copy.unlink()
