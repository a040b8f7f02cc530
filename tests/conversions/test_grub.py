"""GRUB's files as text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from conversions import grub
from conversions.changes import Changes
from conversions.devices import device_names
from tests.conversions.machines import MACHINE, ROOT_UUID, tree

GRUB_CFG = """\
set root='hd0,msdos1'
menuentry 'Debian' {
\tlinux\t(hd0,1)/vmlinuz-6.1.0 root=/dev/sda1 ro
\tinitrd /initrd.img-6.1.0
}
menuentry 'no arguments' {
    linuxefi /boot/vmlinuz-5
}
menuentry 'memtest' {
    linux16 /boot/memtest86+.bin console=ttyS0
}
"""


def test_only_kernels_get_their_arguments_edited() -> None:
    edited = grub.edit_linux_lines(GRUB_CFG, lambda words: f"{words}!".strip())
    assert "\tlinux\t(hd0,1)/vmlinuz-6.1.0 root=/dev/sda1 ro!\n" in edited
    assert "    linuxefi /boot/vmlinuz-5 !\n" in edited
    assert "memtest86+.bin console=ttyS0\n" in edited
    assert edited.replace("!", "").replace("vmlinuz-5 \n", "vmlinuz-5\n") == GRUB_CFG


def test_quotes_of_a_setting_stay_and_bare_values_get_them() -> None:
    text = "GRUB_CMDLINE_LINUX='a'\nexport GRUB_CMDLINE_LINUX_DEFAULT=\"b\"\nGRUB_CMDLINE_LINUX= # none\n"
    edited = grub.edit_settings(text, lambda words: f"{words} x")
    assert edited == (
        "GRUB_CMDLINE_LINUX='a x'\n"
        'export GRUB_CMDLINE_LINUX_DEFAULT="b x"\nGRUB_CMDLINE_LINUX=" x" # none\n'
    )


@given(st.text(max_size=200))
def test_any_text_survives_an_edit_that_does_nothing(text: str) -> None:
    assert grub.edit_linux_lines(text, str) == text
    assert grub.edit_settings(text, str) == text


def test_a_later_file_of_settings_gets_the_console_because_it_wins(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.mkdir("/etc/default/grub.d")
    guest.write("/etc/default/grub.d/50-cloud.cfg", b'GRUB_CMDLINE_LINUX="net.ifnames=0"\n')
    grub.add_serial_console(Changes(guest))
    later = guest.read("/etc/default/grub.d/50-cloud.cfg").decode()
    assert later == 'GRUB_CMDLINE_LINUX="net.ifnames=0 console=tty0 console=ttyS0,115200n8"\n'
    assert 'GRUB_CMDLINE_LINUX=""' in guest.read("/etc/default/grub").decode()


def test_settings_without_the_variable_get_a_line(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/etc/default/grub", b"GRUB_TIMEOUT=1")
    grub.add_serial_console(Changes(guest))
    text = guest.read("/etc/default/grub").decode()
    assert text == 'GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200n8"\n'


def test_a_console_of_the_administrator_is_left_alone(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/etc/default/grub", b'GRUB_CMDLINE_LINUX_DEFAULT="console=ttyS0,9600"\n')
    guest.write("/boot/grub/grub.cfg", b"linux /boot/vmlinuz-1 console=ttyS0,9600\n")
    changes = Changes(guest)
    grub.add_serial_console(changes)
    assert changes.changes == ()


def test_the_root_of_the_settings_is_renamed_too(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write(
        "/etc/default/grub", b'GRUB_CMDLINE_LINUX="root=/dev/sda1 quiet"\nGRUB_DISABLE_UUID="true" # mine\n'
    )
    grub.rewrite_devices(Changes(guest), device_names(MACHINE))
    text = guest.read("/etc/default/grub").decode()
    assert text == f'GRUB_CMDLINE_LINUX="root=UUID={ROOT_UUID} quiet"\n#GRUB_DISABLE_UUID="true" # mine\n'


def test_a_device_map_keeps_what_holds_anywhere(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/boot/grub/device.map", b"(hd0)\t/dev/sda\n(hd1)\t/dev/mapper/vg0-data\n")
    grub.rewrite_devices(Changes(guest), device_names(MACHINE))
    assert guest.read("/boot/grub/device.map") == b"(hd1)\t/dev/mapper/vg0-data\n"


def test_the_first_entry_names_the_default_kernel(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.write("/boot/grub/grub.cfg", GRUB_CFG.encode())
    assert grub.default_kernel(Changes(guest)) == "(hd0,1)/vmlinuz-6.1.0"


def test_the_memory_of_grub_pc_is_said(tmp_path: Path) -> None:
    changes = Changes(tree(tmp_path))
    grub.warn_about_installer(changes)
    assert "dpkg-reconfigure grub-pc" in changes.warnings[0]
