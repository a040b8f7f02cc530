"""What a menu starts: each entry's own initramfs is looked into, whatever its name is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from conversions.boot_entries import BootEntry, place, read_menu, resolve
from conversions.changes import Changes
from conversions.initramfs import read_initramfs
from conversions.kernels import installed_kernels
from conversions.loaders import find_loader
from p2v.model import Conversion, Firmware
from tests.conversions.cpio_writer import initramfs
from tests.conversions.guest_table import CASES
from tests.conversions.machines import INITRAMFS, OLD_MODULES, VERSION, convert, stand_in, tree
from tests.conversions.standins import OLD_HARDWARE
from tests.conversions.test_guests import converted, made
from tests.conversions.test_kernel_images import bzimage
from tests.conversions.trees import guest_with
from tests.tree_guest import TreeGuest, no_command

GRUB = """menuentry 'Arch' --class arch {
\tlinux\t/@/boot/vmlinuz-linux root=UUID=1 rw
\techo 'Loading'
\tinitrd\t/@/boot/amd-ucode.img /@/boot/initramfs-linux.img
}
submenu 'More' {
\tmenuentry 'Arch (fallback)' {
\t\tlinuxefi /@/boot/vmlinuz-linux root=UUID=1 rw
\t\tinitrdefi /@/boot/initramfs-linux-fallback.img
\t}
\tmenuentry 'Memory' {
\t\tlinux16 /memtest86+.bin
\t}
}
"""
LEGACY = """title Xen
kernel --no-mem-option /xen.gz dom0_mem=1G
module /vmlinuz-2.6.18 root=/dev/sda1
module /initrd-2.6.18.img
title Plain
root (hd0,0)
kernel = (hd0,0)/vmlinuz-2.6.18 root=/dev/sda1
initrd (hd0,0)/initrd-old.img
"""
EXTLINUX = """DEFAULT a
LABEL a
  INITRD ../initrd-1.img,../extra.img
  LINUX ../vmlinuz-1
LABEL b
  kernel vmlinuz-2
  append initrd=initrd-2.img root=/dev/sda1
