"""The images of a restore: overlays that are as large as they must be, and a writer of single places of
them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v import command
from p2v.disk.nbd import NbdWriter, open_nbd_writer, serve_for_writing
from p2v.model import ImageFormat
from p2v.restore.model import SourceDisk

CREATE_SECONDS = 120.0


def make_overlay(source: SourceDisk, overlay: Path, size: int) -> None:
    """An empty qcow2 on the image, which is only read from then on; `size` bytes, or the image's own where
    that is more. Raises TargetError.
    """
    tool = command.need_tool("qemu-img", reason="make an image", package="qemu-utils")
    backing = os.path.relpath(source.path.resolve(), overlay.parent.resolve())
    larger = str(max(size, source.disk.size))
    argv = [
        tool,
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        source.format.value,
        "-b",
        backing,
        str(overlay),
        larger,
    ]
    overlay.unlink(missing_ok=True)
    overlay.touch(mode=0o600)  # password files of the guest are in it
    command.check(argv, timeout=CREATE_SECONDS, reason=f"make an overlay on {source.path}")


@contextmanager
def open_overlay(overlay: Path, sector_size: int) -> Iterator[NbdWriter]:
    """Read and write single places of an overlay. Raises TransportError."""
    with (
        serve_for_writing(overlay, ImageFormat.QCOW2) as socket,
        open_nbd_writer(socket, sector_size) as device,
    ):
        yield device
