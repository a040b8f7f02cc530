"""A disk image of any format, served by qemu-nbd on a local socket and read with libnbd (python3-libnbd)."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from p2v import command
from p2v.disk.device import READ_ERRORS, BlockDevice, PlainReads
from p2v.errors import ReadError, TransportError
from p2v.model import ImageFormat, MiB

START_SECONDS = 20.0
LISTEN_SECONDS = 10.0
POLL_SECONDS = 0.02
LARGEST_READ = 16 * MiB
"""Servers refuse reads above 32 MiB (NBD protocol, "maximum payload")."""


class NbdDevice(PlainReads):
    def __init__(self, handle: Any, *, sector_size: int) -> None:
        self._handle = handle
        self._sector_size = sector_size
        self._size = int(handle.get_size())

    @property
    def size(self) -> int:
        return self._size

    @property
    def sector_size(self) -> int:
        return self._sector_size

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length, "the image")
        pieces = []
        while length:
            step = min(length, LARGEST_READ)
            pieces.append(self._pread(step, offset))
            offset, length = offset + step, length - step
        return b"".join(pieces)

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return bytes(self._handle.pread(length, offset))
        except Exception as error:  # nbd.Error is made by the extension and has no base class of its own
            message = f"Cannot read the image at byte {offset}: {error}"
            if getattr(error, "errnum", None) in READ_ERRORS:
                raise ReadError(message, offset=offset) from error
            raise TransportError(message) from error


@contextmanager
def serve_image(path: Path, image_format: ImageFormat) -> Iterator[Path]:
    """qemu-nbd on a private socket, read-only, for as long as the block lasts.

    Raises TransportError, and TargetError where qemu-nbd is not installed.
    """
    tool = command.need_tool("qemu-nbd", reason=f"read {image_format} images", package="qemu-utils")
    with TemporaryDirectory(prefix="p2v-nbd-") as folder:
        socket = Path(folder) / "image.sock"
        options = ["--read-only", "--persistent", "--shared=4", f"--format={image_format}"]
        argv = [tool, *options, f"--socket={socket}", str(path)]
        with command.start(argv) as child:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise TransportError(f"qemu-nbd cannot serve {path}")
                time.sleep(POLL_SECONDS)
            yield socket


@contextmanager
def open_nbd_device(socket: Path, sector_size: int) -> Iterator[BlockDevice]:
    """Raises TransportError where libnbd is missing or the server does not answer."""
    try:
        import nbd
    except ImportError as error:
        raise TransportError(
            "libnbd is needed to read this image format", hint="Try: sudo apt install python3-libnbd"
        ) from error
    try:
        handle = _connect(nbd, socket)
        try:
            yield NbdDevice(handle, sector_size=sector_size)
        finally:
            # The binding has no close: the connection ends with the object.
            with suppress(nbd.Error):
                handle.shutdown()
    except nbd.Error as error:
        raise TransportError(f"The image cannot be read: {error}") from error


def _connect(nbd: Any, socket: Path) -> Any:
    """A server binds its socket, which is then there, a moment before it listens. Raises nbd.Error."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while True:
        handle = nbd.NBD()
        try:
            handle.connect_unix(str(socket))
        except nbd.Error as error:
            if error.errnum != errno.ECONNREFUSED or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return handle
