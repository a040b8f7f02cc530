"""Kernels of a guest: versions, drivers, and those that cannot be served."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversions.changes import Changes
from conversions.kernel_versions import version_key
from conversions.kernels import installed_kernels
from drivers.pack import LinuxDriver
from drivers.virtio import E1000E, VIRTIO_BLK, VIRTIO_PCI
from p2v.model import DiskBus
from tests.conversions.cpio_writer import initramfs
from tests.conversions.machines import OLD_MODULES, VERSION, convert, tree

FOLDER = f"/lib/modules/{VERSION}"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("5.10.0-9-amd64", "5.10.0-10-amd64"),
        ("6.1.0-9-amd64", "6.1.0-56-amd64"),
        ("4.19.0", "6.1.0"),
        ("6.1.0-rc1", "6.1.0-1"),
    ],
)
def test_versions_sort_as_a_person_sorts_them(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_two_versions_compare(first: str, second: str) -> None:
    assert (version_key(first) < version_key(second)) or (version_key(first) >= version_key(second))


def test_dependencies_count_as_missing_too(tmp_path: Path) -> None:
    (kernel,) = installed_kernels(Changes(tree(tmp_path)), ())
    assert "virtio_ring" in kernel.missing((VIRTIO_BLK,))
    assert kernel.can_load((VIRTIO_PCI, E1000E))
    assert not kernel.can_load((LinuxDriver("hv_storvsc", "CONFIG_HYPERV_STORAGE"),))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            f"{FOLDER}/modules.builtin",
            "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
        ),
        (f"/boot/config-{VERSION}", "CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=y\n"),
    ],
)
def test_what_is_built_in_needs_no_module(tmp_path: Path, path: str, line: str) -> None:
    guest = tree(tmp_path)
    guest.write(path, guest.read(path) + line.encode())
    (kernel,) = installed_kernels(Changes(guest), (VIRTIO_BLK, VIRTIO_PCI))
    assert kernel.missing((VIRTIO_PCI, VIRTIO_BLK)) == ()


def test_a_kernel_without_virtio_gets_the_disks_that_it_knows(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    lines = guest.read(f"{FOLDER}/modules.dep").decode().splitlines(keepends=True)
    guest.write(f"{FOLDER}/modules.dep", "".join(line for line in lines if "virtio" not in line).encode())
    guest.write("/etc/initramfs-tools/conf.d/resume", b"RESUME=none\n")
    guest.write(f"/boot/initrd.img-{VERSION}", initramfs(VERSION, OLD_MODULES))
    conversion = convert(guest)
    assert conversion.disk_bus is DiskBus.SATA
    assert conversion.nic_model == "e1000"
    assert not any(argv[0].endswith("mkinitramfs") for argv in guest.ran)


def test_every_kernel_is_served_and_one_that_fails_costs_a_warning(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    old = "5.10.0-8-amd64"
    guest.mkdir(f"/lib/modules/{old}")
    guest.write(f"/lib/modules/{old}/modules.dep", b"kernel/drivers/ata/ahci.ko:\n")
    guest.write(f"/boot/initrd.img-{old}", initramfs(old, ("ahci",)))
    conversion = convert(guest)
    assert conversion.disk_bus is DiskBus.VIRTIO_BLK
    assert any(old in warning and "will not boot" in warning for warning in conversion.warnings)


def test_a_file_that_is_no_kernel_is_not_taken_for_one(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/boot/vmlinuz-6.1 $(reboot)", b"")
    guest.write(f"/boot/vmlinuz-{VERSION}.dpkg-old", b"")
    assert [kernel.version for kernel in installed_kernels(Changes(guest), ())] == [VERSION]
