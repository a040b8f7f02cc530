"""Real mounts of test images through a loop device: only the kernel fragments a filesystem as kernels do."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.device import FileDevice
from tests.conftest import need_tools


class LiveDevice(FileDevice):
    """A disk of a machine that runs: its filesystems may be mounted."""

    live = True


class Altered(FileDevice):
    """A disk with some bytes changed as they are read."""

    def __init__(self, handle: int, size: int, *, live: bool) -> None:
        super().__init__(handle, size=size, sector_size=512, name="altered")
        self.changes: dict[int, int] = {}
        self.live = live

    def read(self, offset: int, length: int) -> bytes:
        raw = bytearray(super().read(offset, length))
        for at, value in self.changes.items():
            if offset <= at < offset + length:
                raw[at - offset] = value
        return bytes(raw)


@contextmanager
def opened_live(path: Path) -> Iterator[FileDevice]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield LiveDevice(handle, size=path.stat().st_size, sector_size=512, name=str(path))
    finally:
        os.close(handle)


def need_mounts(kind: str) -> None:
    """Fail in CI and skip elsewhere where images of this kind cannot be mounted."""
    need_tools("mount", "umount", "losetup")
    command.run([_tool("modprobe"), kind], timeout=20)
    if os.geteuid() == 0 and kind in Path("/proc/filesystems").read_text(encoding="ascii").split():
        return
    if os.environ.get("CI"):
        pytest.fail(f"cannot mount {kind} here")
    pytest.skip(f"cannot mount {kind} here")


def _tool(name: str) -> str:
    return command.need_tool(name, reason="mount test disks", package="mount kmod")


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    command.check(
        [_tool("mount"), "-o", ",".join(("loop", *options)), image, folder],
        timeout=60,
        reason="mount a test disk",
    )
    try:
        yield folder
    finally:
        command.check([_tool("umount"), folder], timeout=60, reason="unmount a test disk")


def churn(folder: Path, *, seed: int, files: int = 1200) -> dict[str, str]:
    """Writes files, deletes every second of them, writes into the holes; returns path -> SHA-256."""
    chance = random.Random(seed)
    digests = {}
    for number in range(files):
        name = f"d{number // 200}/f{number}"
        digests[name] = _write(folder / name, chance.randbytes(_size(chance, number)))
    os.sync()
    for name in list(digests)[::2]:
        (folder / name).unlink()
        del digests[name]
    for number in range(files // 20):
        name = f"again{number}"
        digests[name] = _write(folder / name, chance.randbytes(30_000))
    return digests


def _size(chance: random.Random, number: int) -> int:
    return chance.randrange(1, 1_500_000 if number % 100 == 1 else 24_000)


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def differing(folder: Path, digests: dict[str, str]) -> list[str]:
    """Names of files that are missing or differ."""
    return [
        name
        for name, digest in digests.items()
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]
