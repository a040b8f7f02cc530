"""Every boot loader: which kernel it starts, and its files after disks and consoles were renamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conversions import grub_environment, grub_menu, uki
from conversions.changes import Changes
from conversions.grub_environment import SIGNATURE
from conversions.loaders import find_loader
from p2v.command import check
from p2v.errors import GuestError
from p2v.model import Firmware
from tests.conftest import need_tools
from tests.conversions.machines import ROOT_UUID, SWAP_UUID
from tests.conversions.trees import NAMES, guest_with, portable_executable, text
from tests.tree_guest import TreeGuest

SERIAL = "console=tty0 console=ttyS0,115200n8"

LEGACY = """# menu.lst, as update-grub of Debian writes it
default 1
## ## Start Default Options ##
# kopt=root=/dev/sda1 ro
title Old
root (hd0,0)
kernel /boot/vmlinuz-5.0 root=/dev/sda1 ro
initrd /boot/initrd.img-5.0
title New
kernel (hd0,0)/boot/vmlinuz-6.0 root=/dev/sda1 ro resume=/dev/sda2
title Xen
kernel /boot/xen.gz
module /boot/vmlinuz-6.0 root=/dev/sda1
"""
EXTLINUX = """default l1
prompt 0
label l0
\tlinux ../vmlinuz-5.0
\tappend initrd=../initrd.img-5.0 root=/dev/sda1 ro
label l1
\tLINUX ../vmlinuz-6.0
\tAPPEND initrd=../initrd.img-6.0 root=/dev/sda1 ro quiet
"""
ENTRY = """title Debian
version {version}
linux /machine/{version}/linux
initrd /machine/{version}/initrd
options root=/dev/sda1 ro
"""
BLS = """title Red Hat ({version})
version {version}
linux /vmlinuz-{version}
initrd /initramfs-{version}.img $tuned_initrd
options $kernelopts $tuned_params
id rhel
"""
GRUB_BLS = 'set default="${saved_entry}"\ninsmod blscfg\nblscfg\n'


def environment(**variables: str) -> str:
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    return (SIGNATURE + lines).ljust(1024, "#")


def rhel8(folder: Path) -> TreeGuest:
    entries = {
        f"/boot/loader/entries/id-{v}.conf": BLS.format(version=v) for v in ("4.18.0-80", "4.18.0-372")
    }
    return guest_with(
        folder,
        {
            "/boot/grub2/grub.cfg": GRUB_BLS,
            "/boot/grub2/grubenv": environment(saved_entry="id-4.18.0-80", kernelopts="root=/dev/sda1 ro"),
            **entries,
        },
    )


def systemd_boot(folder: Path) -> TreeGuest:
    entries = {
        f"/boot/efi/loader/entries/machine-{version}.conf": ENTRY.format(version=version)
        for version in ("6.9", "6.10")
    }
    return guest_with(
        folder,
        {
            "/boot/efi/EFI/systemd/systemd-bootx64.efi": b"manager",
            "/boot/efi/loader/loader.conf": "timeout 3\n#default no\n",
            "/etc/kernel/cmdline": "root=/dev/sda1 ro\n",
            **entries,
        },
    )


def legacy(folder: Path) -> TreeGuest:
    return guest_with(folder, {"/boot/grub/menu.lst": LEGACY, "/boot/grub/device.map": "(hd0) /dev/sda\n"})


def extlinux(folder: Path) -> TreeGuest:
    settings = 'EXTLINUX_ROOT="root=/dev/sda1"\nEXTLINUX_PARAMETERS="ro quiet"\n'
    return guest_with(folder, {"/boot/extlinux/extlinux.conf": EXTLINUX, "/etc/default/extlinux": settings})


GUESTS: dict[str, tuple[Callable[[Path], TreeGuest], Firmware, str]] = {
    "grub2": (rhel8, Firmware.BIOS, "/vmlinuz-4.18.0-80"),
    "systemd-boot": (systemd_boot, Firmware.UEFI, "/machine/6.10/linux"),
    "grub-legacy": (legacy, Firmware.BIOS, "(hd0,0)/boot/vmlinuz-6.0"),
    "extlinux": (extlinux, Firmware.BIOS, "../vmlinuz-6.0"),
}


def content(guest: TreeGuest) -> str:
    """All files of a guest, one after the other."""
    return "\n".join(file.read_text() for file in sorted(guest.root.rglob("*")) if file.is_file())


@pytest.mark.parametrize("name", GUESTS)
def test_the_loader_is_found_with_its_default_kernel(tmp_path: Path, name: str) -> None:
    make, firmware, kernel = GUESTS[name]
    loader = find_loader(Changes(make(tmp_path)), firmware)
    assert loader.name == name
    assert loader.default_kernel() == kernel


@pytest.mark.parametrize("name", GUESTS)
def test_no_disk_of_the_source_is_named_afterwards(tmp_path: Path, name: str) -> None:
    make, firmware, _ = GUESTS[name]
    guest = make(tmp_path)
    find_loader(Changes(guest), firmware).rewrite_devices(NAMES)
    assert "/dev/sda" not in content(guest)
    assert f"root=UUID={ROOT_UUID}" in content(guest)


@pytest.mark.parametrize("name", GUESTS)
def test_every_kernel_talks_on_the_serial_port_and_only_once(tmp_path: Path, name: str) -> None:
    make, firmware, _ = GUESTS[name]
    guest = make(tmp_path)
    find_loader(Changes(guest), firmware).add_serial_console()
    once = content(guest)
    assert SERIAL in once
    changes = Changes(guest)
    find_loader(changes, firmware).add_serial_console()
    find_loader(changes, firmware).add_arguments(["console=tty0"])
    assert changes.changes == ()
    assert content(guest) == once


@pytest.mark.parametrize("name", GUESTS)
def test_an_argument_reaches_what_boots_and_what_is_made_later(tmp_path: Path, name: str) -> None:
    make, firmware, _ = GUESTS[name]
    guest = make(tmp_path)
    before = content(guest).count("root=/dev/sda1")
    find_loader(Changes(guest), firmware).add_arguments(["mitigations=off"])
    assert content(guest).count("mitigations=off") >= min(before, 2) or name == "grub2"
    assert "mitigations=off" in content(guest)


def test_a_guest_without_a_loader_says_so(tmp_path: Path) -> None:
    changes = Changes(guest_with(tmp_path, {"/etc/fstab": "x"}))
    loader = find_loader(changes, Firmware.BIOS)
    loader.rewrite_devices(NAMES)
    loader.add_serial_console()
    assert (loader.name, loader.default_kernel(), changes.changes) == ("none", "", ())
    assert len(changes.warnings) == 1


@pytest.mark.parametrize(
    ("firmware", "extra", "name"),
    [
        (Firmware.BIOS, {}, "grub2"),
        (Firmware.UEFI, {}, "grub2"),
        (Firmware.UEFI, {"/boot/efi/EFI/BOOT/BOOTX64.EFI": b"manager"}, "systemd-boot"),
        (Firmware.UEFI, {"/boot/efi/EFI/BOOT/BOOTX64.EFI": b"shim"}, "grub2"),
        (
            Firmware.BIOS,
            {"/boot/extlinux/extlinux.conf": EXTLINUX, "/boot/extlinux/ldlinux.sys": b""},
            "extlinux",
        ),
        (Firmware.BIOS, {"/boot/extlinux/extlinux.conf": EXTLINUX}, "grub2"),
    ],
)
def test_of_several_loaders_the_one_that_is_started_decides(
    tmp_path: Path, firmware: Firmware, extra: dict[str, str | bytes], name: str
) -> None:
    files: dict[str, str | bytes] = {
        "/boot/grub/grub.cfg": "linux /boot/vmlinuz-6.0 root=/dev/sda1\n",
        "/boot/efi/EFI/systemd/systemd-bootx64.efi": b"manager",
        "/boot/efi/loader/entries/a.conf": ENTRY.format(version="6.10"),
    }
    guest = guest_with(tmp_path, files | extra)
    loader = find_loader(Changes(guest), firmware)
    assert loader.name == name
    loader.rewrite_devices(NAMES)
    assert "/dev/sda1" not in content(guest)


def test_the_variable_of_red_hat_8_gets_the_console_and_its_entries_do_not(tmp_path: Path) -> None:
    guest = rhel8(tmp_path)
    find_loader(Changes(guest), Firmware.BIOS).add_serial_console()
    block = guest.read("/boot/grub2/grubenv")
    assert len(block) == 1024
    assert grub_environment.variables(block.decode())["kernelopts"] == f"root=/dev/sda1 ro {SERIAL}"
    assert text(guest, "/boot/loader/entries/id-4.18.0-80.conf") == BLS.format(version="4.18.0-80")


@pytest.mark.tools
def test_grubs_own_tool_reads_the_block(tmp_path: Path) -> None:
    need_tools("grub-editenv")
    block = tmp_path / "grubenv"
    check(["grub-editenv", block, "create"], timeout=20, reason="make")
    values = ["kernelopts=root=/dev/sda1 ro", "tail=back\\slash", "saved_entry=x"]
    check(["grub-editenv", block, "set", *values], timeout=20, reason="set")
    edited = grub_environment.edit_variable(
        block.read_text(), "kernelopts", lambda words: f"{words} quiet \\x"
    )
    block.write_text(edited)
    assert len(edited) == 1024
    listed = check(["grub-editenv", block, "list"], timeout=20, reason="list").splitlines()
    assert sorted(listed) == sorted(["kernelopts=root=/dev/sda1 ro quiet \\x", *values[1:]])
    assert grub_environment.variables(edited)["tail"] == "back\\slash"


def test_a_full_block_is_said_and_left(tmp_path: Path) -> None:
    long = "x" * 960
    guest = guest_with(
        tmp_path, {"/boot/grub/grub.cfg": GRUB_BLS, "/boot/grub/grubenv": environment(kernelopts=long)}
    )
    changes = Changes(guest)
    find_loader(changes, Firmware.BIOS).add_serial_console()
    assert text(guest, "/boot/grub/grubenv") == environment(kernelopts=long)
    assert any("no space for kernelopts" in warning for warning in changes.warnings)
    with pytest.raises(GuestError):
        grub_environment.edit_variable(environment(a=long), "a", lambda words: words + "y" * 99)


MENU = """
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="DEFAULT"
fi
menuentry 'Debian' --class debian $menuentry_id_option 'simple' {
\tlinux\t/boot/vmlinuz-3 root=UUID=x
}
submenu 'Advanced options for Debian' $menuentry_id_option 'advanced' {
\tmenuentry 'It'\\''s two' $menuentry_id_option 'two' {
\t\tlinux /boot/vmlinuz-2 root=UUID=x
\t}
\tmenuentry "One" --id one {
\t\tlinux /boot/vmlinuz-1
\t}
}
"""


@pytest.mark.parametrize(
    ("default", "kernel"),
    [
        ("0", "3"),
        ("1>1", "1"),
        ("advanced>one", "1"),
        ("Advanced options for Debian>It's two", "2"),
        ("1", "2"),
        ("simple", "3"),
        ("${saved_entry}", "1"),
        ("99", "3"),
        ("gone>away", "3"),
        ("", "3"),
    ],
)
def test_the_default_of_a_menu_is_followed(default: str, kernel: str) -> None:
    menu = MENU.replace("DEFAULT", default)
    assert grub_menu.default_kernel(menu, {"saved_entry": "advanced>one"}) == f"/boot/vmlinuz-{kernel}"


def test_a_unified_kernel_that_names_the_old_disk_is_said(tmp_path: Path) -> None:
    image = portable_executable(linux=b"k", cmdline=b"root=/dev/sda1 ro\0", uname=b"6.10.3-arch1-1")
    guest = guest_with(tmp_path, {"/boot/EFI/Linux/arch-linux.efi": image})
    changes = Changes(guest)
    loader = find_loader(changes, Firmware.UEFI)
    loader.rewrite_devices(NAMES)
    assert loader.default_kernel() == "/boot/EFI/Linux/arch-linux.efi"
    assert uki.images(changes)[0].version == "6.10.3-arch1-1"
    assert ["arch-linux.efi" in warning for warning in changes.warnings] == [True]
    assert guest.read("/boot/EFI/Linux/arch-linux.efi") == image


@pytest.mark.tools
def test_sections_are_what_objcopy_put_there(tmp_path: Path) -> None:
    need_tools("objcopy")
    stubs = sorted(Path("/usr/lib/systemd/boot/efi").glob("linuxx64.efi.stub"))
    if not stubs:
        pytest.skip("the stub of systemd-boot-efi is not installed")
    line, out = tmp_path / "cmdline", tmp_path / "out.efi"
    line.write_bytes(b"root=/dev/sda1 quiet")
    add = ["--add-section", f".cmdline={line}", "--change-section-vma", ".cmdline=0x30000"]
    check(["objcopy", *add, stubs[0], out], timeout=20, reason="build")
    assert uki.sections(out.read_bytes())[".cmdline"] == b"root=/dev/sda1 quiet"


@pytest.mark.parametrize("data", [b"", b"MZ", b"MZ" + b"\xff" * 90, portable_executable(cmdline=b"x")[:90]])
def test_a_damaged_image_is_said_and_left(tmp_path: Path, data: bytes) -> None:
    guest = guest_with(tmp_path, {"/efi/EFI/Linux/a.efi": data})
    changes = Changes(guest)
    find_loader(changes, Firmware.UEFI).rewrite_devices(NAMES)
    assert len(changes.warnings) == 1


def test_words_of_other_tools_that_name_disks_are_rewritten_too(tmp_path: Path) -> None:
    line = "cryptdevice=/dev/sda1:root:allow-discards resume=/dev/sda2 root=/dev/mapper/root usr=/dev/sda9"
    guest = guest_with(tmp_path, {"/boot/grub/grub.cfg": f"linux /vmlinuz-linux {line}\n"})
    changes = Changes(guest)
    find_loader(changes, Firmware.BIOS).rewrite_devices(NAMES)
    words = text(guest, "/boot/grub/grub.cfg").split()
    assert words[2:5] == [
        f"cryptdevice=UUID={ROOT_UUID}:root:allow-discards",
        f"resume=UUID={SWAP_UUID}",
        "root=/dev/mapper/root",
    ]
    assert ["/dev/sda9" in warning for warning in changes.warnings] == [True]


def test_alpines_settings_get_what_its_menu_gets(tmp_path: Path) -> None:
    settings = 'default_kernel_opts="quiet"\nroot=/dev/sda1\nserial_port=\n'
    guest = guest_with(tmp_path, {"/boot/extlinux.conf": EXTLINUX, "/etc/update-extlinux.conf": settings})
    loader = find_loader(Changes(guest), Firmware.BIOS)
    loader.rewrite_devices(NAMES)
    loader.add_serial_console()
    assert text(guest, "/etc/update-extlinux.conf").splitlines() == [
        f'default_kernel_opts="quiet {SERIAL}"',
        f"root=UUID={ROOT_UUID}",
        "serial_port=",
    ]
