"""Physical, virtual, changed there, and physical again on another machine, which boots from its own disks.

Another controller, another card, one disk larger and one smaller; and a machine of several disks, plugged in
otherwise. A quarter of an hour in emulation: for `make matrix`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest

from fixtures.build import BuiltDisk
from fixtures.matrix import HOSTS, BuiltHost, build_host
from fixtures.metal import DEFAULT_HARDWARE, Hardware, Inside, Metal, start_metal, switched_on
from fixtures.rescue import Plugged, blank_disk, boot_rescue
from p2v.accelerator import Accelerator
from p2v.journal import RECEIPT
from p2v.model import GiB, MiB
from tests.conftest import need_tools
from tests.e2e.cli import p2v
from tests.e2e.trial import boot_order, source_of

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.matrix, pytest.mark.timeout(3600)]

SERIAL = "OTHER-0001"
OTHER = replace(
    DEFAULT_HARDWARE,
    mac="3c:fd:fe:9d:11:02",
    disk_serial=SERIAL,
    uuid="6a1f2f10-9d3c-11e6-8f4b-3cfdfe9d1102",
)
"""Metal of the same vendor that is another machine."""
VIRTUAL = replace(
    DEFAULT_HARDWARE,
    controller="virtio-blk",
    nic="virtio-net-pci",
    vendor="QEMU",
    product="Standard PC",
)
"""What libvirt gives to the machine; its address is that of the description that was made for it."""
NEWS = "written inside the virtual machine\n"
USE = f"""
printf {shlex.quote(NEWS)} > /root/news
head -c 16M /dev/urandom > /root/blob
sha256sum /root/blob > /root/blob.sum
sync
"""
LISTING = "cd /usr/bin && sha256sum -- $(find . -type f | LC_ALL=C sort) | sha256sum"
DAMAGE = "cd /srv && sha256sum --quiet --check MANIFEST 2>&1"


@dataclass(frozen=True, slots=True)
class Virtual:
    """The disk of the virtual machine, after it was in use, and what its programs are."""

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
    """Converted, started as a virtual machine, and changed in there by what stands for months of service."""
    folder = tmp_path_factory.mktemp("virtual")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        words: list[str | Path] = ["--to", "libvirt", "--output", folder / "runs", "--name", "web", "--json"]
        done = p2v("convert", disk.image, *words, home=folder / "home")
        assert done.code == 0, done.stderr
        (output,) = RECEIPT.validate_json(done.stdout).outputs
        (own,), (card,) = output.vm.disks, output.vm.nics
        image = folder / "runs" / "web" / "vm" / output.platform.label / own.file
        inside = Inside(((image, own.format, "VIRTUAL"),))
        hardware = replace(VIRTUAL, mac=card.mac)
        with running(hardware, inside, disk) as machine:
            assert machine.ssh(["findmnt", "-no", "SOURCE", "/"]).startswith("/dev/vda")
            machine.ssh(["sh", "-c", USE])
            programs = listing(machine)
            machine.power_off()
    return Virtual(image, programs, folder / "home")


@contextmanager
def running(hardware: Hardware, inside: Inside, built: BuiltDisk | BuiltHost) -> Iterator[Metal]:
    """The machine on these disks, which it writes to, once it answers by the key that it was built with."""
    with (
        TemporaryDirectory(prefix="p2v-restore-") as folder,
        switched_on(hardware, inside, Path(folder), key=built.key, host_key=built.host_key) as machine,
    ):
        machine.wait_for_ssh()
        yield machine


def listing(machine: Metal) -> str:
    """One digest of all programs and their names, by the machine itself."""
    return machine.ssh(["sh", "-c", LISTING], timeout=600).strip()


def restore(
    metal: Metal, source: str | Path, words: tuple[str | Path, ...], *, folder: Path, home: Path
) -> Any:
    """By a user on the desktop, onto the machine in its rescue system; the receipt."""
    assert metal.key
    login: list[str | Path] = ["--to", f"ssh://root@127.0.0.1:{metal.port}"]
    login += ["--identity", metal.key, "--known-hosts", metal.known_hosts]
    done = p2v("restore", source, *login, "--output", folder / "runs", *words, "--json", home=home)
    assert done.code == 0, done.stderr
    metal.ssh(["sync"])
    receipt = done.json()
    print(receipt["disks"], receipt["license"], receipt["warnings"], done.stderr)
    assert receipt["license"]["units"] == 1
    return receipt


@pytest.mark.parametrize("name", TARGETS)
def test_a_virtual_machine_becomes_physical(
    name: str,
    virtual: Virtual,
    disk: BuiltDisk,
    accelerator: Accelerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("P2V_ACCEL", accelerator)
    target = TARGETS[name]
    # Each is a machine of its own: the same one again would cost nothing.
    identity = str(uuid5(NAMESPACE_OID, name))
    hardware = replace(OTHER, controller=target.controller, nic=target.nic, uuid=identity)
    own = blank_disk(tmp_path / "own.disk", target.size)
    plugged = [Plugged(own, SERIAL)]
    with boot_rescue(plugged, controller=target.controller, nic=target.nic, hardware=hardware) as metal:
        words = (*target.words, "--disk", f"0={SERIAL}", "--erase", SERIAL)
        receipt = restore(metal, virtual.image, words, folder=tmp_path, home=virtual.home)
    assert receipt["disks"][0]["sent_size"] < 0.6 * target.size
    with start_metal(own, in_place=True, key=disk.key, host_key=disk.host_key, hardware=hardware) as booted:
        booted.wait_for_ssh()
        assert booted.ssh(["cat", "/root/news"]) == NEWS
        assert booted.ssh(["sha256sum", "--check", "/root/blob.sum"]) == "/root/blob: OK\n"
        assert booted.ssh(["sh", "-c", DAMAGE]) == ""
        assert listing(booted) == virtual.programs
        assert booted.ssh(["systemctl", "--failed", "--no-legend"]).strip() == ""
        size = int(booted.ssh(["findmnt", "-bno", "SIZE", "/"]))
        assert (size > 4 * GiB) == (target.size > 4 * GiB)
        booted.power_off()


@dataclass(frozen=True, slots=True)
class Port:
    """Where a disk is plugged in: image `index` is to go there, and be mounted at `mount`."""

    serial: str
    size: int
    index: int
    mount: str


PORTS = (
    Port("PORT-0000", 512 * MiB, 2, "/data/b"),
    Port("PORT-0001", 4 * GiB, 0, "/"),
    Port("PORT-0002", 320 * MiB, 3, "/data/d"),
    Port("PORT-0003", 320 * MiB, 1, "/data/a"),
)
"""In the images' order it is system, a, b, d; and the table of mounts calls them sdc1, sda1, sdb1, sdd1."""
SERVER = replace(OTHER, controller="mptsas", nic="rtl8139")
ON_WHICH = """
for mount in / /data/a /data/b /data/d; do
    echo $mount $(lsblk -nso SERIAL $(findmnt -no SOURCE $mount)) $(cat $mount/WHO 2>/dev/null)
done
"""


