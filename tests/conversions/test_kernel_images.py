"""Kernels and their initramfs by the names that each distribution gives them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.kernel_images import kernel_images, told_version
from conversions.kernels import Kernel, installed_kernels
from conversions.linux import default_kernel
from p2v.model import DiskBus
from tests.conversions.cpio_writer import archive, initramfs
from tests.conversions.machines import OLD_MODULES, ROOT_UUID, VERSION, convert, tree
from tests.conversions.trees import guest_with, portable_executable


def kernel_of(image: str) -> Kernel:
    return Kernel("6", image, "", frozenset(), ())


def bzimage(version: str) -> bytes:
    """The start of an x86 kernel that says its version, as arch/x86/boot/header.S lays it out."""
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x400)
    data[0x600 : 0x600 + 64] = f"{version} (builder@host) #1 SMP".encode().ljust(64, b"\0")
    return bytes(data)


@pytest.mark.parametrize(
    ("version", "image", "ramdisk"),
    [
        ("6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64", "/boot/initrd.img-6.1.0-9-amd64"),
        ("5.14.0-70.el9", "/boot/vmlinuz-5.14.0-70.el9", "/boot/initramfs-5.14.0-70.el9.img"),
        ("5.14.21-default", "/boot/vmlinuz-5.14.21-default", "/boot/initrd-5.14.21-default"),
        ("2.6.18-8.el5", "/boot/vmlinuz-2.6.18-8.el5", "/boot/initrd-2.6.18-8.el5.img"),
        ("6.6.7-0-lts", "/boot/vmlinuz-lts", "/boot/initramfs-lts"),
        ("6.6.7-arch1-1", "/boot/vmlinuz-linux", "/boot/initramfs-linux.img"),
        (
            "6.9-1",
            "/boot/efi/0123456789abcdef/6.9-1/linux",
            "/boot/efi/0123456789abcdef/6.9-1/initrd.img-6.9-1",
        ),
        ("6.9-1", "/efi/suse/6.9-1/linux-00c0ffee", "/efi/suse/6.9-1/initrd-00decaf0"),
    ],
)
def test_a_kernel_is_found_with_its_initramfs(tmp_path: Path, version: str, image: str, ramdisk: str) -> None:
    files: dict[str, str | bytes] = {
        f"/lib/modules/{version}/modules.dep": "",
        "/lib/modules/6.6.7-arch1-1/pkgbase": "linux\n",
        image: b"kernel",
        ramdisk: initramfs(version, OLD_MODULES),
    }
    (found,) = installed_kernels(Changes(guest_with(tmp_path, files)), ())
    assert (found.version, found.image, found.initramfs) == (version, image, ramdisk)
    assert found.contents is not None


def test_a_kernel_of_any_name_says_its_version_itself(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/boot/vmlinuz-mine": bzimage("5.4.0-custom"),
        "/lib/modules/5.4.0-custom/modules.dep": "",
    }
    guest = guest_with(tmp_path, files)
    assert [image.version for image in kernel_images(Changes(guest), frozenset({"5.4.0-custom"}))] == [
        "5.4.0-custom"
    ]


def test_a_real_kernel_says_the_version_that_its_name_has() -> None:
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    if not kernels:
        pytest.skip("this host has no kernel")
    assert told_version(kernels[-1].read_bytes()) == kernels[-1].name.removeprefix("vmlinuz-")


@pytest.mark.parametrize("data", [b"", bytes(0x210), b"x" * 0x1000, bzimage("")[:0x400]])
def test_what_tells_no_version_tells_none(data: bytes) -> None:
    assert told_version(data) == ""


def test_modules_without_a_kernel_and_a_rescue_kernel_are_no_reason_to_stop(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/boot/vmlinuz-6.1": b"kernel",
        "/lib/modules/6.1/modules.dep": "",
        "/lib/modules/5.9/modules.dep": "",
        "/boot/vmlinuz-0-rescue-0123456789abcdef": b"kernel",
        "/boot/vmlinuz-6.1.old": b"kernel",
    }
    changes = Changes(guest_with(tmp_path, files))
    assert [kernel.version for kernel in installed_kernels(changes, ())] == ["6.1"]
    assert ["5.9" in warning for warning in changes.warnings] == [True]


def test_a_unified_kernel_is_one_whose_initramfs_stays_as_it_is(tmp_path: Path) -> None:
    ramdisk = archive({"usr/lib/modules/6.9/kernel/ahci.ko": b"", "etc/fstab": b"x"})
    image = portable_executable(uname=b"6.9\0", initrd=ramdisk, cmdline=b"quiet")
    files: dict[str, str | bytes] = {
        "/efi/EFI/Linux/a.efi": image,
        "/lib/modules/6.9/modules.dep": "kernel/virtio_blk.ko:\nkernel/ahci.ko:\n",
    }
    (kernel,) = installed_kernels(Changes(guest_with(tmp_path, files)), ())
    assert (kernel.initramfs, kernel.image) == ("", "/efi/EFI/Linux/a.efi")
    assert kernel.contents is not None
    assert kernel.contents.modules("6.9") == {"ahci"}


def test_the_default_is_found_although_boot_is_a_filesystem_of_its_own() -> None:
    kernels = [
        kernel_of("/boot/vmlinuz-6.10"),
        kernel_of("/boot/vmlinuz-6.9"),
        kernel_of("/boot/m/6.9/linux"),
    ]
    assert default_kernel(kernels, "(hd0,1)/vmlinuz-6.9") is kernels[1]
    assert default_kernel(kernels, "/m/6.9/linux") is kernels[2]
    assert default_kernel(kernels, "/@/boot/vmlinuz-6.9") is kernels[1]
    twins = [kernel_of("/boot/m/6.10/linux"), kernel_of("/boot/m/6.9/linux")]
    assert default_kernel(twins, "(hd0,1)/m/6.9/linux") is twins[1]
    assert default_kernel(kernels, "") is kernels[0]
    assert default_kernel(kernels, "/vmlinuz-1") is kernels[0]


def test_of_two_kernels_only_the_one_that_lacks_the_drivers_is_changed(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    first = "6.1.0-56-amd64"
    guest.mkdir("/lib/modules/6.1.0-99-amd64")
    guest.copy(f"/lib/modules/{first}/modules.dep", "/lib/modules/6.1.0-99-amd64/modules.dep")
    guest.copy(f"/lib/modules/{first}/modules.builtin", "/lib/modules/6.1.0-99-amd64/modules.builtin")
    guest.write("/boot/vmlinuz-6.1.0-99-amd64", b"kernel")
    virtio = (
        "virtio",
        "virtio_ring",
        "virtio_pci",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "virtio_blk",
    )
    complete = initramfs("6.1.0-99-amd64", (*OLD_MODULES, *virtio))
    guest.write("/boot/initrd.img-6.1.0-99-amd64", complete)
    conversion = convert(guest)
    assert conversion.disk_bus is DiskBus.VIRTIO_BLK
    assert guest.read("/boot/initrd.img-6.1.0-99-amd64") == complete
    assert f"/boot/initrd.img-{first}" in [change.path for change in conversion.changes]


def test_a_kernel_without_initramfs_is_given_names_that_it_understands(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove(f"/boot/initrd.img-{VERSION}")
    guest.write(
        f"/lib/modules/{VERSION}/modules.builtin", b"kernel/ahci.ko\nkernel/sd_mod.ko\nkernel/e1000.ko\n"
    )
    convert(guest)
    assert "root=PARTUUID=1f8a2b3c-01" in guest.read("/boot/grub/grub.cfg").decode()
    assert f"UUID={ROOT_UUID}" in guest.read("/etc/fstab").decode()
