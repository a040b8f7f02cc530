"""This machine as metal in a rescue system: its disks are loop devices with serials, told by a note for udev.

`python -m tests.restore.metal …` is p2v with a survey that lists only these disks; everything else (login,
scripts, locks of the kernel, writes) is as it is with a real machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from p2v import command
from p2v.model import Disk, Firmware
from p2v.restore.writing import DiskWriter
from p2v.transports import RescueTransport, SshOptions, Survey, open_transport, writer_client
from p2v.transports.ssh import SshTransport
from tests.conftest import need_tools
from tests.sshd import Sshd

UDEV = Path("/run/udev/data")
DISKS, FIRMWARE, UUID = "P2V_TEST_DISKS", "P2V_TEST_FIRMWARE", "P2V_TEST_UUID"
SLOW = "P2V_TEST_SLOW"
MACHINE = "4c4c4544-0000-1000-8000-0000000000aa"


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


@dataclass(frozen=True, slots=True)
class MetalDisk:
    """A disk of the machine; `image` is the file behind it."""

    disk: Disk
    image: Path


@contextmanager
def metal_disk(image: Path, serial: str) -> Iterator[MetalDisk]:
    """A loop device that udev knows by a serial."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    with loop_device(image) as disk:
        number = Path(disk.path).stat().st_rdev
        note = UDEV / f"b{os.major(number)}:{os.minor(number)}"
        UDEV.mkdir(parents=True, exist_ok=True)
        before = note.read_bytes() if note.exists() else None
        note.write_text(f"E:ID_SERIAL_SHORT={serial}\n")
        try:
            yield MetalDisk(replace(disk, serial=serial), image)
        finally:
            note.unlink() if before is None else note.write_bytes(before)


def environment(*disks: MetalDisk, uuid: str = MACHINE, firmware: Firmware = Firmware.BIOS) -> dict[str, str]:
    """What the machine below is made of."""
    words = ",".join(f"{one.disk.path}={one.disk.serial}" for one in disks)
    return {DISKS: words, FIRMWARE: firmware.value, UUID: uuid}


def pretend() -> None:
    """From here on, a machine that answers over SSH has these disks."""
    honest = SshTransport.survey

    def survey(self: SshTransport) -> Survey:
        found = honest(self)
        pairs = [word.rpartition("=") for word in os.environ[DISKS].split(",")]
        with self.open_guard() as guard:
            used = {use.path: use.used for use in guard.usage([path for path, _, _ in pairs]).disks}
        disks = tuple(
            Disk(path, size_of(path), serial=serial, model="Loop", idle=not used.get(path, True))
            for path, _, serial in pairs
        )
        firmware = Firmware(os.environ[FIRMWARE])
        machine = replace(found.machine, disks=disks, uuid=os.environ[UUID], firmware=firmware)
        return replace(found, machine=machine)

    SshTransport.survey = survey  # type: ignore[method-assign]
    if os.environ.get(SLOW):
        slow_down()


def slow_down() -> None:
    """Each block takes a moment and few are on their way, so that there is something to interrupt."""
    honest = DiskWriter._count

    def count(self: DiskWriter, size: int, seconds: float) -> None:
        time.sleep(0.1)
        honest(self, size, seconds)

    DiskWriter._count = count  # type: ignore[method-assign]
    writer_client.IN_FLIGHT = 2


def size_of(path: str) -> int:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(handle, 0, os.SEEK_END)
    finally:
        os.close(handle)


if __name__ == "__main__":
    from p2v import cli

    pretend()
    sys.argv[0] = "p2v"
    cli.main()
