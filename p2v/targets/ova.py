"""The files of an OVF package: descriptor, manifest, disks; in pieces, or in one tar file, an OVA.

DSP0243: the manifest has a line `SHA256(file)= hex` for each other file, and in an OVA the descriptor is the
first, the manifest the second file, the disks follow in the order of the references. The tar is USTAR.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from p2v.atomic import write_atomically
from p2v.model import Image, ImageFormat, VirtualMachine
from p2v.targets.base import file_name
from p2v.targets.images import writing
from p2v.targets.overlay_reader import open_overlay
from p2v.targets.vmdk_stream import Written, write_stream

BLOCK = tarfile.BLOCKSIZE
USTAR_LIMIT = 8 * 1024**3
"""USTAR has eleven octal digits for the size of a file; beyond, GNU's binary form, which ovftool reads too.
"""

LARGEST = 10**15
MODE = 0o644

Describe = Callable[[tuple[Image, ...], tuple[int, ...]], str]
"""The descriptor for finished disks, and for each the bytes of it that are not zero."""


@dataclass(frozen=True, slots=True)
class StreamedDisk:
    """A disk that goes straight into the package: the file `name` there, read from `overlay`."""

    name: str
    overlay: Path


def manifest(descriptor_name: str, descriptor: bytes, images: Sequence[Image]) -> str:
    """The manifest; the digest of each image is the SHA-256 of its file."""
    digests = {descriptor_name: hashlib.sha256(descriptor).hexdigest()}
    digests |= {image.path: image.digest for image in images}
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items())


def write_package(
    vm: VirtualMachine, overlays: Sequence[Path], folder: Path, describe: Describe, *, one_file: bool
) -> tuple[Image, ...]:
    """An OVF package of `vm`, in pieces or as one OVA. Raises TargetError."""
    disks = [StreamedDisk(disk.file, overlay) for disk, overlay in zip(vm.disks, overlays, strict=True)]
    pack = write_ova if one_file else write_pieces
    return pack(folder, file_name(vm.name, ""), describe, disks)


def write_pieces(
    folder: Path, name: str, describe: Describe, disks: Sequence[StreamedDisk]
) -> tuple[Image, ...]:
    """Disks, descriptor `name`.ovf and manifest `name`.mf as files; returns the disks."""
    images, populated = [], []
    for disk in disks:
        unfinished = folder / f"{disk.name}.part"
        with _created(unfinished) as out:
            written = _write_disk(disk, out)
        unfinished.rename(folder / disk.name)
        images.append(_image(disk.name, written))
        populated.append(written.populated)
    content = describe(tuple(images), tuple(populated)).encode()
    write_atomically(folder / f"{name}.ovf", content, mode=MODE)
    write_atomically(folder / f"{name}.mf", manifest(f"{name}.ovf", content, images).encode(), mode=MODE)
    return tuple(images)


def write_ova(
    folder: Path, name: str, describe: Describe, disks: Sequence[StreamedDisk]
) -> tuple[Image, ...]:
    """`name`.ova, its disks written straight to their places in it; returns the one file.

    What stands before the disks is only known after them: its room is kept free, as the descriptor for disks
    of the largest size takes it; the real one is filled up with line ends. The `digest` of the image is that
    of the manifest inside, which has those of all files.
    """
    ova, unfinished = folder / f"{name}.ova", folder / f"{name}.ova.part"
    guess = tuple(_image(disk.name, Written(LARGEST, "0" * 64)) for disk in disks)
    room = len(describe(guess, (LARGEST,) * len(guess)).encode())
    manifest_size = len(manifest(f"{name}.ovf", b"", guess).encode())
    with _created(unfinished) as out:
        out.seek(2 * BLOCK + _padded(room) + _padded(manifest_size))
        added = [(disk.name, _add_disk(out, disk)) for disk in disks]
        out.write(bytes(2 * BLOCK))
        images = tuple(_image(*each) for each in added)
        populated = tuple(written.populated for _, written in added)
        descriptor = describe(images, populated).encode().ljust(room, b"\n")
        listed = manifest(f"{name}.ovf", descriptor, images).encode()
        out.seek(0)
        out.write(_member(f"{name}.ovf", len(descriptor)) + _fill(descriptor))
        out.write(_member(f"{name}.mf", len(listed)) + _fill(listed))
    unfinished.rename(ova)
    return (Image(ova.name, ImageFormat.VMDK, ova.stat().st_size, hashlib.sha256(listed).hexdigest()),)


def _add_disk(out: BinaryIO, disk: StreamedDisk) -> Written:
    at = out.tell()
    out.seek(at + BLOCK)
    written = _write_disk(disk, out)
    end = out.tell()
    out.seek(at)
    out.write(_member(disk.name, written.size))
    out.seek(end)
    return written


def _write_disk(disk: StreamedDisk, out: BinaryIO) -> Written:
    """A compressed disk is whole sectors, which are the blocks of tar."""
    with open_overlay(disk.overlay) as reader:
        return write_stream(reader.blocks(), reader.size, disk.name, out)


def _image(name: str, written: Written) -> Image:
    return Image(name, ImageFormat.VMDK, written.size, written.digest)


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable by its owner only, that is on the disk when the block ends well. Raises
    TargetError.
    """
    path.unlink(missing_ok=True)
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(handle)


def _member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = MODE
    return info.tobuf(tarfile.USTAR_FORMAT if size < USTAR_LIMIT else tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _fill(content: bytes) -> bytes:
    return content.ljust(_padded(len(content)), b"\0")
