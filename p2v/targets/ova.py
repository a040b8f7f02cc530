"""The files of an OVF package: descriptor, manifest, disks; in pieces, or in one tar file, an OVA.

DSP0243: the manifest has a line `SHA256(file)= hex` for each other file, and in an OVA the descriptor is the
first, the manifest the second file, the disks follow in the order of the references. The tar is USTAR.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from p2v.atomic import write_atomically
from p2v.model import Image, ImageFormat, VirtualMachine
from p2v.targets.base import file_name
from p2v.targets.images import closing, guarded, writing
from p2v.targets.overlay_reader import OverlayReader
from p2v.targets.packages import DiskWriting, Package
from p2v.targets.vmdk_stream import StreamWriter, Written

BLOCK = tarfile.BLOCKSIZE
USTAR_LIMIT = 8 * 1024**3
"""USTAR has eleven octal digits for the size of a file; beyond, GNU's binary form, which ovftool reads too.
"""

LARGEST = 10**15
MODE = 0o644

Describe = Callable[[tuple[Image, ...], tuple[int, ...]], str]
"""The descriptor for finished disks, and for each the bytes of it that are not zero."""


def manifest(descriptor_name: str, descriptor: bytes, images: Sequence[Image]) -> str:
    """The manifest; the digest of each image is the SHA-256 of its file."""
    digests = {descriptor_name: hashlib.sha256(descriptor).hexdigest()}
    digests |= {image.path: image.digest for image in images}
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items())


def begin_package(
    vm: VirtualMachine, folder: Path, describe: Describe, *, one_file: bool
) -> AbstractContextManager[Package]:
    """An OVF package of `vm`, in pieces or as one OVA."""
    names, name = [disk.file for disk in vm.disks], file_name(vm.name, "")
    if one_file:
        return begin_ova(folder, name, describe, names)
    return nullcontext(_Pieces(folder, name, describe, names))


class _Pieces:
    """Disks, descriptor `name`.ovf and manifest `name`.mf as files; the images are the disks."""

    def __init__(self, folder: Path, name: str, describe: Describe, names: Sequence[str]) -> None:
        self._folder = folder
        self._name = name
        self._describe = describe
        self._names = names
        self._written: list[tuple[str, Written]] = []

    @contextmanager
    def disk(self, index: int, overlay: Path, reader: OverlayReader) -> Iterator[DiskWriting]:
        name = self._names[index]
        unfinished = self._folder / f"{name}.part"
        with _created(unfinished) as out, StreamWriter(reader.size, name, out) as writer:

            def finish() -> None:
                with writing(unfinished):
                    self._written.append((name, writer.finish()))
                    _sync(out)
                unfinished.rename(self._folder / name)

            yield DiskWriting(finish, guarded(writer.write, unfinished))

    def end(self) -> tuple[Image, ...]:
        images = tuple(_image(*each) for each in self._written)
        descriptor = self._describe(images, _populated(self._written)).encode()
        lines = manifest(f"{self._name}.ovf", descriptor, images).encode()
        for suffix, content in ((".ovf", descriptor), (".mf", lines)):
            path = self._folder / f"{self._name}{suffix}"
            with writing(path):
                write_atomically(path, content, mode=MODE)
        return images


@contextmanager
def begin_ova(folder: Path, name: str, describe: Describe, names: Sequence[str]) -> Iterator[Package]:
    """`name`.ova, its disks written straight to their places in it; the image is that one file."""
    with _created(folder / f"{name}.ova.part") as out:
        yield _Ova(folder, name, describe, names, out=out)


class _Ova:
    """What stands before the disks is only known after them: its room is kept free, as the descriptor for
    disks of the largest size takes it; the real one is filled up with line ends. The `digest` of the image is
    that of the manifest inside, which has those of all files.
    """

    def __init__(
        self, folder: Path, name: str, describe: Describe, names: Sequence[str], *, out: BinaryIO
    ) -> None:
        self._path = folder / f"{name}.ova"
        self._unfinished = folder / f"{name}.ova.part"
        self._name = name
        self._describe = describe
        self._names = names
        self._out = out
        self._written: list[tuple[str, Written]] = []
        guess = tuple(_image(each, Written(LARGEST, "0" * 64)) for each in names)
        self._room = len(describe(guess, (LARGEST,) * len(guess)).encode())
        manifest_size = len(manifest(f"{name}.ovf", b"", guess).encode())
        out.seek(2 * BLOCK + _padded(self._room) + _padded(manifest_size))

    @contextmanager
    def disk(self, index: int, overlay: Path, reader: OverlayReader) -> Iterator[DiskWriting]:
        name = self._names[index]
        at = self._out.tell()
        self._out.seek(at + BLOCK)
        with StreamWriter(reader.size, name, self._out) as writer:

            def finish() -> None:
                with writing(self._unfinished):
                    self._add(name, writer.finish(), at)

            yield DiskWriting(finish, guarded(writer.write, self._unfinished))

    def _add(self, name: str, written: Written, at: int) -> None:
        """The header of a disk, whose data are whole sectors, which are the blocks of tar."""
        end = self._out.tell()
        self._out.seek(at)
        self._out.write(_member(name, written.size))
        self._out.seek(end)
        self._written.append((name, written))

    def end(self) -> tuple[Image, ...]:
        images = tuple(_image(*each) for each in self._written)
        descriptor = self._describe(images, _populated(self._written)).encode().ljust(self._room, b"\n")
        listed = manifest(f"{self._name}.ovf", descriptor, images).encode()
        with writing(self._unfinished):
            self._out.write(bytes(2 * BLOCK))
            self._out.seek(0)
            self._out.write(_member(f"{self._name}.ovf", len(descriptor)) + _fill(descriptor))
            self._out.write(_member(f"{self._name}.mf", len(listed)) + _fill(listed))
            _sync(self._out)
        self._unfinished.rename(self._path)
        size = self._path.stat().st_size
        return (Image(self._path.name, ImageFormat.VMDK, size, hashlib.sha256(listed).hexdigest()),)


def _populated(written: Sequence[tuple[str, Written]]) -> tuple[int, ...]:
    return tuple(each.populated for _, each in written)


def _image(name: str, written: Written) -> Image:
    return Image(name, ImageFormat.VMDK, written.size, written.digest)


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable by its owner only. Raises TargetError."""
    with writing(path):
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with closing(os.fdopen(handle, "w+b"), path) as file:
        yield file


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = MODE
    return info.tobuf(tarfile.USTAR_FORMAT if size < USTAR_LIMIT else tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _fill(content: bytes) -> bytes:
    return content.ljust(_padded(len(content)), b"\0")
