"""A machine's image made ready for other metal, which then boots from its own disk with its network up.

Other controller, other card, other size; what the target has is given as a probe would give it. One machine
belongs to `make test`, the others to `make matrix`.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.build import SPECS, build
from fixtures.build.machines import NETWORK, USERS
from fixtures.matrix import HOSTS, Host, build_host
from fixtures.matrix.grub import GrubBios, GrubEfi
from fixtures.matrix.initramfs import InitramfsTools
from fixtures.matrix.nvram import empty_variables
from fixtures.matrix.spec import Drive, Kind, Slot, Table, Volume
from fixtures.matrix.spec import Firmware as HostFirmware
from fixtures.metal import DEFAULT_HARDWARE, start_metal
from fixtures.metal import Metal as Running
from p2v import command
from p2v.accelerator import Accelerator
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.model import Disk, Firmware, ImageFormat, MiB, Nic
from p2v.probe import probe
from p2v.restore.firmwares import firmware_finding
from p2v.restore.measure import measured
from p2v.restore.model import DiskMove, Metal, NicMove, PciDevice, Prepared, Resize, RestorePlan, SourceDisk
from p2v.restore.prepare import prepare
from p2v.restore.relayout import BIOS_BOOT, fits
from p2v.transports import SshOptions, open_transport
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.timeout(1800)]

OLD_MAC = DEFAULT_HARDWARE.mac
NEW_MAC = "3c:fd:fe:9d:11:02"
FLATTEN_SECONDS = 300.0
AHCI = PciDevice("0000:00:1f.2", 0x8086, 0x2922, 0x1AF4, 0x1100, 2, 0x010601, "ahci")
"""Every machine has it, with nothing behind it."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a target is made of: names of QEMU's devices, and what their bus says of them."""

    controller: str
    disk: PciDevice
    nic: str
    card: PciDevice


NVME = Hardware(
    "nvme",
    PciDevice("0000:00:02.0", 0x1B36, 0x0010, 0x1AF4, 0x1100, 2, 0x010802, "nvme"),
    "e1000",
    PciDevice("0000:00:04.0", 0x8086, 0x100E, 0x1AF4, 0x1100, 3, 0x020000, "e1000"),
)
MEGASAS = Hardware(
    "megasas",
    PciDevice("0000:00:02.0", 0x1000, 0x0079, 0x1000, 0x9261, 0, 0x010400, "megaraid_sas"),
    "vmxnet3",
    PciDevice("0000:00:04.0", 0x15AD, 0x07B0, 0x15AD, 0x07B0, 1, 0x020000, "vmxnet3"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """An image and the way into the machine that is on it."""

    image: Path
    key: Path
    host_key: str
    firmware: Firmware


def debian_bios() -> Source:
    built = build(SPECS["debian12-bios"])
    assert built.key
    assert built.host_key
    return Source(built.image, built.key, built.host_key, Firmware.BIOS)


def debian_lvm() -> Source:
    built = build_host(HOSTS["debian12-uefi-lvm"])
    return Source(built.images[0], built.key, built.host_key, Firmware.UEFI)


BOTH_KINDS = Host(
    name="debian12-both-kinds",
    suite="bookworm",
    hostname="both12",
    network=NETWORK,
    users=USERS,
    loader=GrubBios(),
    initramfs=InitramfsTools(),
    packages=("grub-efi-amd64-bin", "dosfstools"),
    extra=(("/boot/efi/README.TXT", "Nothing here starts.\n"),),
    root="/dev/sda2",
    drives=(
        Drive(
            4096 * MiB,
            (
                Slot(1, 1 * MiB, 100 * MiB, Volume(Kind.VFAT, "/boot/efi", options="umask=0077"), "uefi"),
                Slot(2, 101 * MiB, 3000 * MiB, Volume(Kind.EXT4, "/")),
                Slot(3, 3101 * MiB, 256 * MiB, Volume(Kind.SWAP), "swap"),
            ),
            DEFAULT_HARDWARE.disk_serial,
        ),
    ),
)
"""Started by BIOS, with an EFI system partition on which nothing is, and the package for it."""


def debian_both() -> Source:
    built = build_host(BOTH_KINDS)
    return Source(built.images[0], built.key, built.host_key, Firmware.BIOS)


FROM_UEFI = Host(
    name="debian12-uefi-for-both",
    suite="bookworm",
    hostname="uefi12",
    network=NETWORK,
    users=USERS,
    firmware=HostFirmware.UEFI,
    loader=GrubEfi(),
    initramfs=InitramfsTools(),
    packages=("grub-pc-bin", "dosfstools"),
    root="/dev/sda3",
    drives=(
        Drive(
            4096 * MiB,
            (
                Slot(1, 1 * MiB, 1 * MiB, None, BIOS_BOOT),
                Slot(2, 2 * MiB, 128 * MiB, Volume(Kind.VFAT, "/boot/efi", options="umask=0077"), "uefi"),
                Slot(3, 130 * MiB, 3000 * MiB, Volume(Kind.EXT4, "/")),
                Slot(4, 3130 * MiB, 256 * MiB, Volume(Kind.SWAP), "swap"),
            ),
            DEFAULT_HARDWARE.disk_serial,
            Table.GPT,
        ),
    ),
)
"""Started by UEFI, with an empty BIOS boot partition, and the package for it: as images of the clouds are."""


def debian_from_uefi() -> Source:
    built = build_host(FROM_UEFI)
    return Source(built.images[0], built.key, built.host_key, Firmware.UEFI)


@dataclass(frozen=True, slots=True)
class Case:
    source: Callable[[], Source]
    hardware: Hardware
    size: int
    resize: Resize
    root: tuple[int, int]
    """Between what the root filesystem has, in MiB."""
    firmware: Firmware = Firmware.BIOS
    """The machine's."""


# OVMF starts from neither megasas nor mptsas.
CASES = {
    "bios-megasas-smaller": Case(debian_bios, MEGASAS, 2600 * MiB, Resize.SHRINK, (1900, 2090)),
    "bios-nvme-larger": Case(debian_bios, NVME, 5200 * MiB, Resize.GROW, (4400, 4690)),
    "uefi-lvm-nvme-larger": Case(debian_lvm, NVME, 5200 * MiB, Resize.GROW, (4200, 4400), Firmware.UEFI),
    "uefi-lvm-nvme-smaller": Case(debian_lvm, NVME, 3300 * MiB, Resize.SHRINK, (1900, 2048), Firmware.UEFI),
    "uefi-to-bios": Case(debian_from_uefi, MEGASAS, 4096 * MiB, Resize.KEEP, (2700, 3000)),
    "bios-to-uefi": Case(debian_both, NVME, 4096 * MiB, Resize.KEEP, (2700, 3000), Firmware.UEFI),
}
IN_EVERY_RUN = ("bios-megasas-smaller",)


def plan_of(case: Case, source: Source, house: House) -> RestorePlan:
    with open_transport(str(source.image), SshOptions()) as transport:
        machine = probe(transport, house.ui)
        with transport.open_disk(machine.disks[0]) as device:
            disk = measured(device, machine.disks[0])
    guest = replace(
        machine, disks=(disk,), nics=(Nic("enp0s4", OLD_MAC, "e1000e"),), firmware=source.firmware
    )
    place = f"/dev/disk/by-path/pci-{case.hardware.disk.address}-scsi-0:2:0:0"
    target = Disk("/dev/sda", case.size, serial="TARGET1", names=("/dev/sda", place))
    metal = Metal(
        replace(guest, disks=(target,), nics=(Nic("ens4", NEW_MAC),), firmware=case.firmware),
        (AHCI, case.hardware.disk, case.hardware.card),
    )
    move = DiskMove(0, SourceDisk(source.image, ImageFormat.RAW, disk), target, case.resize)
    assert fits(move) is None
    assert firmware_finding((disk,), source.firmware, case.firmware) is None
    moved = (NicMove(OLD_MAC, NEW_MAC),)
    return RestorePlan("metal", str(source.image), "ssh://rescue", guest, metal, (move,), moved, True, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, id=name, marks=() if name in IN_EVERY_RUN else pytest.mark.matrix) for name in CASES],
)
def test_it_boots_on_other_metal(
    name: str, tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_tools("qemu-img", "qemu-nbd", "parted")
    monkeypatch.setenv("P2V_ACCEL", accelerator)
    case = CASES[name]
    source = case.source()
    before = digest(source.image)
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path / "home")
    plan = plan_of(case, source, house)
    prepared = prepare(plan, tmp_path, house, Keys())
    assert prepare(plan, tmp_path, house, Keys()) == prepared
    assert digest(source.image) == before
    image = flatten(prepared, tmp_path)
    hardware = replace(
        DEFAULT_HARDWARE, controller=case.hardware.controller, nic=case.hardware.nic, mac=NEW_MAC
    )
    variables = None
    if case.firmware is Firmware.UEFI:
        assert [entry.loader.upper().startswith("\\EFI\\") for entry in prepared.entries] == [True]
        variables = Path(shutil.copyfile(empty_variables(), tmp_path / "variables.fd"))
    with start_metal(
        image, in_place=True, key=source.key, host_key=source.host_key, hardware=hardware, variables=variables
    ) as machine:
        machine.wait_for_ssh()
        look_inside(machine, case)


