"""What a virtual machine has become goes back onto the metal that it came from, which then starts by itself.

Captured cold and converted from the rescue system, in service on virtual devices, and rolled back with what
it has now. Ten minutes in emulation: for `make matrix`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.build import BuiltDisk
from fixtures.metal import DEFAULT_HARDWARE, Inside, Metal, monitor_command, start_metal, switched_on
from fixtures.rescue import Plugged, boot_rescue, filled_disk
from p2v import command
from p2v.accelerator import Accelerator
from p2v.disk import extents
from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.model import Disk, KiB
from tests.conftest import need_tools
from tests.e2e.cli import p2v

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.matrix, pytest.mark.timeout(3600)]

SERIAL = "S3Z8NB0K123456"
OWN = replace(DEFAULT_HARDWARE, disk_serial=SERIAL)
VIRTUAL = replace(
    DEFAULT_HARDWARE, controller="virtio-blk", nic="virtio-net-pci", nic_slot=7, disk_serial="",
    vendor="QEMU", product="Standard PC",
)  # fmt: skip
"""The card sits elsewhere, so that its name would be another one."""
NEWS = "written inside the virtual machine\n"
PIECE = 64 * KiB
REPEATED = 8 * 1024 * KiB
"""Bytes that a repetition would send: the conversion made the same files once more, at another time."""

CHANGE = f"""
set -e
printf '{NEWS}' > /root/news
head -c 20000000 /dev/urandom > /srv/new
rm -f /usr/share/common-licenses/Artistic
sha256sum /srv/new
"""
INSIDE = """
echo "news=$(cat /root/news)"
echo "new=$(sha256sum /srv/new)"
echo "gone=$(ls /usr/share/common-licenses/Artistic 2>/dev/null)"
echo "damage=$(cd /srv && sha256sum --quiet --check MANIFEST 2>&1)"
echo "card=$(basename $(readlink -f /sys/class/net/enp0s4/device/driver))"
echo "mac=$(cat /sys/class/net/enp0s4/address)"
echo "address=$(ip -o -4 addr show dev enp0s4 | awk '{print $4}')"
echo "disk=$(lsblk -ndo SERIAL /dev/sda)"
echo "failed=$(systemctl --failed --no-legend --plain)"
"""
"""One command, as each takes seconds in emulation."""


@dataclass(frozen=True, slots=True)
class Trip:
    """The machine in its rescue system, and where the runs and the license are kept."""

    metal: Metal
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def source(self) -> str:
        return f"ssh://root@127.0.0.1:{self.metal.port}"

    @property
    def login(self) -> list[str | Path]:
        assert self.metal.key
        return ["--identity", self.metal.key, "--known-hosts", self.metal.known_hosts]

    def run(self, *words: str | Path) -> Any:
        done = p2v(*words, *self.login, "--json", home=self.home)
        assert done.code == 0, done.stderr
        return done.json()

    def rollback(self, image: Path, *words: str) -> Any:
        return self.run("rollback", self.runs / "metal12", "--from", image, *words)

    def used_units(self) -> int:
        used = p2v("license", "show", "--json", home=self.home).json()["used"]
        assert isinstance(used, int)
        return used


def test_what_the_virtual_machine_has_goes_back(
    disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    need_tools("qemu-img", "ssh-keyscan")
    own = filled_disk(disk.image, tmp_path / "own.disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with boot_rescue([Plugged(own, SERIAL)], hardware=OWN) as metal:
            trip = Trip(metal, tmp_path)
            image = converted(trip)
            with paused(metal):
                new = in_service(image, disk, tmp_path)
            before = filled_disk(own, tmp_path / "before.disk")
            goes_back(trip, image, before)
            metal.ssh(["sync"])
        with start_metal(own, in_place=True, key=disk.key, host_key=disk.host_key, hardware=OWN) as machine:
            machine.wait_for_ssh()
            look_inside(machine, new)
            machine.power_off()


def converted(trip: Trip) -> Path:
    """The disk of the virtual machine, made from the machine as it is switched off."""
    words: list[str | Path] = ["--to", "libvirt", "--output", trip.runs, "--name", "metal12"]
    receipt = trip.run("convert", trip.source, *words)
    assert receipt["capture"]["reached"]["grade"] == "offline"
    assert trip.used_units() == 1
    (image,) = (trip.runs / "metal12" / "vm").rglob("*.qcow2")
    return Path(shutil.copy(image, trip.folder / "vm.qcow2"))


@contextmanager
def paused(metal: Metal) -> Iterator[None]:
    """Two emulated machines at once stall each other."""
    monitor_command(metal.monitor, "stop")
    yield
    monitor_command(metal.monitor, "cont")


def in_service(image: Path, disk: BuiltDisk, folder: Path) -> str:
    """The virtual machine runs on its own disk and is changed; the digest of a new file."""
    place = folder / "vm"
    place.mkdir()
    inside = Inside(((image, "qcow2", ""),))
    with switched_on(VIRTUAL, inside, place, key=disk.key, host_key=disk.host_key) as machine:
        machine.wait_for_ssh()
        said = machine.ssh(["sh", "-c", CHANGE], timeout=300)
        machine.power_off()
    return said.strip()


def goes_back(trip: Trip, image: Path, before: Path) -> None:
    """Foretold, done, and foretold again; only what differs travels, and it costs nothing.

    What was captured then was removed, to have its space.
    """
    (trip.runs / "metal12" / "capture" / "disk0.raw").unlink()
    forecast = trip.rollback(image, "--check")
    receipt = trip.rollback(image, "--yes")
    prepared = trip.runs / "metal12-rollback" / "prepare" / "disk0.qcow2"
    differing, used = difference(prepared, before, trip.folder / "after.disk")
    (written,) = receipt["disks"]
    print(f"differing {differing} of {used}, forecast {forecast['differing_size']}, written {written}")
    print(f"forecast {forecast['seconds']} s at {forecast['rate']}, steps {receipt['steps']}")
    assert differing < used / 2
    assert 0 < written["sent_size"] <= 1.1 * differing
    assert written["wire_size"] <= 1.1 * differing
    assert abs(forecast["differing_size"] - written["sent_size"]) <= REPEATED
    assert receipt["license"]["units"] == 0
    assert trip.used_units() == 1
    again = trip.rollback(image, "--check")
    print(f"again {again['differing_size']}")
    assert again["differing_size"] <= REPEATED


def difference(prepared: Path, before: Path, after: Path) -> tuple[int, int]:
    """Bytes of the pieces, among those used, that differ between two disks; and of all that is used."""
    words: list[str | Path] = ["qemu-img", "convert", "-O", "raw", prepared, after]
    command.check(words, timeout=300, reason="read the disk")
    with open_file_device(after) as device:
        used = disk_map(device, Disk("disk", device.size)).extents
    pieces = sorted({at for one in used for at in range(one.start // PIECE, -(-one.end // PIECE))})
    with before.open("rb") as old, after.open("rb") as new:
        differing = sum(piece(old.fileno(), at) != piece(new.fileno(), at) for at in pieces)
    return differing * PIECE, extents.total(used)


def piece(file: int, number: int) -> bytes:
    return os.pread(file, PIECE, number * PIECE)


def look_inside(machine: Metal, new: str) -> None:
    """The data of the virtual machine, and the devices of the metal."""
    lines = machine.ssh(["sh", "-c", INSIDE], timeout=300).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found["news"] == NEWS.strip()
    assert found["new"] == new
    assert found["gone"] == ""
    assert found["damage"] == ""
    assert (found["card"], found["mac"]) == ("e1000e", OWN.mac)
    assert found["address"] == "10.77.0.15/24"
    assert found["disk"] == SERIAL
    assert found["failed"] == ""
