"""The programs that build an initramfs: which one is asked, how, and what later ones will hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.kernels import Kernel, installed_kernels
from conversions.ramdisks import Builder, find_builder
from conversions.rebuilt import RESULT
from drivers.linux import AHCI, SD, VIRTIO_BLK, VIRTIO_PCI
from p2v.errors import GuestError
from p2v.model import MiB
from tests.conversions.cpio_writer import archive, initramfs
from tests.conversions.machines import ROOT_UUID
from tests.conversions.trees import NAMES, guest_with, text
from tests.tree_guest import Command, TreeGuest

VERSION = "6.1"
DEP = "kernel/virtio.ko:\nkernel/virtio_blk.ko: kernel/virtio.ko\nkernel/virtio_pci.ko: kernel/virtio.ko\n"
DRIVERS = (VIRTIO_PCI, VIRTIO_BLK)
WANTED = ("virtio", "virtio_blk", "virtio_pci")

TOOLS: dict[str, dict[str, str | bytes]] = {
    "dracut": {"/usr/bin/dracut": "#!", "/etc/dracut.conf": 'kernel_cmdline="root=/dev/sda1"\n'},
    "initramfs-tools": {"/usr/sbin/mkinitramfs": "#!", "/etc/initramfs-tools/modules": "# mine\n"},
    "mkinitcpio": {
        "/usr/bin/mkinitcpio": "#!",
        "/etc/mkinitcpio.conf": "MODULES=(ext4 virtio-pci)\nHOOKS=(base)\n",
    },
    "mkinitfs": {
        "/sbin/mkinitfs": "#!",
        "/etc/mkinitfs/mkinitfs.conf": 'features="ata base ext4"\n',
        "/etc/mkinitfs/features.d/virtio.modules": "kernel/drivers/virtio",
    },
    "mkinitrd": {"/sbin/mkinitrd": "#!", "/etc/sysconfig/kernel": 'INITRD_MODULES="ahci virtio_pci"\n'},
}
LATER = {
    "dracut": ("/etc/dracut.conf.d/90-p2v.conf", 'add_drivers+=" virtio_pci virtio_blk "'),
    "initramfs-tools": ("/etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\n"),
    "mkinitcpio": ("/etc/mkinitcpio.conf", "MODULES=(ext4 virtio-pci virtio_blk)\nHOOKS=(base)\n"),
    "mkinitfs": ("/etc/mkinitfs/mkinitfs.conf", 'features="ata base ext4 virtio"\n'),
    "mkinitrd": ("/etc/sysconfig/kernel", 'INITRD_MODULES="ahci virtio_pci virtio_blk"\n'),
}
PROGRAMS = {"initramfs-tools": "mkinitramfs"}


def guest_of(
    folder: Path, name: str, tool: Command, files: dict[str, str | bytes] | None = None
) -> TreeGuest:
    old = archive({"etc/cmdline.d/20-lvm.conf": b'rd.lvm.lv=vg/root bad"word\n', "init": b""})
    common: dict[str, str | bytes] = {
        "/boot/vmlinuz-6.1": b"kernel",
        "/boot/initrd.img-6.1": initramfs(VERSION, ("ahci",)) + b"" if name != "dracut" else old,
        "/lib/modules/6.1/modules.dep": DEP,
        "/var/lib/x": "",
    }
    guest = guest_with(folder, common | TOOLS[name] | (files or {}))
    guest.commands[PROGRAMS.get(name, name)] = tool
    guest.commands["findmnt"] = lambda _guest, _argv: "/dev/sdb1\n"
    return guest


def made(guest: TreeGuest, argv: Sequence[str]) -> str:
    """Writes what was asked for where it was asked for."""
    assert RESULT in argv
    guest.write(RESULT, initramfs(VERSION, (*WANTED, "ahci")))
    return ""


def prepared(guest: TreeGuest) -> tuple[Changes, Builder, Kernel]:
    changes = Changes(guest)
    (kernel,) = installed_kernels(changes, ())
    return changes, find_builder(changes), kernel


@pytest.mark.parametrize("name", TOOLS)
def test_the_builder_is_known_by_its_program(tmp_path: Path, name: str) -> None:
    _, builder, _ = prepared(guest_of(tmp_path, name, made))
    assert (builder.name, builder.exists) == (name, True)


@pytest.mark.parametrize("name", TOOLS)
def test_later_ones_hold_the_drivers_said_once(tmp_path: Path, name: str) -> None:
    guest = guest_of(tmp_path, name, made)
    _, builder, _ = prepared(guest)
    builder.remember(DRIVERS)
    path, wanted = LATER[name]
    assert wanted in text(guest, path)
    changes, again, _ = prepared(guest)
    again.remember(DRIVERS)
    assert changes.changes == ()


@pytest.mark.parametrize("name", TOOLS)
def test_a_rebuild_replaces_the_initramfs_and_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    guest = guest_of(tmp_path, name, made)
    changes, builder, kernel = prepared(guest)
    builder.rebuild(kernel, DRIVERS, "it lacked something")
    assert guest.read(kernel.initramfs) == initramfs(VERSION, (*WANTED, "ahci"))
    assert [change.path for change in changes.changes] == [kernel.initramfs]
    assert not guest.exists("/var/lib/p2v-conversion")
    assert not guest.glob("/etc/dracut.conf.d/99*")


@pytest.mark.parametrize("name", TOOLS)
def test_a_result_without_the_driver_is_refused(tmp_path: Path, name: str) -> None:
    def forgetful(guest: TreeGuest, argv: Sequence[str]) -> str:
        guest.write(RESULT, initramfs(VERSION, ("ahci",)))
        return ""

    guest = guest_of(tmp_path, name, forgetful)
    changes, builder, kernel = prepared(guest)
    before = guest.read(kernel.initramfs)
    with pytest.raises(GuestError, match="still lacks virtio"):
        builder.rebuild(kernel, DRIVERS, "")
    assert guest.read(kernel.initramfs) == before
    assert changes.changes == ()
    assert not guest.glob("/etc/dracut.conf.d/99*")


@pytest.mark.parametrize("name", TOOLS)
def test_without_space_nothing_is_started(tmp_path: Path, name: str) -> None:
    guest = guest_of(tmp_path, name, made)
    guest.free = 20 * MiB
    _, builder, kernel = prepared(guest)
    with pytest.raises(GuestError, match="20 MiB free"):
        builder.rebuild(kernel, DRIVERS, "")
    assert not [argv for argv in guest.ran if argv[0].endswith(PROGRAMS.get(name, name))]


def test_dracut_is_told_to_build_for_every_machine_with_what_it_knew_of_this_one(tmp_path: Path) -> None:
    seen: list[str] = []

    def dracut(guest: TreeGuest, argv: Sequence[str]) -> str:
        seen.append(text(guest, "/etc/dracut.conf.d/99-p2v-build.conf"))
        return made(guest, argv)

    guest = guest_of(tmp_path, "dracut", dracut)
    _, builder, kernel = prepared(guest)
    builder.rebuild(kernel, DRIVERS, "")
    assert 'hostonly="no"' in seen[0]
    assert 'add_drivers+=" virtio virtio_blk virtio_pci "' in seen[0]
    assert "rd.lvm.lv=vg/root" in seen[0]
    assert 'bad"word' not in seen[0]


def test_dracuts_own_command_line_names_disks_that_hold(tmp_path: Path) -> None:
    guest = guest_of(tmp_path, "dracut", made)
    prepared(guest)[1].rewrite_devices(NAMES)
    assert text(guest, "/etc/dracut.conf") == f'kernel_cmdline="root=/dev/disk/by-uuid/{ROOT_UUID}"\n'


@pytest.mark.parametrize(("hook", "name"), [(False, "initramfs-tools"), (True, "dracut")])
def test_debian_may_have_both_and_means_one(tmp_path: Path, *, hook: bool, name: str) -> None:
    both = TOOLS["dracut"] | TOOLS["initramfs-tools"] | {"/usr/sbin/update-initramfs": "#!"}
    if hook:
        both |= {"/etc/kernel/postinst.d/dracut": "#!"}
    assert find_builder(Changes(guest_with(tmp_path, both))).name == name


def test_the_old_mkinitrd_of_red_hat_gets_adapters(tmp_path: Path) -> None:
    guest = guest_of(tmp_path, "mkinitrd", made, {"/etc/modprobe.conf": "alias scsi_hostadapter cciss\n"})
    guest.remove("/etc/sysconfig/kernel")
    _, builder, kernel = prepared(guest)
    builder.remember(DRIVERS)
    assert text(guest, "/etc/modprobe.conf").splitlines() == [
        "alias scsi_hostadapter cciss",
        "alias scsi_hostadapter1 virtio_pci",
        "alias scsi_hostadapter2 virtio_blk",
    ]
    builder.rebuild(kernel, DRIVERS, "")
    (argv,) = [argv for argv in guest.ran if argv[0].endswith("mkinitrd")]
    assert "--with=virtio_blk" in argv


def test_the_mkinitrd_of_suse_is_told_the_root_of_the_appliance(tmp_path: Path) -> None:
    guest = guest_of(tmp_path, "mkinitrd", made)
    _, builder, kernel = prepared(guest)
    builder.rebuild(kernel, DRIVERS, "")
    (argv,) = [argv for argv in guest.ran if argv[0].endswith("mkinitrd")]
    assert argv[-2:] == ("-d", "/dev/sdb1")


def test_alpine_gets_only_features_that_it_has(tmp_path: Path) -> None:
    guest = guest_of(tmp_path, "mkinitfs", made)
    prepared(guest)[1].remember((AHCI, SD, VIRTIO_BLK))
    assert text(guest, "/etc/mkinitfs/mkinitfs.conf") == 'features="ata base ext4 virtio"\n'


def test_a_guest_without_a_builder_cannot_rebuild(tmp_path: Path) -> None:
    guest = guest_of(tmp_path, "dracut", made)
    guest.remove("/usr/bin/dracut")
    changes, builder, kernel = prepared(guest)
    builder.remember(DRIVERS)
    assert (builder.exists, changes.changes) == (False, ())
    with pytest.raises(GuestError, match="no program"):
        builder.rebuild(kernel, DRIVERS, "")
