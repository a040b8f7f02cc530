"""Disk images on this machine as the source: raw as they are, other formats through a read-only qemu-nbd.

A machine with several disks is written `sda=first.img,sdb=second.img`: the names, which may be left out, are
those that the disks had on the machine, where its configuration uses them; the first image is the first disk
of the virtual machine. An image says nothing of the machine that it was taken from: firmware is read off the
partition tables, processors and memory are defaults that the user may change, network cards are unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2v import command
from p2v.disk import layout
from p2v.disk.device import BlockDevice, open_file_device
from p2v.disk.nbd import open_nbd_device, serve_image
from p2v.errors import TransportError, UsageError
from p2v.model import Disk, Firmware, GiB, ImageFormat, Machine, Partition, TableKind
from p2v.transports.base import Guard, SnapshotKeeper, Survey

DEFAULT_CPUS = 2
DEFAULT_MEMORY = 2 * GiB
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"
DISK_NAME = re.compile(
    r"(?:/dev/)?(?P<name>(?:[shv]|xv)d[a-z]{1,2}|nvme\d{1,2}n\d|mmcblk\d|cciss/c\dd\d{1,2})="
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a source; `name` is what the machine called the disk (`sda`), empty where nobody said."""

    path: Path
    name: str = ""


def image_files(source: str) -> tuple[ImageFile, ...]:
    """The images that a SOURCE names: a path, or `NAME=PATH,…` with the names left out or not.

    Raises UsageError where an image or a name stands twice.
    """
    text = source.removeprefix("file://")
    words = [text] if "," not in text or Path(text).exists() else text.split(",")
    files = tuple(_image_file(word) for word in words)
    names = [file.name for file in files if file.name]
    paths = [file.path.resolve() for file in files]
    if len(set(names)) < len(names) or len(set(paths)) < len(paths):
        raise UsageError(f"{source} names a disk twice", hint="Try: sda=FIRST.img,sdb=SECOND.img")
    return files


def _image_file(word: str) -> ImageFile:
    named = DISK_NAME.match(word)
    if named is None or Path(word).exists():
        return ImageFile(Path(word))
    return ImageFile(Path(word[named.end() :]), named["name"])


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image that was looked at."""

    file: ImageFile
    format: ImageFormat
    sector_size: int


class ImageTransport:
    """The images of one machine; opened for reading only."""

    def __init__(self, images: Sequence[OpenImage]) -> None:
        self._images = {str(image.file.path): image for image in images}

    boot_id = ""

    def survey(self) -> Survey:
        disks: list[Disk] = []
        partitions: list[Partition] = []
        for path, image in self._images.items():
            with _open(image) as device:
                table = _table(device)
                name = f"/dev/{image.file.name}"
                disk = Disk(
                    path=path,
                    size=device.size,
                    sector_size=image.sector_size,
                    names=(name,) if image.file.name else (),
                )
            disks.append(replace(disk, table_id=table.id if table else ""))
            partitions += table.partitions if table else ()
        first = next(iter(self._images.values()))
        return Survey(
            Machine(
                hostname=first.file.path.stem,
                firmware=_firmware(tuple(partitions)),
                cpus=DEFAULT_CPUS,
                memory=DEFAULT_MEMORY,
                disks=tuple(disks),
            )
        )

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        with _open(self._images[disk.path]) as device:
            yield device

    @contextmanager
    def open_disks(self, disks: Sequence[Disk]) -> Iterator[tuple[BlockDevice, ...]]:
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.open_disk(disk)) for disk in disks)

    def open_guard(self) -> AbstractContextManager[Guard]:
        raise TransportError(f"{', '.join(self._images)}: an image, nothing on it runs")

    def open_snapshots(self) -> AbstractContextManager[SnapshotKeeper]:
        raise TransportError(f"{', '.join(self._images)}: an image, nothing on it runs")


@contextmanager
def _open(image: OpenImage) -> Iterator[BlockDevice]:
    path = image.file.path
    if image.format is ImageFormat.RAW:
        with open_file_device(path, sector_size=image.sector_size) as device:
            yield device
    else:
        with serve_image(path, image.format) as socket, open_nbd_device(socket, image.sector_size) as served:
            yield served


def _table(device: BlockDevice) -> layout.Table | None:
    try:
        return layout.read_table(device)
    except layout.TableDamaged:
        return None


def _firmware(partitions: tuple[Partition, ...]) -> Firmware:
    """UEFI where there is an EFI system partition and nothing that only a BIOS needs."""
    types = {partition.type_id for partition in partitions}
    return Firmware.UEFI if ESP_TYPE in types and BIOS_BOOT_TYPE not in types else Firmware.BIOS


def image_format(path: Path) -> ImageFormat:
    """The format of an image by `qemu-img info`. Raises UsageError for a file that is no image."""
    if not path.exists():
        raise UsageError(
            f"There is no file {path}", hint="SOURCE is ssh://[user@]host[:port] or a disk image"
        )
    if path.is_block_device():
        return ImageFormat.RAW
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    tool = command.need_tool("qemu-img", reason="look at disk images", package="qemu-utils")
    said = command.run([tool, "info", "--output=json", "--force-share", path], timeout=60)
    if said.code != 0:
        raise TransportError(f"qemu-img cannot read {path}: {said.stderr.strip()[-300:]}")
    info = json.loads(said.stdout)
    if info.get("backing-filename") or info.get("full-backing-filename"):
        # The name of the backing file comes out of the image: an image from elsewhere could name any file
        # here.
        raise UsageError(
            f"{path} is an overlay on {info.get('backing-filename')}",
            hint=f"Make one image of it: qemu-img convert -O qcow2 {path} whole.qcow2",
        )
    try:
        return ImageFormat(info["format"])
    except ValueError as error:
        raise UsageError(f"{path} has the format {info['format']}, which p2v does not read") from error


@contextmanager
def open_image_source(source: str) -> Iterator[ImageTransport]:
    """Raises UsageError, TransportError."""
    yield ImageTransport([_looked_at(file) for file in image_files(source)])


def _looked_at(file: ImageFile) -> OpenImage:
    plain = OpenImage(file, image_format(file.path), 512)
    with _open(plain) as device:
        sector_size = layout.guess_sector_size(device)
        table = _table(device)
        if sector_size == 4096 and table is not None and table.kind is TableKind.GPT:
            sector_size = 512  # the table is whole when read with 512: byte 4096 only looks like a header
    return replace(plain, sector_size=sector_size)
