"""A private SSH server stands for a machine with a rescue system, files and loop devices for its disks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v import command
from p2v.model import Disk
from p2v.transports import RescueTransport, SshOptions, open_transport
from tests.conftest import need_tools
from tests.sshd import Sshd, private_sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("the writer must run as root")
    with private_sshd(tmp_path / "sshd") as server:
        yield server


def options(sshd: Sshd) -> SshOptions:
    return SshOptions(identity=sshd.identity, known_hosts=sshd.known_hosts, config_file=Path(os.devnull))


@contextmanager
def rescue(sshd: Sshd) -> Iterator[RescueTransport]:
    with open_transport(sshd.url, options(sshd)) as transport:
        assert isinstance(transport, RescueTransport)
        yield transport


@contextmanager
def loop_device(image: Path) -> Iterator[Disk]:
    """A file as a block device of the machine."""
    need_tools("losetup")
    found = command.check(["losetup", "--find", "--show", image], timeout=30, reason="make a disk")
    path = found.strip()
    try:
        yield Disk(path, image.stat().st_size)
    finally:
        command.check(["losetup", "--detach", path], timeout=30, reason="take the disk away")