@pytest.fixture(scope="module")
def four_disks() -> BuiltHost:
    need_tools("mmdebstrap", "qemu-img", "mkfs.xfs")
    return build_host(HOSTS["debian12-four-disks"])


def test_each_of_several_images_goes_onto_its_disk(
    four_disks: BuiltHost, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No disk has the place, and the name in the kernel, that it had; all are called by these."""
    monkeypatch.setenv("P2V_ACCEL", accelerator)
    assert [four_disks.serials[index][-1] for index in boot_order(four_disks)] == ["C", "A", "B", "D"]
    files = [blank_disk(tmp_path / f"{port.serial}.disk", port.size) for port in PORTS]
    plugged = [Plugged(file, port.serial) for file, port in zip(files, PORTS, strict=True)]
    with boot_rescue(plugged, controller=SERVER.controller, nic=SERVER.nic, hardware=SERVER) as metal:
        chosen = [word for port in PORTS for word in ("--disk", f"{port.index}={port.serial}")]
        erased = [word for port in PORTS for word in ("--erase", port.serial)]
        words = (*chosen, *erased, "--grow", "2=1")
        receipt = restore(metal, source_of(four_disks), words, folder=tmp_path, home=tmp_path / "home")
    assert len(receipt["disks"]) == len(PORTS)
    inside = Inside(
        tuple((file, "raw", port.serial) for file, port in zip(files, PORTS, strict=True)),
        boot_drive=[port.index for port in PORTS].index(0),
    )
    with running(SERVER, inside, four_disks) as booted:
        found = dict(line.split(" ", 1) for line in booted.ssh(["sh", "-c", ON_WHICH]).splitlines())
        assert {port.mount: found[port.mount].split()[0] for port in PORTS} == {
            port.mount: port.serial for port in PORTS
        }
        assert [found[f"/data/{name}"].split(" ", 1)[1] for name in "abd"] == ["disk a", "disk b", "disk d"]
        assert booted.ssh(["sh", "-c", DAMAGE]) == ""
        assert booted.ssh(["swapon", "--show=NAME", "--noheadings"]).strip()
        assert booted.ssh(["systemctl", "--failed", "--no-legend"]).strip() == ""
        assert int(booted.ssh(["findmnt", "-bno", "SIZE", "/data/b"])) > 400 * MiB
        booted.power_off()
