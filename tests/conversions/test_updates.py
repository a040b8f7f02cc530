"""Which way an initramfs is brought up to date, and what is left of it where the quick way is not sure."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from conversions import updates
from conversions.changes import Changes
from conversions.initramfs import read_initramfs
from conversions.kernels import installed_kernels
from conversions.ramdisks import find_builder
from conversions.updates import Updates
from drivers.linux import VIRTIO_BLK, VIRTIO_PCI
from p2v.errors import GuestError
from p2v.model import GiB, KiB, MiB
from tests.conversions.cpio_writer import archive
from tests.conversions.machines import INITRAMFS, OLD_MODULES, SWAP_UUID, VERSION, convert, tree
from tests.conversions.trees import NAMES
from tests.tree_guest import TreeGuest, no_command

VIRTIO = (
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_blk",
)
STATE = f"/var/lib/initramfs-tools/{VERSION}"


def with_drivers(folder: Path, *, free: int = GiB) -> TreeGuest:
    """All that is wrong with its initramfs is that it waits for /dev/sda2."""
    return tree(folder, modules=(*OLD_MODULES, *VIRTIO), free=free)


def resume_of(guest: TreeGuest) -> str:
    files = {file.path: file.text for file in read_initramfs(guest.read(INITRAMFS)).files}
    return files["conf/conf.d/resume"]


def updates_of(guest: TreeGuest) -> Updates:
    changes = Changes(guest)
    return Updates(changes, find_builder(changes), NAMES)


def bring(guest: TreeGuest, found: Updates) -> None:
    (kernel,) = [kernel for kernel in installed_kernels(found.changes, ()) if kernel.version == VERSION]
    found.bring(kernel, (VIRTIO_PCI, VIRTIO_BLK))


def test_an_old_name_is_replaced_without_the_guests_tool(tmp_path: Path) -> None:
    guest = with_drivers(tmp_path)
    convert(guest)
    assert resume_of(guest) == f"RESUME=UUID={SWAP_UUID}\n"
    assert not guest.exists(STATE)


def test_the_record_of_update_initramfs_stays_true(tmp_path: Path) -> None:
    guest = with_drivers(tmp_path)
    guest.mkdir("/var/lib/initramfs-tools")
    guest.write(STATE, f"0123  {INITRAMFS}\n".encode())
    convert(guest)
    digest = hashlib.sha1(guest.read(INITRAMFS), usedforsecurity=False).hexdigest()
    assert guest.read(STATE).decode() == f"{digest}  {INITRAMFS}\n"


def test_where_boot_has_no_space_for_both_it_is_made_elsewhere(tmp_path: Path) -> None:
    """A key of LUKS may be in it, so nobody else may read it afterwards either."""
    guest = with_drivers(tmp_path)
    modules = {f"usr/lib/modules/{VERSION}/kernel/{name}.ko": b"" for name in (*OLD_MODULES, *VIRTIO)}
    large = {"bin/large": os.urandom(64 * KiB), "conf/conf.d/resume": b"RESUME=/dev/sda2\n"}
    guest.write(INITRAMFS, archive(modules | large))
    guest.host(INITRAMFS).chmod(0o600)
    guest.spaces["/boot"] = MiB - 1
    with pytest.raises(GuestError, match="/boot of the guest has"):
        bring(guest, updates_of(guest))
    guest.spaces["/boot"] = MiB + 8 * KiB
    found = updates_of(guest)
    bring(guest, found)
    assert resume_of(guest) == f"RESUME=UUID={SWAP_UUID}\n"
    assert guest.host(INITRAMFS).stat().st_mode & 0o7777 == 0o600
    assert ["chmod" in argv[0] for argv in guest.ran].count(True) == 1
    assert not guest.exists("/var/lib/p2v-conversion")
    assert [change.path for change in found.changes.changes] == [INITRAMFS]


def test_a_result_that_lacks_a_driver_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = tree(tmp_path)
    monkeypatch.setattr(updates, "supplement", lambda _changes, _kernel, data, *_: data)
    bring(guest, updates_of(guest))
    assert [argv for argv in guest.ran if argv[0].endswith("mkinitramfs")]
    assert set(VIRTIO) <= read_initramfs(guest.read(INITRAMFS)).modules(VERSION)


def test_why_nothing_was_added_is_part_of_the_error(tmp_path: Path) -> None:
    guest = tree(tmp_path, mkinitramfs=no_command)
    with pytest.raises(
        GuestError, match="not in the guest; nothing was added to it, as nothing is known to load"
    ):
        bring(guest, updates_of(guest))


def test_it_is_done_once(tmp_path: Path) -> None:
    guest = with_drivers(tmp_path)
    found = updates_of(guest)
    (kernel,) = [kernel for kernel in installed_kernels(found.changes, ()) if kernel.version == VERSION]
    found.bring(kernel, ())
    once = guest.read(INITRAMFS)
    found.bring(kernel, ())
    assert guest.read(INITRAMFS) == once
