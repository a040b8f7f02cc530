"""Roots that are not a plain partition: Btrfs subvolumes, LVM in LUKS, MD RAID; and which one is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.matrix.luks import format_luks
from p2v.accelerator import Accelerator
from p2v.command import check
from p2v.errors import GuestError, UsageError
from p2v.guest import Access, Guest, GuestDisk, open_guest
from p2v.guest_inspect import Root, _without_snapshots, find_roots, mount_root
from p2v.guest_mounts import resolve
from p2v.guest_unlock import Keys, read_key, read_keys
from p2v.model import (
    Disk,
    Filesystem,
    Firmware,
    GiB,
    ImageFormat,
    Machine,
    MiB,
    OperatingSystem,
    Partition,
)
from tests.conftest import need_tools
from tests.conversions.trees import NAMES
from tests.test_guest import need_guestfs

KEY = "correct horse"
BTRFS_ID, LUKS_ID, RAID_ID = "a" * 32, "b" * 32, "c" * 32
LUKS_UUID = "4c554b53-0000-4000-8000-000000000001"
DAMAGED_UUID = "0d16e81d-026f-5e37-9720-4ceccfd31b34"
BOOT = "LABEL=theboot /boot ext4 defaults 0 2\n"


def system(machine_id: str) -> OperatingSystem:
    return OperatingSystem("debian", "12", "Debian", "debian", machine_id=machine_id)


def machine(machine_id: str) -> Machine:
    return Machine("m", Firmware.BIOS, 1, GiB, (), os=system(machine_id) if machine_id else None)


def write_root(handle: Any, machine_id: str, fstab: str, mark: str) -> None:
    for folder in ("/etc", "/usr", "/bin", "/boot", "/var"):
        handle.mkdir_p(folder)
    handle.write("/etc/os-release", f'ID=debian\nPRETTY_NAME="{mark}"\n'.encode())
    handle.write("/etc/machine-id", f"{machine_id}\n".encode())
    handle.write("/etc/fstab", fstab.encode())
    handle.umount_all()


def make_btrfs(handle: Any, device: str) -> None:
    handle.mkfs("btrfs", device)
    handle.mount(device, "/")
    for name in ("@", "@var", "snapshots"):
        handle.btrfs_subvolume_create(f"/{name}")
    handle.umount_all()
    handle.mount_options("subvol=@", device, "/")
    fstab = f"{device} / btrfs subvol=@ 0 0\nUUID={handle.vfs_uuid(device)} /var btrfs subvol=@var 0 0\n"
    write_root(handle, BTRFS_ID, fstab, "On Btrfs")
    handle.mount(device, "/")
    handle.btrfs_subvolume_snapshot("/@", "/snapshots/1")
    handle.umount_all()


def make_raid(handle: Any, one: str, other: str) -> None:
    handle.md_create("7", [one, other], level="raid1")
    (device,) = handle.list_md_devices()
    handle.mkfs("ext4", device)
    handle.mount(device, "/")
    write_root(handle, RAID_ID, "/dev/md7 / ext4 defaults 0 1\n", "On RAID")


def make_luks(guest: Guest, device: str, boot: str) -> None:
    handle: Any = guest._handle
    handle.cryptsetup_open(device, KEY, "building")
    handle.pvcreate("/dev/mapper/building")
    handle.vgcreate("metal", ["/dev/mapper/building"])
    handle.lvcreate("root", "metal", 24)
    handle.mkfs("ext4", "/dev/metal/root")
    handle.mount("/dev/metal/root", "/")
    fstab = f"/dev/mapper/metal-root / ext4 defaults 0 1\n{BOOT}"
    write_root(handle, LUKS_ID, fstab, "In LUKS")
    handle.mkfs("ext4", boot, label="theboot")
    handle.vg_activate(False, ["metal"])
    handle.cryptsetup_close("/dev/mapper/building")


def make_damaged(image: Path) -> None:
    """An ext4 whose root directory is lost."""
    check(["mke2fs", "-q", "-t", "ext4", "-U", DAMAGED_UUID, image, "16m"], timeout=20, reason="format")
    check(["debugfs", "-w", "-R", "clri <2>", image], timeout=20, reason="damage")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    need_guestfs()
    need_tools("cryptsetup", "mke2fs", "debugfs")
    folder = tmp_path_factory.mktemp("roots")
    images = [folder / f"disk{number}.raw" for number in range(6)]
    sizes = (192, 32, 32, 64, 16, 16)
    for image, size in zip(images, sizes, strict=True):
        with image.open("wb") as file:
            file.truncate(size * MiB)
    secret = folder / "secret"
    secret.write_text(KEY)
    format_luks(images[3], 64 * MiB, secret, identifier=LUKS_UUID)
    make_damaged(images[5])
    disks = [GuestDisk(image, ImageFormat.RAW) for image in images]
    with open_guest(disks, access=Access.READ_WRITE, accelerator=Accelerator.TCG) as opened:
        make_btrfs(opened._handle, "/dev/sda")
        make_raid(opened._handle, "/dev/sdb", "/dev/sdc")
        make_luks(opened, "/dev/sdd", "/dev/sde")
        yield opened


@pytest.fixture
def unmounted(guest: Guest) -> Iterator[Guest]:
    guest.unmount_all()
    yield guest
    guest.unmount_all()


@pytest.mark.guestfs
@pytest.mark.timeout(400)
class TestRoots:
    """In this order: the key of the encrypted one is given last, and it stays open."""

    def test_a_snapshot_is_not_a_second_system(self, unmounted: Guest) -> None:
        assert sorted(root.title for root in find_roots(unmounted)) == ["On Btrfs", "On RAID"]

    def test_of_several_systems_none_is_guessed(self, unmounted: Guest) -> None:
        with pytest.raises(GuestError, match=r"several systems: .*On Btrfs.*On RAID"):
            mount_root(unmounted, machine=machine(""))

    def test_the_machine_says_which_one_it_was(self, unmounted: Guest) -> None:
        assert mount_root(unmounted, machine=machine(BTRFS_ID)).title == "On Btrfs"
        unmounted.write("/var/p2v", b"on the subvolume for /var")
        assert unmounted.glob("/@*") == []

    def test_a_root_on_an_array_is_one(self, unmounted: Guest) -> None:
        assert mount_root(unmounted, machine=machine(RAID_ID)).title == "On RAID"
        assert resolve(unmounted, "/dev/md7", None, NAMES) == unmounted.arrays()[0].device
        with pytest.raises(GuestError, match="md9"):
            resolve(unmounted, "/dev/md9", None, NAMES)

    def test_a_damaged_root_is_refused_with_what_the_checker_found(self, unmounted: Guest) -> None:
        partition = Partition(0, 0, 16 * MiB, "83", "", Filesystem("ext4", 1, uuid=DAMAGED_UUID), "/")
        damaged = replace(machine(""), disks=(Disk("/dev/sdf", 16 * MiB, partitions=(partition,)),))
        with pytest.raises(GuestError, match=r"(?i)root inode|inconsistency") as error:
            mount_root(unmounted, machine=damaged)
        assert "fsck" in error.value.hint

    def test_a_wrong_key_opens_nothing_and_is_not_repeated(self, unmounted: Guest) -> None:
        with pytest.raises(GuestError) as error:
            mount_root(unmounted, machine=machine(LUKS_ID), keys=Keys(("wrong secret",)))
        assert "wrong secret" not in str(error.value)

    def test_the_right_key_opens_the_volumes_too(self, unmounted: Guest) -> None:
        keys = Keys(("wrong secret", KEY))
        root = mount_root(unmounted, machine=machine(LUKS_ID), keys=keys)
        assert (root.title, root.warnings) == ("In LUKS", ())
        unmounted.write("/boot/p2v", b"on the filesystem with the label")
        assert unmounted.free_space("/boot") < 16 * MiB


def root(device: str, subvolume: str = "") -> Root:
    return Root(device, "x", "", subvolume)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([root("/dev/sda1")], ["/dev/sda1"]),
        ([root("btrfsvol:/dev/sda1/@", "@")], ["btrfsvol:/dev/sda1/@"]),
        ([root("btrfsvol:/dev/sda1/@", "@"), root("btrfsvol:/dev/sda1/old", "@")], ["btrfsvol:/dev/sda1/@"]),
        # The default subvolume of openSUSE is a snapshot, which its fstab does not name.
        ([root("/dev/sda2"), root("btrfsvol:/dev/sda2/@/.snapshots/1/snapshot")], ["/dev/sda2"]),
        ([root("/dev/vg/r", "@"), root("btrfsvol:/dev/vg/r/@", "@")], ["btrfsvol:/dev/vg/r/@"]),
        ([root("btrfsvol:/dev/sda1/@", "@"), root("/dev/sdb1")], ["btrfsvol:/dev/sda1/@", "/dev/sdb1"]),
        ([root("btrfsvol:/dev/mapper/p2v_sda3/@", "@")], ["btrfsvol:/dev/mapper/p2v_sda3/@"]),
    ],
)
def test_of_the_subvolumes_only_the_root_is_kept(found: list[Root], kept: list[str]) -> None:
    assert [one.device for one in _without_snapshots(found)] == kept


def test_a_key_is_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes("pässword with blanks \r\nsecond\n".encode())
    assert read_key(path) == "pässword with blanks "


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"x" * 9000, b"\xff\xfe"])
def test_what_is_no_passphrase_is_refused_and_not_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_key(path)
    assert "xxxx" not in str(error.value)


def test_a_missing_key_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        read_keys([tmp_path / "none"])


def test_keys_do_not_show_themselves_and_are_asked_for_once() -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return KEY

    keys = Keys(("first",), answer)
    assert keys.another(["/dev/sda3"])
    assert keys.passphrases == ("first", KEY)
    assert KEY not in repr(keys)
    assert "/dev/sda3" in asked[0]
    assert not Keys().another(["/dev/sda3"])