INSIDE = """
disk=$(lsblk -ndo NAME -e 2,7,11 | head -n 1)
echo "mac=$(cat /sys/class/net/enp0s4/address)"
echo "card=$(basename $(readlink -f /sys/class/net/enp0s4/device/driver))"
echo "place=$(readlink -f /sys/block/$disk)"
echo "bound=$(ls /sys/bus/pci/drivers/{driver} | grep ^0000: | head -n 1)"
echo "sectors=$(cat /sys/block/$disk/size)"
echo "root=$(df -B1 --output=size / | tail -n 1)"
echo "damage=$(cd /srv && sha256sum --quiet --check MANIFEST 2>&1)"
echo "swap=$(swapon --show=NAME --noheadings)"
echo "failed=$(systemctl --failed --no-legend --plain)"
"""
"""One command, as each takes seconds in emulation."""


def look_inside(machine: Running, case: Case) -> None:
    """Its own disk and card, all of its content, and nothing that failed."""
    script = INSIDE.replace("{driver}", case.hardware.disk.driver)
    lines = machine.ssh(["sh", "-c", script], timeout=300).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found["mac"] == NEW_MAC
    assert found["card"] == case.hardware.card.driver
    assert found["bound"]
    assert found["bound"] in found["place"]
    assert int(found["sectors"]) * 512 == case.size
    low, high = case.root
    assert low * MiB < int(found["root"]) < high * MiB
    assert found["damage"] == ""
    assert found["swap"]
    assert found["failed"] == ""


def flatten(prepared: Prepared, folder: Path) -> Path:
    (disk,) = prepared.disks
    image = folder / "metal.raw"
    words: list[str | Path] = ["qemu-img", "convert", "-O", "raw", disk.path, image]
    command.check(words, timeout=FLATTEN_SECONDS, reason="write the disk")
    os.truncate(image, disk.size)
    return image


def digest(image: Path) -> tuple[int, int]:
    """Nothing that writes leaves both as they were; the content of a whole disk takes too long."""
    found = image.stat()
    return found.st_mtime_ns, found.st_blocks
