"""What is put back: the images of a run, or disks of a virtual machine in any format. Whole, or refused."""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2v import command
from p2v.disk import digests, layout
from p2v.disk.copy import verify_image
from p2v.disk.device import BlockDevice, PlainReads, open_file_device
from p2v.disk.nbd import open_nbd_device, serve_image
from p2v.disk.used import inspect_disk
from p2v.errors import PlanRefused, UsageError, VerifyError
from p2v.guest import GuestDisk
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.journal import IMAGES, Journal, read_note
from p2v.model import Disk, ImageFormat, Machine, Severity, TableKind
from p2v.probe import look_into_image
from p2v.restore.measure import measured
from p2v.restore.model import SourceDisk
from p2v.restore.writing import nobody
from p2v.run import read_journal
from p2v.transports.image import image_files, image_format, open_image_source

CHECK_SECONDS = 1800.0
FLOCK = "hhqqi"
"""struct flock of a Linux with 64 bits (fcntl(2)): type, whence, start, length, process."""
WRITER_BYTE = 101
"""RAW_LOCK_PERM_BASE of QEMU's block/file-posix.c, and the bit of BLK_PERM_WRITE."""
NOT_CHECKED = 63
"""qemu-img check: the format has no check."""


@dataclass(frozen=True, slots=True)
class Images:
    """Disks of one machine, and the machine as they say it is. `run` is the journal of their run."""

    guest: Machine
    disks: tuple[SourceDisk, ...]
    run: Journal | None = None


def is_run(source: str) -> bool:
    return (Path(source) / "run.json").exists()


def find_images(source: str, house: House, keys: Keys, *, look_inside: bool) -> Images:
    """The images that `source` names, checked to be whole: a run, or paths as for a capture.

    With `look_inside` the system on them is known; where there is none that can be read, PlanRefused.
    Raises UsageError, PlanRefused (cut short), VerifyError (not as captured).
    """
    images = _of_run(Path(source)) if is_run(source) else _of_files(source)
    with house.ui.phase("Checking the images"):
        for disk in images.disks:
            require_whole(disk)
        if images.run is not None:
            _require_captured_content(Path(source), images.disks)
    return _looked_into(images, house, keys) if look_inside and images.guest.os is None else images


def _of_run(folder: Path) -> Images:
    journal = read_journal(folder)
    if journal.done("capture") is None:
        raise UsageError(f"{folder} is not captured whole yet", hint=f"Try: p2v resume {folder}")
    images = read_note(IMAGES, folder / "capture" / "images.json")
    planned = [one.disk for one in journal.plan.disks]
    if len(images) != len(planned):
        raise UsageError(f"{folder} has not an image for each of its disks")
    paths = [(folder / image.path).resolve() for image in images]
    disks = tuple(
        SourceDisk(path, image.format, disk) for path, image, disk in zip(paths, images, planned, strict=True)
    )
    return Images(replace(journal.plan.machine, disks=tuple(planned)), disks, journal)


def _of_files(source: str) -> Images:
    files = image_files(source)
    formats = [image_format(file.path) for file in files]
    # Before anything is read: a reader of the content does not notice what is missing at the end.
    for file, kind in zip(files, formats, strict=True):
        require_unused(file.path)
        _require_whole_file(file.path, kind)
    with open_image_source(source) as transport:
        machine = transport.survey().machine
        seen = []
        for disk in machine.disks:
            with transport.open_disk(disk) as device:
                seen.append(inspect_disk(device, disk))
    disks = tuple(
        SourceDisk(file.path.resolve(), kind, disk)
        for file, kind, disk in zip(files, formats, seen, strict=True)
    )
    return Images(replace(machine, disks=tuple(seen)), disks)


def _looked_into(images: Images, house: House, keys: Keys) -> Images:
    disks = [GuestDisk(disk.path, disk.format) for disk in images.disks]
    with house.ui.phase("Looking into the images"):
        machine = look_into_image(images.guest, disks, house.accelerator().accelerator, keys)
    blocker = next((one for one in machine.findings if one.severity is Severity.BLOCKER), None)
    if blocker is not None:
        hint = blocker.hint or "To write the disks with nothing changed in them: --as-is"
        raise PlanRefused(blocker.message, hint=hint)
    return replace(images, guest=machine)


def measured_images(images: Images) -> Images:
    """The same with what their filesystems use, as far as it can be known: to see whether they may shrink."""
    disks = tuple(_measured(source) for source in images.disks)
    return replace(images, disks=disks)


def _measured(source: SourceDisk) -> SourceDisk:
    with open_source(source.path, source.format, source.disk.sector_size) as device:
        return replace(source, disk=measured(device, source.disk))


@contextmanager
def open_source(path: Path, kind: ImageFormat, sector_size: int) -> Iterator[BlockDevice]:
    """An image for reading, whatever its format. Raises TransportError, TargetError."""
    if kind is ImageFormat.RAW:
        with open_file_device(path, sector_size=sector_size) as device:
            yield device
    else:
        with serve_image(path, kind) as socket, open_nbd_device(socket, sector_size) as served:
            yield served


