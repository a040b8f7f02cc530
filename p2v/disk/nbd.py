"""A disk image of any format, served by qemu-nbd on a local socket and read with libnbd (python3-libnbd)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
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

LARGEST_ZERO = 1024 * MiB
ALLOCATION = "base:allocation"
STATE_ZERO = 2
"""NBD_STATE_ZERO of the context base:allocation."""


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


class NbdWriter(NbdDevice):
    """An image of which single places are written, too."""

    def write(self, offset: int, content: bytes) -> None:
        """Raises TransportError where it cannot be written, or where it has no such place."""
        self.check_range(offset, len(content), "the image")
        for start in range(0, len(content), LARGEST_READ):
            piece = content[start : start + LARGEST_READ]
            self._do(f"write the image at byte {offset + start}", self._handle.pwrite, piece, offset + start)

    def zero(self, offset: int, length: int) -> None:
        """Make zeros of a range, without a buffer of that size. Raises TransportError."""
        self.check_range(offset, length, "the image")
        for start in range(offset, offset + length, LARGEST_ZERO):
            step = min(LARGEST_ZERO, offset + length - start)
            self._do(f"write the image at byte {start}", self._handle.zero, step, start)

    def data(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The (offset, length) in a range that are not known to be zeros. Raises TransportError."""
        self.check_range(offset, length, "the image")
        end = offset + length
        while offset < end:
            for size, flags in self._status(offset, min(LARGEST_ZERO, end - offset)):
                if not flags & STATE_ZERO:
                    yield offset, size
                offset += size

    def _status(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Sizes with their flags, in order, from `offset` on; at least one and none beyond `length`."""
        found: list[int] = []

        def take(_: str, __: int, entries: list[int], ___: int) -> int:
            found.extend(entries)
            return 0

        self._do(f"look at the image at byte {offset}", self._handle.block_status, length, offset, take)
        for size, flags in zip(found[::2], found[1::2], strict=True):
            step = min(size, length)
            length -= step
            if step:
                yield step, flags

    def flush(self) -> None:
        """Everything is on the disk of this machine afterwards. Raises TransportError."""
        self._do("write the image", self._handle.flush)

    def _do(self, what: str, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as error:  # as above
            raise TransportError(f"Cannot {what}: {error}") from error


@contextmanager
def serve_image(path: Path, image_format: ImageFormat) -> Iterator[Path]:
    """qemu-nbd on a private socket, read-only, for as long as the block lasts.

    Raises TransportError, and TargetError where qemu-nbd is not installed.
    """
    with _serving(path, image_format, ("--read-only", "--shared=4")) as socket:
        yield socket


@contextmanager
def serve_for_writing(path: Path, image_format: ImageFormat) -> Iterator[Path]:
    """As `serve_image`, for one that reads and writes."""
    # What matters is flushed at the end; zeros are holes wherever the format has them.
    with _serving(
        path, image_format, ("--cache=writeback", "--discard=unmap", "--detect-zeroes=unmap")
    ) as socket:
        yield socket


@contextmanager
def _serving(path: Path, image_format: ImageFormat, options: Sequence[str]) -> Iterator[Path]:
    tool = command.need_tool("qemu-nbd", reason=f"read {image_format} images", package="qemu-utils")
    with TemporaryDirectory(prefix="p2v-nbd-") as folder:
        socket = Path(folder) / "image.sock"
        argv = [tool, *options, "--persistent", f"--format={image_format}"]
        argv += [f"--socket={socket}", str(path)]
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
    with _connection(socket) as handle:
        yield NbdDevice(handle, sector_size=sector_size)


@contextmanager
def open_nbd_writer(socket: Path, sector_size: int) -> Iterator[NbdWriter]:
    """As `open_nbd_device`, of a server that takes writes; they are flushed at the end."""
    with _connection(socket) as handle:
        device = NbdWriter(handle, sector_size=sector_size)
        yield device
        device.flush()


@contextmanager
def _connection(socket: Path) -> Iterator[Any]:
    try:
        import nbd
    except ImportError as error:
        raise TransportError(
            "libnbd is needed to read this image format", hint="Try: sudo apt install python3-libnbd"
        ) from error
    try:
        handle = _connect(nbd, socket)
        try:
            yield handle
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
        handle.add_meta_context(ALLOCATION)
        try:
            handle.connect_unix(str(socket))
        except nbd.Error as error:
            if error.errnum != errno.ECONNREFUSED or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return handle
