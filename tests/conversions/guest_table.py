"""The guests of fixtures/guests: what the probe would have seen of the machine that each was."""

from __future__ import annotations

from dataclasses import dataclass

from p2v.model import (
    Disk,
    Filesystem,
    Firmware,
    GiB,
    Machine,
    MiB,
    Nic,
    OperatingSystem,
    Partition,
    TableKind,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One guest. `initramfs` are paths of its images, each with the version of the kernel that loads it."""

    name: str
    family: str
    machine: Machine
    initramfs: tuple[tuple[str, str], ...]
    warned: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def disk(path: str, *parts: tuple[str, str], names: tuple[str, ...] = (), label: str = "gpt") -> Disk:
    """A disk with partitions of these kinds and UUIDs, from number 1 on."""
    partitions = tuple(
        Partition(
            number, number * GiB, GiB - MiB, "", f"{label}-{number:04}", Filesystem(kind, GiB, uuid=uuid)
        )
        for number, (kind, uuid) in enumerate(parts, start=1)
    )
    return Disk(path, 100 * GiB, names=(path, *names), table=TableKind.GPT, partitions=partitions)


def machine(*disks: Disk, nics: tuple[Nic, ...], firmware: Firmware = Firmware.BIOS) -> Machine:
    system = OperatingSystem("", "", "", "")
    return Machine("metal", firmware, 4, 8 * GiB, disks, nics, system, live=True)


LVM = ("LVM2_member", "Tm1kd1-Yb3n-G0v5-aHq2-rXcU-8jZf-L7sPwE")
SCSI_11 = "/dev/disk/by-id/scsi-3600508b1001c5e11"
SCSI_12 = "/dev/disk/by-id/scsi-SDELL_PERC_H730_0012aa"
PATH_7 = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:2:0:0"
ROOT_12 = "0f3e8a52-12aa-4c57-9a6e-1212cafe1201"
ROOT_15 = "1f3e8a52-15aa-4c57-9a6e-1515cafe1501"
ROOT_TW = "2f3e8a52-16aa-4c57-9a6e-1616cafe1601"
ROOT_UBUNTU = "22042204-aaaa-4bbb-8ccc-220422042204"

CASES = (
    Case(
        "rhel5-cciss",
        "redhat",
        machine(
            disk(
                "/dev/cciss/c0d0",
                ("ext3", "05050505-0000-4aaa-8bbb-050505050501"),
                LVM,
                ("ext3", "05050505-0000-4aaa-8bbb-050505050503"),
            ),
            nics=(Nic("eth0", "00:14:22:0a:0b:01", "tg3"), Nic("eth1", "00:14:22:0a:0b:02", "tg3")),
        ),
        (("/boot/initrd-2.6.18-419.el5.img", "2.6.18-419.el5"),),
    ),
    Case(
        "centos6-bond",
        "redhat",
        machine(
            disk("/dev/sda", ("ext4", "5d1c7c5e-8b3a-4b7e-9d0e-0f6a3c9b1a11"), LVM),
            disk("/dev/sdb", ("ext4", "5d1c7c5e-8b3a-4b7e-9d0e-0f6a3c9b1a21"), label="data"),
            nics=(Nic("eth0", "00:1b:21:0a:06:01", "igb"), Nic("eth1", "00:1b:21:0a:06:02", "igb")),
        ),
        (("/boot/initramfs-2.6.32-754.el6.x86_64.img", "2.6.32-754.el6.x86_64"),),
    ),
    Case(
        "centos7-uefi",
        "redhat",
        machine(
            disk(
                "/dev/sda",
                ("vfat", "6E2C-27A1"),
                ("xfs", "8a6f2d51-5d0e-4c56-a3a5-6b7f6d7f2702"),
                ("swap", "8a6f2d51-5d0e-4c56-a3a5-6b7f6d7f2703"),
                ("xfs", "8a6f2d51-5d0e-4c56-a3a5-6b7f6d7f2704"),
                names=(PATH_7,),
            ),
            nics=(Nic("em1", "24:6e:96:0a:07:01", "tg3"), Nic("em2", "24:6e:96:0a:07:02", "tg3")),
            firmware=Firmware.UEFI,
        ),
        (("/boot/initramfs-3.10.0-1160.el7.x86_64.img", "3.10.0-1160.el7.x86_64"),),
    ),
    Case(
        "rhel8-bls",
        "redhat",
        machine(
            disk(
                "/dev/nvme0n1",
                ("xfs", "2d7b1b6e-6c5b-4a2a-8e39-30a5a1c4e801"),
                LVM,
                ("swap", "2d7b1b6e-6c5b-4a2a-8e39-30a5a1c4e803"),
            ),
            nics=(Nic("eno1np0", "b0:26:28:0a:08:01", "bnxt_en"),),
        ),
        (("/boot/initramfs-4.18.0-553.el8_10.x86_64.img", "4.18.0-553.el8_10.x86_64"),),
    ),
    Case(
        "rocky9-keyfile",
        "redhat",
        machine(
            disk("/dev/sda", ("vfat", "A1B2-0909"), ("xfs", "9f0c6b1e-7a1d-4c3b-8d52-1e2f3a4b5902"), LVM),
            nics=(
                Nic("ens1f0", "b4:96:91:0a:09:01", "ice"),
                Nic("ens2f0np0", "b8:59:9f:0a:09:02", "mlx5_core"),
            ),
            firmware=Firmware.UEFI,
        ),
        (("/boot/initramfs-5.14.0-427.el9.x86_64.img", "5.14.0-427.el9.x86_64"),),
    ),
    Case(
        "amazon2-cloud-init",
        "redhat",
        machine(
            disk("/dev/sda", ("xfs", "c0ffee02-1111-4222-8333-a2a2a2a2a201")),
            nics=(Nic("eth0", "06:0a:02:00:00:01", "tg3"),),
        ),
        (("/boot/initramfs-4.14.336-257.562.amzn2.x86_64.img", "4.14.336-257.562.amzn2.x86_64"),),
    ),
    Case(
        "sles11-by-id",
        "suse",
        machine(
            disk(
                "/dev/sda",
                ("swap", "11111111-0000-4aaa-8bbb-111111111101"),
                ("ext3", "11111111-0000-4aaa-8bbb-111111111102"),
                ("ext3", "11111111-0000-4aaa-8bbb-111111111103"),
                names=(SCSI_11,),
            ),
            nics=(Nic("eth0", "00:25:b3:0a:11:01", "bnx2"),),
        ),
        (("/boot/initrd-3.0.101-108-default", "3.0.101-108-default"),),
    ),
    Case(
        "sles12-wicked",
        "suse",
        machine(
            disk(
                "/dev/sda",
                ("swap", "12121212-0000-4aaa-8bbb-121212121201"),
                ("btrfs", ROOT_12),
                ("xfs", "12121212-0000-4aaa-8bbb-121212121203"),
                names=(SCSI_12,),
            ),
            nics=(Nic("eth0", "ec:f4:bb:0a:12:01", "igb"), Nic("eth1", "ec:f4:bb:0a:12:02", "igb")),
        ),
        (("/boot/initrd-4.12.14-122.37-default", "4.12.14-122.37-default"),),
        warned=("ifcfg-bond0 asks for LACP", "grub_installdevice"),
    ),
    Case(
        "sles15-uefi",
        "suse",
        machine(
            disk(
                "/dev/sda",
                ("vfat", "15AA-0015"),
                ("btrfs", ROOT_15),
                ("swap", "15151515-0000-4aaa-8bbb-151515151503"),
            ),
            nics=(Nic("em1", "34:48:ed:0a:15:01", "i40e"),),
            firmware=Firmware.UEFI,
        ),
        (("/boot/initrd-5.14.21-150500.55.19-default", "5.14.21-150500.55.19-default"),),
    ),
    Case(
        "tumbleweed-btrfs",
        "suse",
        machine(
            disk("/dev/nvme0n1", ("ntfs", "1234567890ABCDEF"), label="windows"),
            disk(
                "/dev/nvme1n1",
                ("vfat", "16AA-0016"),
                ("btrfs", ROOT_TW),
                ("swap", "16161616-0000-4aaa-8bbb-161616161603"),
            ),
            nics=(Nic("enp4s0", "d8:bb:c1:0a:16:01", "r8169"), Nic("eno1", "d8:bb:c1:0a:16:02", "e1000e")),
        ),
        (("/boot/initrd-6.9.7-1-default", "6.9.7-1-default"),),
    ),
    Case(
        "arch-systemd-boot",
        "arch",
        machine(
            disk("/dev/nvme0n1", ("vfat", "A2C4-0A0A"), ("btrfs", "20202020-0000-4aaa-8bbb-202020202002")),
            nics=(Nic("enp3s0", "a8:a1:59:0a:20:01", "igc"),),
            firmware=Firmware.UEFI,
        ),
        (
            ("/boot/initramfs-linux.img", "6.9.7-arch1-1"),
            ("/boot/initramfs-linux-fallback.img", "6.9.7-arch1-1"),
        ),
    ),
    Case(
        "alpine-extlinux",
        "alpine",
        machine(
            disk(
                "/dev/sda",
                ("ext4", "a1a1a1a1-3200-4000-8000-000000000001"),
                ("swap", "a1a1a1a1-3200-4000-8000-000000000002"),
                ("ext4", "a1a1a1a1-3200-4000-8000-000000000003"),
            ),
            nics=(Nic("eth0", "00:0d:b9:0a:32:01", "igb"), Nic("eth1", "00:0d:b9:0a:32:02", "igb")),
        ),
        (("/boot/initramfs-lts", "6.6.34-0-lts"),),
    ),
    Case(
        "ubuntu2204-netplan",
        "debian",
        machine(
            disk("/dev/sda", ("vfat", "2204-2204"), ("ext4", ROOT_UBUNTU)),
            disk(
                "/dev/sdb",
                ("ext4", "22042204-bbbb-4bbb-8ccc-220422042299"),
                names=("/dev/disk/by-path/pci-0000:00:17.0-ata-2",),
                label="data",
            ),
            nics=(
                Nic("eno1", "a0:36:9f:0a:22:01", "igb"),
                Nic("eno2", "a0:36:9f:0a:22:02", "igb"),
                Nic("eno3", "a0:36:9f:0a:22:03", "igb"),
                Nic("enp94s0f0", "3c:fd:fe:0a:22:04", "i40e"),
                Nic("enp94s0f1", "3c:fd:fe:0a:22:05", "i40e"),
            ),
        ),
        (("/boot/initrd.img-5.15.0-113-generic", "5.15.0-113-generic"),),
        warned=("50-cloud-init.yaml asks for LACP",),
    ),
    Case(
        "void-generic",
        "generic",
        machine(
            disk(
                "/dev/sda",
                ("swap", "6f6f6f6f-0000-4aaa-8bbb-6f6f6f6f6f01"),
                ("ext4", "6f6f6f6f-0000-4aaa-8bbb-6f6f6f6f6f02"),
            ),
            nics=(Nic("eth0", "70:85:c2:0a:60:01", "r8169"),),
        ),
        (("/boot/initramfs-6.6.30_1.img", "6.6.30_1"),),
        warned=("is not a system that p2v knows",),
    ),
)
