"""Reads a converted disk through its overlay, what is in use only: qemu-nbd serves it, libnbd asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from p2v import command
from p2v.errors import TargetError
from p2v.model import ImageFormat, MiB

START_SECONDS = 30.0
CHUNK = 2 * MiB
ASK = 1024 * MiB
"""How much of the disk one question about its extents covers; the protocol has 32 bits for it."""

CONTEXT = "base:allocation"
ZERO = 2
"""NBD_STATE_ZERO: reads as zeros (NBD protocol, "base:allocation" metadata context)."""


class OverlayReader:
    """A disk of `size` bytes. Raises TargetError where it cannot be read."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.size = int(handle.get_size())

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(offset, content) of all that may be other than zero: whole chunks, in order."""
        done = 0
        for start, end in self._used():
            at = max(start // CHUNK * CHUNK, done)
            while at < end:
                length = min(CHUNK, self.size - at)
                yield at, bytes(self._handle.pread(length, at))
                at += length
            done = max(done, at)

    def _used(self) -> Iterator[tuple[int, int]]:
        at = 0
        while at < self.size:
            for length, flags in self._extents(at, min(ASK, self.size - at)):
                end = min(at + length, self.size)
                if not flags & ZERO:
                    yield at, end
                at = end

    def _extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []

        def note(name: str, start: int, entries: list[int], error: Any) -> None:
            if name == CONTEXT:
                found.extend(zip(entries[::2], entries[1::2], strict=True))

        self._handle.block_status(length, offset, note)
        # A server without an answer: everything may be in use.
        return found or [(length, 0)]


@contextmanager
def open_overlay(path: Path, image_format: ImageFormat = ImageFormat.QCOW2) -> Iterator[OverlayReader]:
    """Raises TargetError where qemu-nbd or libnbd is missing, or the image cannot be read."""
    try:
        import nbd
    except ImportError as error:
        raise TargetError(
            "libnbd is needed to write this disk format", hint="Try: sudo apt install python3-libnbd"
        ) from error
    server = command.need_tool("qemu-nbd", reason="read the converted disk", package="qemu-utils")
    with TemporaryDirectory(prefix="p2v-nbd-") as folder:
        socket = Path(folder) / "nbd"
        words = [server, "--read-only", "--persistent", f"--format={image_format}", f"--socket={socket}"]
        with command.start([*words, str(path)]) as child:
            handle = _connect(nbd, socket, child, path)
            try:
                yield OverlayReader(handle)
            except nbd.Error as error:
                raise TargetError(f"{path} cannot be read: {error}") from error
            finally:
                # The binding has no close: the connection ends with the object.
                with suppress(nbd.Error):
                    handle.shutdown()


def _connect(nbd: Any, socket: Path, child: command.Child, path: Path) -> Any:
    """A connection to the server, which is there some time after its socket."""
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        handle = nbd.NBD()
        handle.add_meta_context(CONTEXT)
        with suppress(nbd.Error):
            handle.connect_unix(str(socket))
            return handle
        time.sleep(0.02)
    raise TargetError(f"qemu-nbd cannot open {path}", hint=f"Try: qemu-img check {path}")
