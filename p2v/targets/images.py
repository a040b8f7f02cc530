"""Disk images of a target: overlays on the capture to convert in, and the finished images out of them.

A finished image is written under another name first. Plain and compressed ones are written here, each used
byte read, digested and written once. All others are written by qemu-img, then compared with what they were
written from, in a process of its own, while their digest is made here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from p2v import command
from p2v.atomic import write_atomically
from p2v.disk.digests import DigestTable
from p2v.disk.image_digests import ImageDigests
from p2v.disk.image_file import ImageFile
from p2v.errors import TargetError, VerifyError
from p2v.model import DiskBus, Image, ImageFormat, MiB, VirtualDisk
from p2v.targets.overlay_reader import OverlayReader
from p2v.targets.packages import DiskWriting, Sink, write_packages
from p2v.targets.raw_copy import raw_copy
from p2v.targets.readback import MOSTLY_EMPTY, compare_used
from p2v.targets.vmdk_stream import SECTOR, StreamWriter, descriptor

CREATE_SECONDS = 120.0
CONVERT_SECONDS = 24 * 3600.0
POLL_SECONDS = 0.02
ERROR_LIMIT = 2000

STREAM_OPTIMIZED = "streamOptimized"
FLAT_KINDS = ("monolithicFlat", "vmfs")
GEOMETRY = "-chs"
"""Ends the subformat of a VHD whose size follows from its geometry, which Virtual PC and Virtual Server read;
Hyper-V reads the size itself (the comment in vpc_open of QEMU's block/vpc.c).
"""


def _qemu_img() -> str:
    return command.need_tool("qemu-img", reason="write disk images", package="qemu-utils")


def make_overlay(capture: Path, overlay: Path) -> None:
    """An empty qcow2 overlay on a raw capture, which is only read from then on. Raises TargetError."""
    backing = os.path.relpath(capture, overlay.parent)
    argv = [_qemu_img(), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, str(overlay)]
    overlay.unlink(missing_ok=True)
    command.check(argv, timeout=CREATE_SECONDS, reason=f"make an overlay on {capture}")


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to write: of the disk in `overlay`, as `disk` says, into `folder`."""

    overlay: Path
    folder: Path
    disk: VirtualDisk

    @property
    def data_name(self) -> str:
        """The file that the bytes of the disk go to; a flat VMDK keeps its descriptor in another one."""
        return flat_name(self.disk.file) if self.is_flat else self.disk.file

    @property
    def is_flat(self) -> bool:
        return self.disk.format is ImageFormat.VMDK and self.disk.subformat in FLAT_KINDS

    @property
    def is_plain(self) -> bool:
        """Whether the file starts with the disk, byte by byte."""
        is_fixed = self.disk.format is ImageFormat.VHD and self.disk.subformat.startswith("fixed")
        return self.disk.format is ImageFormat.RAW or self.is_flat or is_fixed

    @property
    def is_sparse(self) -> bool:
        """Whether the file is as long as the disk, with holes in it."""
        return self.is_plain or self.disk.subformat.startswith("fixed")

    @property
    def unfinished(self) -> Path:
        return self.folder / f"{self.data_name}.part"


def flat_name(file: str) -> str:
    """`disk0-flat.vmdk` for `disk0.vmdk`, as VMware calls it."""
    return f"{Path(file).stem}-flat.vmdk"


def write_image(overlay: Path, image: Path, image_format: ImageFormat) -> Image:
    """The finished image of a disk in the usual kind of its format: see `write_images`."""
    disk = VirtualDisk(image.name, image_format, 0, DiskBus.VIRTIO_BLK)
    return write_images([ImageJob(overlay, image.parent, disk)])[0]


Mark = Callable[[VirtualDisk, Path], None]
"""Changes something of an image that is not content of the disk, such as its UUID."""


def write_images(jobs: Sequence[ImageJob], *, mark: Mark | None = None) -> tuple[Image, ...]:
    """Finished images, one after the other; `mark` changes those that qemu-img wrote.

    An `Image.digest` is the SHA-256 of the file; of a file that is mostly holes (raw, flat, fixed), it is
    that over its per-block digests, as of a capture. Raises TargetError where one cannot be written,
    VerifyError where it differs from its overlay; an image that is not finished never has its name.
    """
    return tuple(
        image
        for job in jobs
        for image in write_packages([Images([job.disk], job.folder, mark)], [job.overlay])[0]
    )


class Images:
    """Each disk of a machine as an image of its own: a package for `write_packages`.

    `mark` changes what is not content of an image that qemu-img wrote, before it gets its digest.
    """

    def __init__(self, disks: Sequence[VirtualDisk], folder: Path, mark: Mark | None = None) -> None:
        self._disks = disks
        self._folder = folder
        self._mark = mark
        self._images: list[Image] = []

    @contextmanager
    def disk(self, index: int, overlay: Path, reader: OverlayReader) -> Iterator[DiskWriting]:
        job = ImageJob(overlay, self._folder, self._disks[index])
        with _writing(job, self._mark, reader) as (sink, finish):
            yield DiskWriting(lambda: self._images.extend(_give_name(job, finish())), sink)

    def end(self) -> tuple[Image, ...]:
        return tuple(self._images)


@contextmanager
def _writing(
    job: ImageJob, mark: Mark | None, reader: OverlayReader
) -> Iterator[tuple[Sink | None, Callable[[], str]]]:
    """An image as it is written: where its blocks go, unless a process of its own reads them, and what waits
    until it is checked and on the disk, and returns its digest.
    """
    unfinished = job.unfinished
    unfinished.unlink(missing_ok=True)
    # It holds a whole disk, password files included; a hypervisor takes the file over when it starts.
    unfinished.touch(mode=0o600)
    if job.disk.subformat == STREAM_OPTIMIZED:
        with _compressed(job, reader) as both:
            yield both
    elif job.is_plain:
        with _plain(job, reader) as both:
            yield both
    else:
        words = [_qemu_img(), "convert", *convert_options(job), str(job.overlay), str(unfinished)]
        with _running(words, f"write {unfinished}") as wait:
            yield None, partial(_check, job, reader, mark=mark, wait=wait)


def convert_options(job: ImageJob) -> list[str]:
    """How qemu-img is to write: several requests at once, in any order where the format does not care."""
    options = format_options(job.disk)
    words = ["-f", "qcow2", "-O", job.disk.format.value, "-m", "16"]
    if job.disk.format is ImageFormat.QCOW2:
        words.append("-W")
    return [*words, *(("-o", ",".join(options)) if options else ())]


def format_options(disk: VirtualDisk) -> list[str]:
    """Options of qemu-img for the kind of image; the first value is always the usual one there."""
    kind = disk.subformat
    match disk.format:
        case ImageFormat.VMDK if kind not in FLAT_KINDS:
            return [f"subformat={kind or 'monolithicSparse'}", f"adapter_type={vmdk_adapter(disk)}"]
        case ImageFormat.VHD:
            size = [] if kind.endswith(GEOMETRY) else ["force_size=on"]
            return [f"subformat={kind.removesuffix(GEOMETRY) or 'dynamic'}", *size]
        case ImageFormat.VHDX:
            return [f"subformat={kind or 'dynamic'}"]
        case ImageFormat.VDI if kind == "fixed":
            return ["static=on"]
        case _:
            return []


def vmdk_adapter(disk: VirtualDisk) -> str:
    """`ddb.adapterType`: VMware writes `lsilogic` for everything that is not IDE."""
    return "ide" if disk.bus is DiskBus.IDE else "lsilogic"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says while `path` is written, as a TargetError."""
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"Cannot write {path}: {error.strerror}", hint="Is there space left? p2v doctor"
        ) from error


@contextmanager
def closing(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """What is still in memory when something failed may not fit either: the first error counts."""
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    with writing(path):
        file.close()


@contextmanager
def _compressed(job: ImageJob, reader: OverlayReader) -> Iterator[tuple[Sink, Callable[[], str]]]:
    with (
        closing(job.unfinished.open("wb"), job.unfinished) as out,
        StreamWriter(reader.size, job.disk.file, out) as writer,
    ):

        def finish() -> str:
            with writing(job.unfinished):
                written = writer.finish()
                out.flush()
                os.fsync(out.fileno())
                return written.digest

        yield guarded(writer.write, job.unfinished), finish


@contextmanager
def _plain(job: ImageJob, reader: OverlayReader) -> Iterator[tuple[Sink, Callable[[], str]]]:
    with writing(job.unfinished):
        if job.disk.format is ImageFormat.VHD:
            options = ",".join(format_options(job.disk))
            words = [_qemu_img(), "create", "-q", "-f", "vpc", "-o", options, str(job.unfinished)]
            command.check([*words, str(reader.size)], timeout=CREATE_SECONDS, reason=f"make {job.unfinished}")
        else:
            os.truncate(job.unfinished, reader.size)
    with raw_copy(job.unfinished, reader.size, reader.known_digest) as copy:

        def finish() -> str:
            with writing(job.unfinished):
                return copy.finish()

        yield guarded(copy.write, job.unfinished), finish


def guarded(sink: Sink, path: Path) -> Sink:
    """A sink whose troubles name the file that it writes, whatever else is written meanwhile."""

    def write(offset: int, block: bytearray) -> None:
        with writing(path):
            sink(offset, block)

    return write


def _check(job: ImageJob, reader: OverlayReader, *, mark: Mark | None, wait: Callable[[], None]) -> str:
    """Once qemu-img has written the image: what it holds, and its digest."""
    vast = _is_vast(job, reader)  # looked at while qemu-img writes
    wait()
    unfinished = job.unfinished
    if mark is not None:
        mark(job.disk, unfinished)
    # All three at once: the image is read while the disk still writes it.
    with ThreadPoolExecutor(2) as pool, _comparing_used(job, reader) if vast else _comparing(job) as compare:
        synced = pool.submit(_sync, unfinished)
        digest = pool.submit(_sparse_digest if job.is_sparse else _sha256, unfinished)
        compare()
        synced.result()
        return digest.result()


def _give_name(job: ImageJob, digest: str) -> list[Image]:
    image = job.folder / job.data_name
    size = job.unfinished.stat().st_size
    job.unfinished.rename(image)
    written = Image(image.name, job.disk.format, size, digest)
    return [_write_descriptor(job, size), written] if job.is_flat else [written]


def _write_descriptor(job: ImageJob, size: int) -> Image:
    """The text file that stands for a flat VMDK. Its extent is `VMFS` on an ESX host, elsewhere `FLAT`."""
    disk = job.disk
    extent = "VMFS" if disk.subformat == "vmfs" else "FLAT"
    text = descriptor(
        size // SECTOR, flat_name(disk.file), kind=disk.subformat, extent=extent, adapter=vmdk_adapter(disk)
    ).encode()
    write_atomically(job.folder / disk.file, text, mode=0o600)
    return Image(disk.file, disk.format, len(text), hashlib.sha256(text).hexdigest())


def _is_vast(job: ImageJob, reader: OverlayReader) -> bool:
    """Whether to read all of it would take long, in a format that cannot say where it has data."""
    return job.disk.format is ImageFormat.VHDX and reader.size > MOSTLY_EMPTY * reader.used


def _comparing_used(job: ImageJob, reader: OverlayReader) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(partial(compare_used, reader, job.unfinished, job.disk.format))


@contextmanager
def _comparing(job: ImageJob) -> Iterator[Callable[[], None]]:
    unfinished = job.unfinished
    formats = ["-f", "qcow2", "-F", job.disk.format.value]
    words = [_qemu_img(), "compare", "-q", *formats, str(job.overlay), str(unfinished)]
    differs = VerifyError(f"{unfinished} differs from what it was written from")
    with _running(words, f"compare {unfinished}", on_one=differs) as wait:
        yield wait


@contextmanager
def _running(
    words: Sequence[str], reason: str, *, on_one: Exception | None = None
) -> Iterator[Callable[[], None]]:
    """A child beside us; what it gives waits for its end, and raises `on_one` for exit code 1 where given."""
    with TemporaryFile() as said, command.start(words, log=said) as child:

        def wait() -> None:
            code = _wait(child, reason)
            if code == 1 and on_one is not None:
                raise on_one
            if code != 0:
                raise TargetError(f"qemu-img failed to {reason} (exit code {code}): {_said(said)}")

        yield wait


def _wait(child: command.Child, reason: str) -> int:
    deadline = time.monotonic() + CONVERT_SECONDS
    while (code := child.poll()) is None:
        if time.monotonic() > deadline:
            raise TargetError(f"qemu-img did not {reason} within {CONVERT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return code


def _said(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read(ERROR_LIMIT).decode("utf-8", "replace").strip()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sparse_digest(path: Path) -> str:
    """The SHA-256 over the digests of the blocks; holes cost nothing."""
    with path.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        table = DigestTable(size)
        blocks = ImageDigests(ImageFile(handle.fileno(), None), size)
        for index, digest in blocks.of_blocks(blocks.blocks_with_data()):
            table[index] = digest
    return table.summary


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def space_needed(data_size: int, platforms: int) -> int:
    """Bytes that a run takes on the disk: the capture, the overlay's changes, and the finished image for each
    platform beside it.
    """
    return (1 + platforms) * data_size + 512 * MiB
