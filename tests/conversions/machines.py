"""The machine that the trees of fixtures/guests belong to, and what its conversion is asked to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import conversions
import drivers
from conversions.changes import Changes
from conversions.kernels import Kernel, installed_kernels
from drivers.virtio import PACK
from p2v.model import (
    Conversion,
    Disk,
    DiskBus,
    Filesystem,
    Firmware,
    GiB,
    ImageFormat,
    Machine,
    MiB,
    Nic,
    NicModel,
    OperatingSystem,
    Partition,
    PlannedNic,
    Platform,
    TableKind,
)
from tests.conversions.cpio_writer import initramfs
from tests.tree_guest import Command, TreeGuest

GUESTS = Path(__file__).parents[2] / "fixtures" / "guests"
VERSION = "6.1.0-56-amd64"
INITRAMFS = f"/boot/initrd.img-{VERSION}"
OLD_MODULES = (
    *("ahci", "libahci", "libata", "scsi_mod", "scsi_common", "sd_mod", "t10_pi", "crc_t10dif"),
    *("crct10dif_common", "crc64", "crc64_rocksoft", "ext4", "jbd2", "mbcache", "crc16", "crc32c_generic"),
)
ROOT_UUID = "0d16e81d-026f-5e37-9720-4ceccfd31b34"
SWAP_UUID = "b538bb1d-a5f7-502c-b6c8-c9e717dd061a"
MAC = "52:54:00:12:34:56"

PLATFORM = Platform(
    "libvirt", "libvirt/KVM", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ImageFormat.QCOW2, "virtio"
)
DISK = Disk(
    "/dev/sda",
    4 * GiB,
    names=("/dev/sda", "/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001"),
    table=TableKind.MBR,
    partitions=(
        Partition(
            1, MiB, 3520 * MiB, "83", "1f8a2b3c-01", Filesystem("ext4", 3520 * MiB, uuid=ROOT_UUID), "/"
        ),
        Partition(
            2, 3521 * MiB, 512 * MiB, "82", "1f8a2b3c-02", Filesystem("swap", 512 * MiB, uuid=SWAP_UUID)
        ),
    ),
)
MACHINE = Machine(
    hostname="metal12",
    firmware=Firmware.BIOS,
    cpus=2,
    memory=GiB,
    disks=(DISK,),
    nics=(Nic("enp0s4", MAC, "e1000e"),),
    os=OperatingSystem("debian", "12", "Debian GNU/Linux 12 (bookworm)", "debian"),
)
NICS = (PlannedNic(MAC, "enp0s4"),)


def tree(
    folder: Path,
    *,
    name: str = "debian12-sda",
    modules: Iterable[str] = OLD_MODULES,
    mkinitramfs: Command | None = None,
    free: int = GiB,
) -> TreeGuest:
    """A copy of the tree `name` with an initramfs of `modules` and a stand-in for mkinitramfs."""
    shutil.copytree(GUESTS / name / "before", folder / "guest", symlinks=True)
    guest = TreeGuest(folder / "guest", free=free, mkinitramfs=mkinitramfs or stand_in)
    guest.mkdir("/var/lib")
    guest.write(INITRAMFS, initramfs(VERSION, modules, "RESUME=/dev/sda2\n"))
    return guest


def stand_in(guest: TreeGuest, argv: Sequence[str]) -> str:
    """mkinitramfs as far as it matters: what the configuration lists, and all that depends on it."""
    config, result, version = argv[2], argv[4], argv[5]
    settings = guest.read(f"{config}/conf.d/zz-p2v").decode()
    assert "MODULES=list" in settings
    hook = guest.host(f"{config}/hooks/zz-p2v")
    assert hook.stat().st_mode & 0o111
    listed = [
        line for line in guest.read(f"{config}/modules").decode().split("\n") if not line.startswith("#")
    ]
    listed += hook.read_text().split("manual_add_modules", 1)[1].split()
    resume = guest.read(f"{config}/conf.d/resume").decode()
    guest.write(result, initramfs(version, kernel(guest).closure(filter(None, listed)), resume))
    return ""


def kernel(guest: TreeGuest) -> Kernel:
    return installed_kernels(Changes(guest), ())[0]


def convert(
    guest: TreeGuest, *, machine: Machine = MACHINE, firmware: Firmware = Firmware.BIOS
) -> Conversion:
    return conversions.convert(
        guest, machine, nics=NICS, firmware=firmware, platform=PLATFORM, pack=drivers.pack(PACK.name)
    )


def without_names(machine: Machine) -> Machine:
    """The same machine, known from an image of its disk only."""
    return replace(machine, disks=(replace(machine.disks[0], path="/images/metal12.raw", names=()),))
