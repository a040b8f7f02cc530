"""Physical, virtual, changed there, and physical again on another machine, which boots from its own disk.

Another controller, another card, one disk larger and one smaller. Ten minutes each in emulation: for `make
matrix`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from fixtures.metal import DEFAULT_HARDWARE, start_metal
from fixtures.rescue import Plugged, blank_disk, boot_rescue
from p2v import command
from p2v.accelerator import Accelerator
from p2v.model import GiB, MiB
from tests.conftest import need_tools
from tests.e2e.cli import p2v

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.matrix, pytest.mark.timeout(3600)]

SERIAL = "OTHER-0001"
NEW_MAC = "3c:fd:fe:9d:11:02"
NEWS = "written inside the virtual machine\n"
LISTING = "cd {}/usr/bin && sha256sum -- $(find . -type f | LC_ALL=C sort) | sha256sum"


@dataclass(frozen=True, slots=True)
class Virtual:
    """A disk of the virtual machine, after it was in use, and what its programs are."""

    image: Path
    programs: str
    home: Path


@dataclass(frozen=True, slots=True)
class Target:
    """Other metal; `words` are what the user says of its size."""

    controller: str
    nic: str
    size: int
    words: tuple[str, ...]


TARGETS = {
    "nvme, larger": Target("nvme", "e1000", 6 * GiB, ("--grow", "1")),
    "megasas, smaller": Target("megasas", "vmxnet3", 3 * GiB + 512 * MiB, ("--shrink",)),
}


@pytest.fixture(scope="module")
def virtual(disk: BuiltDisk, accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> Virtual:
    """Converted, and changed by what stands for its months of service."""
    need_tools("losetup", "mount", "qemu-img")
    folder = tmp_path_factory.mktemp("virtual")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        words: list[str | Path] = ["--to", "libvirt", "--output", folder / "runs", "--name", "web"]
        done = p2v("convert", disk.image, *words, home=folder / "home")
    assert done.code == 0, done.stderr
    (qcow2,) = (folder / "runs" / "web" / "vm").rglob("*.qcow2")
    raw, used = folder / "used.raw", folder / "used.qcow2"
    image("convert", "-O", "raw", qcow2, raw)
    with mounted(raw, folder / "root") as root:
        (root / "root" / "news").write_text(NEWS)
        programs = shell(LISTING.format(root))
    image("convert", "-O", "qcow2", raw, used)
    raw.unlink()
    return Virtual(used, programs, folder / "home")


def image(*words: str | Path) -> None:
    command.check(["qemu-img", *words], timeout=300, reason="copy the disk")


def shell(script: str) -> str:
    return command.check(["sh", "-c", script], timeout=300, reason="look").strip()


@contextmanager
def mounted(raw: Path, place: Path) -> Iterator[Path]:
    table = json.loads(shell(f"sfdisk --json {raw}"))["partitiontable"]
    offset = table["partitions"][0]["start"] * 512
    place.mkdir()
    shell(f"mount -o loop,offset={offset} {raw} {place}")
    try:
        yield place
    finally:
        shell(f"umount {place}")


@pytest.mark.parametrize("name", TARGETS)
def test_a_virtual_machine_becomes_physical(
    name: str, virtual: Virtual, disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    target = TARGETS[name]
    own = blank_disk(tmp_path / "own.disk", target.size)
    hardware = replace(
        DEFAULT_HARDWARE, mac=NEW_MAC, disk_serial=SERIAL, uuid="6a1f2f10-9d3c-11e6-8f4b-3cfdfe9d1102"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with boot_rescue(
            [Plugged(own, SERIAL)], controller=target.controller, nic=target.nic, hardware=hardware
        ) as metal:
            assert metal.key
            words: list[str | Path] = [
                "--to",
                f"ssh://root@127.0.0.1:{metal.port}",
                "--output",
                tmp_path / "runs",
            ]
            words += ["--identity", metal.key, "--known-hosts", metal.known_hosts, *target.words]
            words += ["--disk", f"0={SERIAL}", "--erase", SERIAL, "--json"]
            done = p2v("restore", virtual.image, *words, home=virtual.home)
            assert done.code == 0, done.stderr
            metal.ssh(["sync"])
        receipt = done.json()
        print(name, receipt["disks"], receipt["license"], done.stderr)
        assert receipt["license"]["units"] == 1
        assert receipt["disks"][0]["sent_size"] < 0.6 * target.size
        there = replace(hardware, controller=target.controller, nic=target.nic)
        with start_metal(own, in_place=True, key=disk.key, host_key=disk.host_key, hardware=there) as booted:
            booted.wait_for_ssh()
            assert booted.ssh(["cat", "/root/news"]) == NEWS
            assert booted.ssh(["sh", "-c", LISTING.format("")], timeout=600).strip() == virtual.programs
            assert booted.ssh(["systemctl", "--failed", "--no-legend"]).strip() == ""
            size = int(booted.ssh(["findmnt", "-bno", "SIZE", "/"]))
            assert (size > 4 * GiB) == (target.size > 4 * GiB)
            booted.power_off()