"""


@pytest.mark.parametrize(
    ("text", "folder", "expected"),
    [
        (
            GRUB,
            "/",
            [
                ("/@/boot/vmlinuz-linux", "/@/boot/amd-ucode.img", "/@/boot/initramfs-linux.img"),
                ("/@/boot/vmlinuz-linux", "/@/boot/initramfs-linux-fallback.img"),
            ],
        ),
        (LEGACY, "/", [("/vmlinuz-2.6.18", "/initrd-2.6.18.img"), ("/vmlinuz-2.6.18", "/initrd-old.img")]),
        (
            EXTLINUX,
            "/boot/extlinux",
            [
                ("/boot/vmlinuz-1", "/boot/initrd-1.img", "/boot/extra.img"),
                ("/boot/extlinux/vmlinuz-2", "/boot/extlinux/initrd-2.img"),
            ],
        ),
        ("linux /vmlinuz-1 quiet\ninitrd /initrd-1\n", "/", [("/vmlinuz-1", "/initrd-1")]),
        ("LABEL up\n kernel ../../../../vmlinuz\n", "/boot", [("/vmlinuz",)]),
        ("", "/", []),
    ],
    ids=["grub2", "legacy", "extlinux", "no-blocks", "dots", "empty"],
)
def test_entries_are_read(text: str, folder: str, expected: list[tuple[str, ...]]) -> None:
    assert [(entry.linux, *entry.initrds) for entry in read_menu(text, folder)] == expected


def test_paths_of_a_loader_are_found_wherever_its_filesystem_is_mounted(tmp_path: Path) -> None:
    there = ("/boot/vmlinuz-1", "/boot/efi/machine/2/linux", "/efi/vmlinuz-3", "/boot/amd-ucode.img")
    changes = Changes(guest_with(tmp_path, dict.fromkeys(there, b"x")))
    asked = ("/vmlinuz-1", "/machine/2/linux", "/vmlinuz-3", "/@/boot/vmlinuz-1", "/boot/vmlinuz-1", "/no")
    assert [place(changes, path) for path in asked] == [*there[:3], *there[:1] * 2, ""]
    assert [place(changes, path) for path in ("/\0", "/vmlinuz-1\udcff", "", "/" * 5000)] == [""] * 4
    entry = BootEntry("/vmlinuz-1", ("/amd-ucode.img", "/vmlinuz-3", "/gone.img"))
    assert resolve(changes, [entry]) == (BootEntry("/boot/vmlinuz-1", ("/efi/vmlinuz-3",)),)


def arch(folder: Path, fallback: bytes) -> tuple[TreeGuest, Conversion]:
    case = next(case for case in CASES if case.name == "arch-systemd-boot")
    guest = made(folder, case)
    guest.write("/boot/initramfs-linux-fallback.img", fallback)
    return guest, converted(guest, case)


def arch_version() -> str:
    return next(case for case in CASES if case.name == "arch-systemd-boot").initramfs[0][1]


def test_a_fallback_that_lacks_the_drivers_gets_them(tmp_path: Path) -> None:
    version = arch_version()
    guest, conversion = arch(tmp_path, initramfs(version, OLD_HARDWARE))
    modules = read_initramfs(guest.read("/boot/initramfs-linux-fallback.img")).modules(version)
    assert modules >= {"virtio_blk", "virtio_pci", "megaraid_sas"}
    assert [path for path in (change.path for change in conversion.changes) if path.endswith("fallback.img")]


def test_a_fallback_that_nobody_can_read_is_rebuilt_with_the_other(tmp_path: Path) -> None:
    guest, conversion = arch(tmp_path, b"\0" * 512)
    fallback = read_initramfs(guest.read("/boot/initramfs-linux-fallback.img"))
    assert "virtio_blk" in fallback.modules(arch_version())
    assert any("fallback.img could not be read" in warning for warning in conversion.warnings)


def grub(guest: TreeGuest, initrd: str) -> None:
    path = "/boot/grub/grub.cfg"
    entry = f"menuentry 'Old' {{\n\tlinux /boot/vmlinuz-{VERSION} root=/dev/sda1\n\tinitrd {initrd}\n}}\n"
    guest.write(path, guest.read(path) + entry.encode())


def test_an_entry_with_an_initramfs_of_another_name_boots_too(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/boot/rescue.img", initramfs(VERSION, OLD_MODULES))
    grub(guest, "/boot/rescue.img")
    convert(guest)
    for path in (INITRAMFS, "/boot/rescue.img"):
        assert "virtio_blk" in read_initramfs(guest.read(path)).modules(VERSION)


def test_a_link_to_what_was_changed_is_not_changed_again(tmp_path: Path) -> None:
    plain = tree(tmp_path / "a")
    convert(plain)
    guest = tree(tmp_path / "b")
    guest.host("/initrd.img").symlink_to(INITRAMFS.lstrip("/"))
    grub(guest, "/initrd.img")
    conversion = convert(guest)
    assert guest.read(INITRAMFS) == plain.read(INITRAMFS)
    assert guest.host("/initrd.img") == guest.host(INITRAMFS)
    assert [change.path for change in conversion.changes if "initrd.img" in change.path] == [INITRAMFS]


def test_an_entry_that_cannot_follow_is_said_by_its_initramfs(tmp_path: Path) -> None:
    guest = tree(tmp_path, mkinitramfs=once)
    guest.write("/boot/broken.img", b"\x1f\x8b broken")
    grub(guest, "/boot/broken.img")
    assert any("/boot/broken.img will not boot" in warning for warning in convert(guest).warnings)


def once(guest: TreeGuest, argv: Sequence[str]) -> str:
    """A mkinitramfs that works for the first initramfs only."""
    first = [ran for ran in guest.ran if ran[0] == argv[0]] == [tuple(argv)]
    return (stand_in if first else no_command)(guest, argv)


def test_a_kernel_and_an_initramfs_of_any_name_are_known_from_the_menu(tmp_path: Path) -> None:
    entry = "menuentry 'Mine' {{\n\tlinux {} root=/dev/sda1\n\tinitrd {}\n}}\n"
    menu = entry.format("/boot/bzImage", "/boot/my.img")
    menu += entry.format("/boot/vmlinuz-5.9", "/boot/second.img")
    guest = guest_with(
        tmp_path,
        {
            "/boot/grub/grub.cfg": menu,
            "/boot/bzImage": bzimage("5.4.0-custom"),
            "/boot/my.img": initramfs("5.4.0-custom", OLD_MODULES),
            "/boot/vmlinuz-5.9": b"kernel",
            "/boot/second.img": initramfs("5.9", OLD_MODULES),
            "/lib/modules/5.4.0-custom/modules.dep": "",
            "/lib/modules/5.9/modules.dep": "",
        },
    )
    changes = Changes(guest)
    entries = resolve(changes, find_loader(changes, Firmware.BIOS).entries())
    kernels = installed_kernels(changes, (), entries)
    assert [(kernel.version, kernel.image, kernel.initramfs) for kernel in kernels] == [
        ("5.9", "/boot/vmlinuz-5.9", "/boot/second.img"),
        ("5.4.0-custom", "/boot/bzImage", "/boot/my.img"),
    ]
    assert all(kernel.contents for kernel in kernels)
