"""A private SSH server stands for a machine with a rescue system, files and loop devices for its disks."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_tools
from tests.restore.commands import SERIAL, SIZE, Place, make_image
from tests.restore.metal import metal_disk
from tests.sshd import Sshd, private_sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("the writer must run as root")
    with private_sshd(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def place(sshd: Sshd, tmp_path: Path) -> Iterator[Place]:
    """A machine with one disk, full of noise."""
    disk = tmp_path / "metal.disk"
    disk.write_bytes(random.Random(7).randbytes(SIZE))
    with metal_disk(disk, SERIAL) as metal:
        yield Place(sshd, tmp_path, metal)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk with a partition of ext4 with files in it; most of it is free."""
    return make_image(tmp_path / "image.raw", tmp_path / "files")
