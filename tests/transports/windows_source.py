"""A source that answers like a Windows behind a real sshd: one disk with an NTFS volume and a FAT one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from p2v import command
from p2v.model import MiB
from tests.conftest import need_tools
from tests.sshd import Sshd, private_sshd

INVENTORIES = Path(__file__).parents[2] / "fixtures/windows/inventories"
EMULATOR = Path(__file__).with_name("fake_windows.py")
MICROSOFT = "VersionAddendum OpenSSH_for_Windows_9.5"
SYSTEM = "\\\\?\\Volume{1e178d94-4f79-41e9-865d-2e5b4328cd23}\\"
BOOT = "\\\\?\\Volume{6d3f34b7-9a2f-4f0c-8f6e-51fdf9a0c0c1}\\"
DISK = "\\\\.\\PhysicalDrive0"
FAT_START, FAT_SIZE = 1 * MiB, 4 * MiB
NTFS_START, NTFS_SIZE = 8 * MiB, 40 * MiB
DISK_SIZE = 64 * MiB


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INVENTORIES / f"{name}.json").read_text())
    return found


def run(*words: str | Path) -> str:
    return command.check(words, timeout=60, reason="prepare a test")


@dataclass(frozen=True, slots=True)
class WindowsSource:
    sshd: Sshd
    folder: Path
    image: Path

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def change(self, **values: object) -> None:
        self.state.write_text(json.dumps({**json.loads(self.state.read_text()), **values}))

    def wait_until_clean(self) -> None:
        """Snapshots go a moment after the line did."""
        deadline = time.monotonic() + 20
        while self.shadows() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.shadows()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def shadows(self) -> list[Path]:
        return sorted((self.folder / "shadows").iterdir())


def make_disk(folder: Path) -> Path:
    """MBR: a small FAT beside an NTFS with some files in it."""
    image = folder / "disk.img"
    with image.open("wb") as disk:
        disk.truncate(DISK_SIZE)
        for offset, piece in pieces():
            disk.seek(offset)
            disk.write(piece)
    return image


@cache
def pieces() -> list[tuple[int, bytes]]:
    """What of the disk is not zero; made once, because mkntfs and its like write to the disk with fsync."""
    need_tools("mkntfs", "ntfscp", "mkfs.vfat", "sfdisk")
    with TemporaryDirectory() as place:
        content = build(Path(place)).read_bytes()
    blocks = [(at, content[at : at + 65536]) for at in range(0, len(content), 65536)]
    return [(at, block) for at, block in blocks if any(block)]


def build(folder: Path) -> Path:
    image, file, script = folder / "disk.img", folder / "file", folder / "parts"
    volume, boot = folder / "ntfs.img", folder / "fat.img"
    for path, size in ((image, DISK_SIZE), (volume, NTFS_SIZE), (boot, FAT_SIZE)):
        with path.open("wb") as handle:
            handle.truncate(size)
    run("mkntfs", "-F", "-Q", "-q", "-p", str(NTFS_START // 512), "-H", "255", "-S", "63", volume)
    run("mkfs.vfat", "-F", "12", boot)
    for number in range(3):
        file.write_bytes(bytes([65 + number]) * (3 * MiB) + b"end")
        run("ntfscp", "-q", volume, file, f"/file{number}.txt")
    parts = f"start={FAT_START // 512},size={FAT_SIZE // 512},type=ef\n"
    parts += f"start={NTFS_START // 512},size={NTFS_SIZE // 512},type=7\n"
    script.write_text(f"label: dos\nlabel-id: 0x12345678\n{parts}")
    run("sh", "-c", f"sfdisk -q {image} < {script}")
    with image.open("r+b") as disk:
        for start, part in ((FAT_START, boot), (NTFS_START, volume)):
            disk.seek(start)
            disk.write(part.read_bytes())
    return image


def inventory() -> dict[str, Any]:
    """The recorded Windows 10, but with the disk that the test has."""
    facts = recorded("windows10_uefi")
    system, boot = facts["volumes"]
    system["extents"] = [{"disk": 0, "start": NTFS_START, "length": NTFS_SIZE}]
    boot["extents"] = [{"disk": 0, "start": FAT_START, "length": FAT_SIZE}]
    facts["disks"][0]["size"] = DISK_SIZE
    return facts


@contextmanager
def windows_source(folder: Path, *, extra: Sequence[str] = (MICROSOFT,)) -> Iterator[WindowsSource]:
    image = make_disk(folder)
    (folder / "shadows").mkdir()
    force = f"ForceCommand {sys.executable} {EMULATOR} {folder / 'state.json'}"
    with private_sshd(folder / "sshd", extra=[force, *extra]) as server:
        source = WindowsSource(server, folder, image)
        source.state.write_text("{}")
        source.change(
            log=str(folder / "log"),
            shadows=str(folder / "shadows"),
            disks={DISK: str(image)},
            inventory=inventory(),
        )
        yield source
