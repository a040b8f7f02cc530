"""Device names of the source and what stands for them anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conversions.devices import device_names, disk_of, is_unstable, partition_path
from p2v.model import Disk, Filesystem, GiB, Partition
from tests.conversions.machines import DISK, MACHINE, ROOT_UUID, SWAP_UUID, without_names


@pytest.mark.parametrize(
    ("disk", "number", "name"),
    [
        ("/dev/sda", 1, "/dev/sda1"),
        ("/dev/sdaa", 12, "/dev/sdaa12"),
        ("/dev/nvme0n1", 2, "/dev/nvme0n1p2"),
        ("/dev/mmcblk0", 1, "/dev/mmcblk0p1"),
        ("/dev/cciss/c0d0", 3, "/dev/cciss/c0d0p3"),
        ("/dev/disk/by-id/nvme-eui.0025385", 1, "/dev/disk/by-id/nvme-eui.0025385-part1"),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", 5, "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part5"),
    ],
)
def test_partitions_are_named_as_udev_names_them(disk: str, number: int, name: str) -> None:
    assert partition_path(disk, number) == name


@pytest.mark.parametrize(
    ("name", "unstable"),
    [
        ("/dev/sda1", True),
        ("/dev/hdc", True),
        ("/dev/nvme1n1p3", True),
        ("/dev/disk/by-id/wwn-0x5000c500-part1", True),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part5", True),
        ("/dev/disk/by-uuid/1234-ABCD", False),
        ("/dev/disk/by-label/data", False),
        ("/dev/disk/by-id/dm-uuid-LVM-abc", False),
        ("/dev/mapper/vg-root", False),
        ("/dev/md0", False),
        ("/dev/sr0", False),
        ("UUID=1234-ABCD", False),
        ("sda1", False),
    ],
)
def test_only_names_that_depend_on_the_hardware_are_touched(name: str, *, unstable: bool) -> None:
    assert is_unstable(name) is unstable


def test_every_name_of_a_partition_leads_to_the_same_uuid() -> None:
    names = device_names(MACHINE)
    assert names.stable("/dev/sda1") == f"UUID={ROOT_UUID}"
    assert names.stable("/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part2") == f"UUID={SWAP_UUID}"
    assert names.stable("/dev/sdb1") is None
    assert not names.guessed


def test_a_partition_without_filesystem_is_named_by_its_own_uuid() -> None:
    disk = replace(DISK, partitions=(Partition(3, 0, GiB, "83", uuid="1f8a2b3c-03"),))
    assert device_names(replace(MACHINE, disks=(disk,))).stable("/dev/sda3") == "PARTUUID=1f8a2b3c-03"


def test_cloned_filesystems_are_not_named_by_the_uuid_that_they_share() -> None:
    other = replace(
        DISK, path="/dev/sdb", names=(), partitions=(replace(DISK.partitions[0], uuid="ffff0000-01"),)
    )
    names = device_names(replace(MACHINE, disks=(DISK, other)))
    assert names.stable("/dev/sda1") == "PARTUUID=1f8a2b3c-01"
    assert names.stable("/dev/sdb1") == "PARTUUID=ffff0000-01"
    assert names.stable("/dev/sda2") == f"UUID={SWAP_UUID}"


def test_a_filesystem_on_a_whole_disk_has_the_name_of_the_disk() -> None:
    disk = Disk("/dev/sdb", GiB, filesystem=Filesystem("xfs", GiB, uuid="aaaa-bbbb"))
    assert device_names(replace(MACHINE, disks=(disk,))).stable("/dev/sdb") == "UUID=aaaa-bbbb"


def test_one_image_without_a_machine_gets_the_usual_names_two_do_not() -> None:
    image = without_names(MACHINE)
    names = device_names(image)
    assert names.guessed
    assert names.stable("/dev/nvme0n1p1") == names.stable("/dev/sda1") == f"UUID={ROOT_UUID}"
    two = replace(image, disks=(image.disks[0], replace(image.disks[0], path="/images/second.raw")))
    assert device_names(two).names == ()


@pytest.mark.parametrize("uuid", ["", "x y", "a\nb/", "$(reboot)", "ab", "-" * 65])
def test_an_identifier_that_is_none_never_reaches_a_file(uuid: str) -> None:
    filesystem = Filesystem("ext4", GiB, uuid=uuid)
    disk = replace(DISK, partitions=(Partition(1, 0, GiB, "83", filesystem=filesystem),))
    assert device_names(replace(MACHINE, disks=(disk,))).stable("/dev/sda1") is None


@pytest.mark.parametrize(
    ("name", "number", "disk"),
    [
        ("/dev/sda12", 12, "/dev/sda"),
        ("/dev/nvme0n1p2", 2, "/dev/nvme0n1"),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3", 3, "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"),
        ("/dev/sda12", 2, ""),
        ("/dev/nvme0n1p2", 1, ""),
        ("/dev/disk/by-id/ata-X-part1", 2, ""),
    ],
)
def test_the_disk_of_a_partition_is_told_by_its_name(name: str, number: int, disk: str) -> None:
    assert disk_of(name, number) == disk
