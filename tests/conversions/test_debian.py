"""The whole conversion of a Debian guest, on a tree of files taken from a real one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conversions.initramfs import read_initramfs
from p2v.errors import GuestError
from p2v.model import ChangeKind, DiskBus, MiB, NicModel
from tests.conversions.machines import (
    GUESTS,
    INITRAMFS,
    MACHINE,
    OLD_MODULES,
    ROOT_UUID,
    VERSION,
    convert,
    tree,
    without_names,
)
from tests.tree_guest import TreeGuest, no_command

VIRTIO = {
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_blk",
}


def contents(folder: Path) -> dict[str, str]:
    """Every file by its path, without the initramfs, which is no text."""
    found: dict[str, str] = {}
    for place in sorted(folder.rglob("*")):
        path = str(place.relative_to(folder))
        if place.is_symlink():
            found[path] = f"link to {place.readlink()}"
        elif place.is_file() and f"/{path}" != INITRAMFS:
            found[path] = place.read_text()
    return found


def test_the_tree_afterwards_is_the_golden_one(tmp_path: Path, *, regenerate: bool) -> None:
    guest = tree(tmp_path)
    convert(guest)
    golden = GUESTS / "debian12-sda" / "after"
    if regenerate:
        shutil.rmtree(golden, ignore_errors=True)
        shutil.copytree(guest.root, golden, symlinks=True)
        (golden / INITRAMFS.lstrip("/")).unlink()
    assert contents(guest.root) == contents(golden)


def test_every_changed_file_is_in_the_record_with_its_digests(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    before = contents(guest.root)
    before_digest = guest.sha256(INITRAMFS)
    conversion = convert(guest)
    after = contents(guest.root)
    differing = {f"/{path}" for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    recorded = {change.path: change for change in conversion.changes}
    # A path of the record may lead through a link, as /lib does: compare what it means.
    assert {f"/{guest.host(path).relative_to(guest.root)}" for path in recorded} == {*differing, INITRAMFS}
    assert all(change.reason for change in conversion.changes)
    assert all(change.after == guest.sha256(change.path) for change in conversion.changes)
    assert recorded[INITRAMFS].kind is ChangeKind.REBUILT
    assert recorded[INITRAMFS].before == before_digest


def test_the_initramfs_gets_virtio_and_keeps_the_old_hardware(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    conversion = convert(guest)
    present = read_initramfs(guest.read(INITRAMFS)).modules(VERSION)
    assert present >= VIRTIO | set(OLD_MODULES)
    assert (conversion.disk_bus, conversion.nic_model) == (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert conversion.serial_console


def test_converting_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    convert(guest)
    once, ran = contents(guest.root), len(guest.ran)
    again = convert(guest)
    assert again.changes == ()
    assert contents(guest.root) == once
    assert len(guest.ran) == ran


def test_an_initramfs_that_has_the_drivers_is_not_rebuilt(tmp_path: Path) -> None:
    guest = tree(tmp_path, modules=(*OLD_MODULES, *VIRTIO))
    guest.write("/etc/initramfs-tools/conf.d/resume", b"RESUME=none\n")
    guest.write(INITRAMFS, guest.read(INITRAMFS))
    conversion = convert(guest)
    rebuilt = [change for change in conversion.changes if change.kind is ChangeKind.REBUILT]
    assert ["conf/conf.d/resume" in change.reason for change in rebuilt] == [True]
    assert not any("mkinitramfs" in argv[0] for argv in guest.ran)


def test_without_a_tool_the_old_driver_decides_the_bus(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove("/usr/sbin/mkinitramfs")
    conversion = convert(guest)
    assert conversion.disk_bus is DiskBus.SATA
    assert any("virtio_blk" in warning for warning in conversion.warnings)


def test_without_a_tool_and_without_any_driver_it_is_refused(tmp_path: Path) -> None:
    guest = tree(tmp_path, modules=("megaraid_sas",))
    guest.remove("/usr/sbin/mkinitramfs")
    with pytest.raises(GuestError, match="on no bus"):
        convert(guest)


def test_a_tool_that_fails_is_an_error_and_leaves_no_work_folder(tmp_path: Path) -> None:
    guest = tree(tmp_path, mkinitramfs=no_command)
    with pytest.raises(GuestError, match="not in the guest"):
        convert(guest)
    assert not guest.exists("/var/lib/p2v-conversion")


def test_a_tool_that_forgets_the_driver_is_caught(tmp_path: Path) -> None:
    def forgetful(guest: TreeGuest, argv: Sequence[str]) -> str:
        guest.write(argv[4], guest.read(INITRAMFS))
        return ""

    guest = tree(tmp_path, mkinitramfs=forgetful)
    with pytest.raises(GuestError, match=r"still lacks .*virtio_blk"):
        convert(guest)


def test_no_space_is_said_with_numbers_before_anything_is_built(tmp_path: Path) -> None:
    guest = tree(tmp_path, free=3 * MiB)
    with pytest.raises(GuestError, match="has 3 MiB free, but 33 MiB"):
        convert(guest)
    assert not any("mkinitramfs" in argv[0] for argv in guest.ran)


def test_a_kernel_without_modules_is_left_with_a_warning(tmp_path: Path) -> None:
    conversion = convert(tree(tmp_path))
    assert any("5.10.0-8-amd64" in warning for warning in conversion.warnings)


def test_a_guest_without_kernel_is_refused_untouched(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove(f"/boot/vmlinuz-{VERSION}")
    before = contents(guest.root)
    with pytest.raises(GuestError, match="no kernel"):
        convert(guest)
    assert contents(guest.root) == before


def test_a_guest_without_grub_is_refused_untouched(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove("/boot/grub/grub.cfg")
    before = contents(guest.root)
    with pytest.raises(GuestError, match="GRUB"):
        convert(guest)
    assert contents(guest.root) == before


def test_an_image_without_its_machine_is_converted_by_the_usual_names(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    convert(guest, machine=without_names(MACHINE))
    assert f"UUID={ROOT_UUID}\t/\text4" in guest.read("/etc/fstab").decode()
    assert f"root=UUID={ROOT_UUID} ro" in guest.read("/boot/grub/grub.cfg").decode()


def test_an_unreadable_initramfs_is_rebuilt_with_the_full_choice(tmp_path: Path) -> None:
    seen: list[str] = []

    def full(guest: TreeGuest, argv: Sequence[str]) -> str:
        seen.append(guest.read(f"{argv[2]}/conf.d/zz-p2v").decode())
        raise GuestError("enough")

    guest = tree(tmp_path, mkinitramfs=full)
    guest.write(INITRAMFS, b"\x89LZO\0\r\n\x1a\n" + os.urandom(64))
    with pytest.raises(GuestError, match="enough"):
        convert(guest)
    assert "MODULES=most" in seen[0]


def test_a_system_of_no_family_is_refused_by_name(tmp_path: Path) -> None:
    assert MACHINE.os is not None
    machine = replace(MACHINE, os=replace(MACHINE.os, name="Haiku R1", family=""))
    with pytest.raises(GuestError, match="Haiku R1"):
        convert(tree(tmp_path), machine=machine)
