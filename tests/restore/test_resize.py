"""Every kind of filesystem on a larger and on a smaller disk: content by its digests, structure by its
checker.

One launch of the appliance for all that grow, one for all that shrink.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v import command
from p2v.accelerator import Accelerator, find_accelerator
from p2v.disk.device import open_file_device
from p2v.disk.used import inspect_disk
from p2v.disk.volumes import physical_volumes
from p2v.guest import Access, Guest, GuestDisk, open_guest
from p2v.guest_resize import grow, shrink
from p2v.model import Disk, ImageFormat, KiB, MiB
from p2v.restore.images import make_overlay, open_overlay
from p2v.restore.measure import measured
from p2v.restore.model import DiskMove, Resize, SourceDisk
from p2v.restore.relayout import Relayout, relayout
from tests.conftest import need_tools
from tests.disk.volumes import attached
from tests.restore.test_tables import assert_verified, write_all

pytestmark = [pytest.mark.guestfs, pytest.mark.timeout(900)]

SIZE, LARGER, SMALLER = 512 * MiB, 700 * MiB, 330 * MiB
FIRST = 440 * MiB
SCRIPTS = {
    "gpt": "label: gpt\nsize=440M\nsize=40M\n",
    "dos": "label: dos\nsize=440M,type=83\nsize=40M,type=82\n",
}
FILES = ("/one.bin", "/folder/two.bin", "/folder/three.bin")
SECONDS = 120.0
Maker = Callable[[Path], object]


def run(*words: str | Path) -> str:
    return command.check(list(words), timeout=SECONDS, reason="prepare or check a test")


@dataclass(frozen=True, slots=True)
class Case:
    """A disk whose first partition was made by `make`; the filesystem is on `volume`, or on the partition."""

    name: str
    table: str
    make: Maker
    check: Callable[[str], None]
    volume: str = ""


def ext4(part: Path) -> None:
    run("mke2fs", "-qF", "-t", "ext4", part)


def check_ext4(device: str) -> None:
    run("e2fsck", "-fn", device)


def check_xfs(device: str) -> None:
    run("xfs_repair", "-n", device)


def check_btrfs(device: str) -> None:
    run("btrfs", "check", "--readonly", device)


def check_ntfs(device: str) -> None:
    """ntfsresize checks all before it says how small the volume could be; it leaves a mark for chkdsk."""
    run("ntfsfix", "-n", device)
    run("ntfsresize", "--info", "--force", device)


def check_nothing(device: str) -> None:
    """Volumes are checked one by one."""
    run("lvm", "pvck", device)


def lvm(group: str, *places: tuple[str, int, int]) -> Maker:
    """A physical volume with volumes (name, first extent, extents of 1 MiB), each an ext4."""

    def make(part: Path) -> None:
        with attached(part) as device:
            config = (
                f'devices{{use_devicesfile=0 scan=["/dev"] filter=["a|^{device}$|","r|.*|"]}} '
                "global{activation=0} activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"
            )
            run("pvcreate", "--config", config, "-y", device)
            run("vgcreate", "--config", config, "-s", "1M", group, device)
            for name, first, count in places:
                place = f"{device}:{first}-{first + count - 1}"
                options = ("-y", "-an", "-Zn", "-Wn", "-n", name, "-l", str(count), group, place)
                run("lvcreate", "--config", config, *options)
        for _, first, count in places:
            inner = part.with_name("inner")
            with inner.open("wb") as file:
                file.truncate(count * MiB)
            ext4(inner)
            splice(inner, part, (1 + first) * MiB)

    return make


def check_lvm(image: Path) -> None:
    """Every volume, cut out by the metadata on the disk, is a sound ext4."""
    with open_file_device(image, sector_size=512) as device:
        (found,) = physical_volumes(device)
        for name in {part.volume for part in found.parts}:
            parts = sorted(
                (part for part in found.parts if part.volume == name), key=lambda part: part.offset
            )
            cut = image.with_name(f"{name}.cut")
            with cut.open("wb") as file:
                for part in parts:
                    file.seek(part.offset)
                    file.write(device.read(part.start, part.length))
            check_ext4(str(cut))


EXT4 = Case("ext4", "dos", ext4, check_ext4)
BTRFS = Case("btrfs", "gpt", lambda part: run("mkfs.btrfs", "-q", part), check_btrfs)
NTFS = Case("ntfs", "dos", lambda part: run("mkntfs", "-qQF", "-p", "2048", part), check_ntfs)
XFS = Case("xfs", "gpt", lambda part: run("mkfs.xfs", "-q", part), check_xfs)
ROOT = Case(
    "lvm", "gpt", lvm("growing", ("root", 0, 100), ("home", 100, 60)), check_nothing, "/dev/growing/root"
)
FAR = Case("far", "gpt", lvm("far", ("root", 0, 100), ("home", 330, 80)), check_nothing, "/dev/far/home")
FULL = Case(
    "filled", "dos", lvm("filled", ("home", 0, 130), ("root", 150, 240)), check_nothing, "/dev/filled/root"
)


def splice(part: Path, image: Path, offset: int) -> None:
    words = ("conv=notrunc,sparse", "bs=1M", f"seek={offset // MiB}", "status=none")
    run("dd", f"if={part}", f"of={image}", *words)


def build(folder: Path, case: Case) -> Disk:
    image, part = folder / f"{case.name}.raw", folder / "part"
    with image.open("wb") as file:
        file.truncate(SIZE)
    words: list[str | Path] = ["sfdisk", "-q", image]
    command.check(words, timeout=SECONDS, reason="make a table", input_text=SCRIPTS[case.table])
    part.unlink(missing_ok=True)
    with part.open("wb") as file:
        file.truncate(FIRST)
    case.make(part)
    splice(part, image, MiB)
    with open_file_device(image, sector_size=512) as device:
        return measured(device, inspect_disk(device, Disk(str(image), SIZE)))


@dataclass(frozen=True, slots=True)
class Work:
    case: Case
    disk: Disk
    layout: Relayout
    overlay: Path

    @property
    def kind(self) -> str:
        changed = self.layout.changed
        assert changed
        assert changed.number == 1
        assert changed.partition.filesystem
        return changed.partition.filesystem.kind

    def write(self) -> None:
        with open_overlay(self.overlay, 512) as device:
            write_all(device, self.disk, self.layout)

    def flatten(self, size: int) -> Path:
        image = self.overlay.with_suffix(".result")
        run("qemu-img", "convert", "-O", "raw", self.overlay, image)
        os.truncate(image, size)
        return image


def works(folder: Path, cases: Sequence[Case], size: int) -> Iterator[Work]:
    resize = Resize.GROW if size > SIZE else Resize.SHRINK
    for case in cases:
        disk = build(folder, case)
        source = SourceDisk(Path(disk.path), ImageFormat.RAW, disk)
        layout = relayout(DiskMove(0, source, Disk("/dev/sdz", size), resize, 1))
        overlay = folder / f"{case.name}.qcow2"
        make_overlay(source, overlay, size)
        yield Work(case, disk, layout, overlay)


@contextmanager
def opened(found: Sequence[Work], accelerator: Accelerator) -> Iterator[Guest]:
    disks = [GuestDisk(work.overlay, ImageFormat.QCOW2) for work in found]
    with open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest:
        yield guest


def fill(guest: Guest, device: str) -> None:
    generator = random.Random(device)
    guest.mount(device, "/")
    guest.mkdir("/folder")
    for name in FILES:
        guest.write(name, generator.randbytes(700 * KiB))
    guest.unmount_all()


def read(guest: Guest, device: str) -> tuple[list[str], int]:
    """Digests of the files, and the free bytes."""
    guest.mount(device, "/")
    found = [guest.sha256(name) for name in FILES], guest.free_space("/")
    guest.unmount_all()
    return found


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> Accelerator:
    return find_accelerator(tmp_path_factory.mktemp("accelerator")).accelerator


@pytest.fixture
def tools() -> None:
    need_tools(
        "sfdisk", "sgdisk", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "ntfsfix", "lvm", "losetup", "qemu-nbd"
    )
    if os.geteuid() != 0:
        pytest.skip("LVM needs root")


def assert_sound(work: Work, size: int) -> None:
    """The table and the filesystem on the disk in its new size, by tools that others wrote."""
    image = work.flatten(size)
    assert_verified(image, work.case.table)
    changed = work.layout.changed
    assert changed
    place = ("--offset", str(changed.start), "--sizelimit", str(changed.length))
    with attached(image, *place) as device:
        work.case.check(device)
    if work.case.volume:
        check_lvm(image)
    image.unlink()


@pytest.mark.usefixtures("tools")
def test_everything_grows(tmp_path: Path, accelerator: Accelerator) -> None:
    found = list(works(tmp_path, (EXT4, XFS, BTRFS, NTFS, ROOT), LARGER))
    for work in found:
        work.write()
    with opened(found, accelerator) as guest:
        for index, work in enumerate(found):
            device = guest.partition_device(index, 1)
            inside = work.case.volume or device
            fill(guest, inside)
            digests, free = read(guest, inside)
            assert all(digests)
            grow(guest, device, work.kind, work.case.volume)
            after, more = read(guest, inside)
            assert after == digests
            least = (LARGER - SIZE) * 3 // 4
            assert more - free > least, work.case.name
    for work in found:
        assert_sound(work, LARGER)


@pytest.mark.usefixtures("tools")
def test_everything_that_can_shrinks(tmp_path: Path, accelerator: Accelerator) -> None:
    found = list(works(tmp_path, (EXT4, BTRFS, NTFS, FAR, FULL), SMALLER))
    with opened(found, accelerator) as guest:
        for index, work in enumerate(found):
            device = guest.partition_device(index, 1)
            inside = work.case.volume or device
            fill(guest, inside)
            digests, _ = read(guest, inside)
            changed = work.layout.changed
            assert changed
            shrink(guest, device, work.kind, changed.length, work.case.volume)
            after, _ = read(guest, inside)
            assert after == digests, work.case.name
    for work in found:
        work.write()
        assert_sound(work, SMALLER)
