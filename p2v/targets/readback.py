"""Compares an image with the disk it was written from where the disk has data, and around it.

`qemu-img compare` does the same for the whole disk, and asks the image first where it has data. QEMU's VHDX
driver cannot say (it has no block status), so a terabyte of nothing would be read from it for minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v.disk.device import BlockDevice
from p2v.disk.nbd import open_nbd_device, serve_image
from p2v.errors import TargetError, TransportError, VerifyError
from p2v.model import BLOCK_SIZE, ImageFormat, MiB
from p2v.targets.overlay_reader import OverlayReader

NEIGHBOURS = 64 * MiB
"""The largest unit in which QEMU allocates a VHDX: what lies in one with data is compared too."""

MOSTLY_EMPTY = 8
"""From this ratio of size to data on, it is quicker to ask for the data than to read everything."""

SECTOR = 512


def compare_used(reader: OverlayReader, image: Path, image_format: ImageFormat) -> None:
    """Raises VerifyError where they differ, TargetError where the image cannot be read."""
    with _opened(image, image_format) as device:
        if device.size < reader.size:
            raise VerifyError(f"{image} is smaller than what it was written from")
        for offset, content in _with_neighbours(reader):
            if device.read(offset, len(content)) != content:
                raise VerifyError(f"{image} differs from what it was written from, near byte {offset}")


def _with_neighbours(reader: OverlayReader) -> Iterator[tuple[int, bytearray]]:
    """Every block of each unit in which any block has data, in order."""
    done = 0
    for offset, block in reader.blocks():
        unit = offset // NEIGHBOURS * NEIGHBOURS
        # Behind the last one up to the end of its unit, and from the start of this one's.
        yield from _zeros(done, min(_end_of_unit(done), unit), reader.size)
        yield from _zeros(max(done, unit), offset, reader.size)
        yield offset, block
        done = offset + len(block)
    yield from _zeros(done, min(_end_of_unit(done), reader.size), reader.size)


def _end_of_unit(done: int) -> int:
    return -(-done // NEIGHBOURS) * NEIGHBOURS


def _zeros(start: int, end: int, size: int) -> Iterator[tuple[int, bytearray]]:
    for offset in range(start, end, BLOCK_SIZE):
        yield offset, bytearray(min(BLOCK_SIZE, size - offset))


@contextmanager
def _opened(image: Path, image_format: ImageFormat) -> Iterator[BlockDevice]:
    """The finished image as a disk. Raises TargetError, also for what is read in the block."""
    try:
        with serve_image(image, image_format) as socket, open_nbd_device(socket, SECTOR) as device:
            yield device
    except TransportError as error:
        raise TargetError(
            f"{image} cannot be read again: {error.message}", hint=f"Try: qemu-img check {image}"
        ) from error
