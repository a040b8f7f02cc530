"""An image that was made ready, as it is opened for writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2v.errors import TargetError
from p2v.model import Disk, ImageFormat, MiB
from p2v.restore.job import Kind
from p2v.restore.model import DiskMove, PreparedDisk, Resize, SourceDisk
from p2v.restore.rooms import _open_job

SIZE = 6 * MiB


def opened(folder: Path, content: bytes, size: int) -> tuple[int, bytes]:
    """What is written of a file of which `size` bytes count."""
    path = folder / "disk0.raw"
    path.write_bytes(content)
    source = SourceDisk(path, ImageFormat.RAW, Disk(str(path), len(content)))
    move = DiskMove(0, source, Disk("/dev/sda", size, serial="S1"), Resize.SHRINK)
    with _open_job(folder, Kind.RESTORE, move, PreparedDisk(path, ImageFormat.RAW, size), folder) as job:
        return job.size, b"".join(block.data for block in job.device.fetch(job.requests()))


def test_only_what_counts_of_a_shrunk_image_is_written(tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    size = SIZE - 2 * MiB
    assert opened(tmp_path, content, size) == (size, content[:size])


def test_an_image_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="instead of"):
        opened(tmp_path, os.urandom(SIZE), SIZE + 512)