def require_whole(source: SourceDisk) -> None:
    """Raises PlanRefused for an image that was cut short, by the file itself or by its partition table."""
    _require_whole_file(source.path, source.format)
    with open_source(source.path, source.format, source.disk.sector_size) as device:
        if device.size < source.disk.size:
            raise _cut(source.path, f"{device.size} bytes instead of {source.disk.size}")
        reason = missing_end(device, source.disk)
    if reason:
        raise _cut(source.path, reason)


def require_unused(path: Path) -> None:
    """Raises PlanRefused where a virtual machine runs on the image: half of what it wrote would be missing.

    QEMU holds a lock on a byte of each file that it may write to, in whatever format.
    """
    wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, WRITER_BYTE, 1, 0)
    with path.open("rb") as file:
        found = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted))
    if found[0] != fcntl.F_UNLCK:
        raise PlanRefused(
            f"{path} is in use: a virtual machine runs on it, or another program writes to it",
            hint="Shut the virtual machine down, and try again",
        )


def missing_end(device: BlockDevice, disk: Disk) -> str:
    """How the content says that more should follow; empty where it does not."""
    try:
        table = layout.read_table(device)
    except layout.TableDamaged as error:
        return str(error)
    end = max((partition.end for partition in table.partitions), default=0)
    if end > device.size:
        return f"its last partition ends at byte {end} of {device.size}"
    if table.kind is TableKind.GPT:
        backup = _backup_of(device)
        if backup >= device.size:
            return f"its GPT has a backup at byte {backup} of {device.size}"
    whole = inspect_disk(device, disk).filesystem
    if table.kind is TableKind.NONE and whole is None:
        # Of a disk that was cut in front of a partition, the table itself no longer looks like one.
        end = _end_of_table(device)
        if end > device.size:
            return f"its last partition ends at byte {end} of {device.size}"
    if table.kind is TableKind.NONE and whole is not None and whole.size > device.size:
        return f"its {whole.kind} has {whole.size} bytes of {device.size}"
    return ""


def _end_of_table(device: BlockDevice) -> int:
    """Where the last partition ends, wherever the disk does; 0 where there is no table."""
    try:
        table = layout.read_table(_Endless(device))
    except layout.TableDamaged:
        return 0
    return max((partition.end for partition in table.partitions), default=0)


class _Endless(PlainReads):
    """A disk with zeros behind its end, as if it had been whole."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device

    @property
    def size(self) -> int:
        return 1 << 60

    @property
    def sector_size(self) -> int:
        return self._device.sector_size

    def read(self, offset: int, length: int) -> bytes:
        inside = max(0, min(length, self._device.size - offset))
        data = self._device.read(offset, inside) if inside else b""
        return data + bytes(length - inside)


def _backup_of(device: BlockDevice) -> int:
    """Where the primary header says that the other one is (UEFI 2.10, table 5-5: AlternateLBA at 32)."""
    header = device.read(device.sector_size, 512)
    if header[:8] != b"EFI PART":
        return 0
    return int(struct.unpack_from("<Q", header, 32)[0]) * device.sector_size


def _require_whole_file(path: Path, kind: ImageFormat) -> None:
    if kind is ImageFormat.RAW:
        return
    tool = command.need_tool("qemu-img", reason="check disk images", package="qemu-utils")
    argv: list[str | Path] = [tool, "check", "--force-share", "--output=json", f"--format={kind}", path]
    said = command.run(argv, timeout=CHECK_SECONDS)
    if said.code == NOT_CHECKED:
        _require_mapped(path, kind, tool)
    elif said.code not in (0, 3):  # 3: clusters that nobody uses, which cost space and nothing else
        raise _cut(path, f"qemu-img check finds it damaged (exit code {said.code})")


def _require_mapped(path: Path, kind: ImageFormat, tool: str) -> None:
    """For formats that qemu-img cannot check: all that is mapped must be inside the file."""
    argv = [tool, "map", "--output=json", "--image-opts", f"driver={kind},file.filename={path}"]
    said = command.run(argv, timeout=CHECK_SECONDS)
    if said.code != 0:
        raise _cut(path, said.stderr.strip()[-200:])
    size = path.stat().st_size
    for extent in json.loads(said.stdout):
        if extent.get("data") and extent.get("offset", 0) + extent["length"] > size:
            raise _cut(path, f"the file has {size} bytes, and more are needed")


def _cut(path: Path, reason: str) -> PlanRefused:
    return PlanRefused(f"{path} is cut short or damaged: {reason}", hint="Copy the image again, whole")


def _require_captured_content(folder: Path, disks: Sequence[SourceDisk]) -> None:
    """Raises PlanRefused where an image is no longer what was captured."""
    for source in disks:
        table = index_of(source, folder)
        try:
            verify_image(source.path, table, progress=nobody)
        except VerifyError as error:
            raise PlanRefused(
                f"{source.path} is not what was captured: {error.message}",
                hint="Take the image from a backup, or capture the machine again",
            ) from error


def index_of(source: SourceDisk, folder: Path) -> digests.DigestTable:
    """The digests of a captured image. Raises VerifyError where there are none."""
    return digests.read_table(folder / "capture" / f"{source.path.stem}.digest", source.disk.size)
