"""Compares an image with the disk it was written from where the disk has data, and around it.

`qemu-img compare` does the same for the whole disk, and asks the image first where it has data. QEMU's VHDX
driver cannot say (it has no block status), so a terabyte of nothing would be read from it for minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from p2v import command
from p2v.errors import TargetError, VerifyError
from p2v.model import BLOCK_SIZE, ImageFormat, MiB
from p2v.targets.overlay_reader import OverlayReader

NEIGHBOURS = 64 * MiB
"""The largest unit in which QEMU allocates a VHDX: what lies in one with data is compared too."""

MOSTLY_EMPTY = 8
"""From this ratio of size to data on, it is quicker to ask for the data than to read everything."""

START_SECONDS = 30.0
POLL_SECONDS = 0.02


def compare_used(reader: OverlayReader, image: Path, image_format: ImageFormat) -> None:
    """Raises VerifyError where they differ, TargetError where the image cannot be read."""
    with _served(image, image_format) as handle:
        if int(handle.get_size()) < reader.size:
            raise VerifyError(f"{image} is smaller than what it was written from")
        for offset, content in _with_neighbours(reader):
            if _read(handle, offset, len(content), image) != content:
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


def _read(handle: Any, offset: int, length: int, image: Path) -> bytes:
    try:
        return bytes(handle.pread(length, offset))
    except Exception as error:  # nbd.Error is made by the extension and has no base class of its own
        raise TargetError(f"{image} cannot be read at byte {offset}: {error}") from error


@contextmanager
def _served(image: Path, image_format: ImageFormat) -> Iterator[Any]:
    try:
        import nbd
    except ImportError as error:
        raise TargetError(
            "libnbd is needed to check this disk format", hint="Try: sudo apt install python3-libnbd"
        ) from error
    server = command.need_tool("qemu-nbd", reason="check the written disk", package="qemu-utils")
    with TemporaryDirectory(prefix="p2v-nbd-") as folder:
        socket = Path(folder) / "nbd"
        words = [server, "--read-only", "--persistent", f"--format={image_format}", f"--socket={socket}"]
        with command.start([*words, str(image)]) as child:
            handle = _connect(nbd, socket, child, image)
            try:
                yield handle
            finally:
                # The binding has no close: the connection ends with the object.
                with suppress(nbd.Error):
                    handle.shutdown()


def _connect(nbd: Any, socket: Path, child: command.Child, image: Path) -> Any:
    """A connection to the server, which answers some time after its socket is there."""
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        handle = nbd.NBD()
        with suppress(nbd.Error):
            handle.connect_unix(str(socket))
            return handle
        time.sleep(POLL_SECONDS)
    raise TargetError(f"qemu-nbd cannot open {image}", hint=f"Try: qemu-img check {image}")
