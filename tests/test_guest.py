"""libguestfs: what is refused without it, and a small disk opened with it."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversions.os_release import assignments
from p2v.accelerator import Accelerator
from p2v.command import check
from p2v.errors import GuestError, TargetError
from p2v.guest import Access, Guest, GuestDisk, _new_handle, open_guest
from p2v.guest_inspect import find_roots, mount_root, operating_system
from p2v.model import Disk, Filesystem, Firmware, GiB, ImageFormat, Machine, MiB, Partition
from p2v.watchdog import Watchdog
from tests.conftest import need_tools

ROOT_UUID = "0d16e81d-026f-5e37-9720-4ceccfd31b34"
BOOT_UUID = "b538bb1d-a5f7-502c-b6c8-c9e717dd061a"
SIZE = 64 * MiB
LABEL = b"system_u:object_r:etc_t:s0"


@given(st.text(max_size=400))
def test_any_os_release_is_survived(text: str) -> None:
    for name, value in assignments(text):
        assert name.isascii()
        assert value.isprintable() or not value


def test_os_release_is_parsed_not_run() -> None:
    text = 'ID=debian\nPRETTY_NAME="Debian \\"12\\" $(reboot)"\n# ID=no\nVERSION_ID=\'12\'\nbad line\n'
    assert dict(assignments(text)) == {
        "ID": "debian",
        "PRETTY_NAME": 'Debian "12" $(reboot)',
        "VERSION_ID": "12",
    }


def test_a_disk_that_is_not_there_is_said(tmp_path: Path) -> None:
    need_guestfs()
    disks = [GuestDisk(tmp_path / "none.raw", ImageFormat.RAW)]
    with (
        pytest.raises(TargetError, match=r"none\.raw"),
        open_guest(disks, access=Access.READ_ONLY, accelerator=Accelerator.TCG),
    ):
        pass


@pytest.mark.parametrize("name", ["a\0b", "\udcff"])
def test_a_name_that_is_none_is_an_error_of_the_guest(name: str) -> None:
    """As an fstab may give it: `UUID=a\\000b`."""
    need_guestfs()
    guest = Guest(_new_handle(), Watchdog("never-launched"), Access.READ_ONLY)
    for ask in (guest.find_uuid, guest.exists, guest.read, guest.glob, guest.kind):
        with pytest.raises(GuestError, match="no name of anything") as error:
            ask(name)
        assert error.value.message.isprintable()


def need_guestfs() -> None:
    if importlib.util.find_spec("guestfs") is None:
        if os.environ.get("CI"):
            pytest.fail("python3-guestfs is not installed")
        pytest.skip("python3-guestfs is not installed")


def make_disk(folder: Path) -> Path:
    """A disk with / and /boot, each ext4, named in fstab by /dev/sda2."""
    image = folder / "disk.raw"
    with image.open("wb") as file:
        file.truncate(SIZE)
    script = "label: dos\nstart=2048, size=65536, type=83\nstart=67584, size=40960, type=83\n"
    check(["sfdisk", "--quiet", image], timeout=20, reason="partition", input_text=script)
    tree = folder / "tree"
    for name in ("etc", "boot", "usr/lib", "usr/bin"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text(
        'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nPRETTY_NAME="Test 22"\n'
    )
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tree / "etc/fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 /boot ext4 defaults 0 2\n")
    (tree / "etc/machine-id").write_text("e6ad8ce822f559e8899402a5b2d647fb\n")
    (tree / "etc/owned").write_text("before")
    (tree / "etc/owned").chmod(0o640)
    os.chown(tree / "etc/owned", 7, 42)
    (tree / "etc/link").symlink_to("/etc/owned")
    (tree / "etc/escape").symlink_to("/../../../../etc/p2v-escaped")
    os.mkfifo(tree / "etc/fifo")
    (tree / "labelled").mkdir()
    os.setxattr(tree / "labelled", "security.selinux", LABEL + b"\0")
    check(
        ["mke2fs", "-q", "-t", "ext4", "-U", ROOT_UUID, "-d", tree, "-E", f"offset={MiB}", image, "32m"],
        timeout=20,
        reason="format",
    )
    check(
        ["mke2fs", "-q", "-t", "ext4", "-U", BOOT_UUID, "-E", f"offset={33 * MiB}", image, "20m"],
        timeout=20,
        reason="format",
    )
    return image


def machine(*, mountpoint: str = "/") -> Machine:
    partitions = (
        Partition(1, MiB, 32 * MiB, "83", "", Filesystem("ext4", 32 * MiB, uuid=ROOT_UUID), mountpoint),
        Partition(2, 33 * MiB, 20 * MiB, "83", "", Filesystem("ext4", 20 * MiB, uuid=BOOT_UUID)),
    )
    return Machine("test", Firmware.BIOS, 1, GiB, (Disk("/dev/sda", SIZE, partitions=partitions),))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    need_guestfs()
    need_tools("mke2fs", "sfdisk", "qemu-img")
    image = make_disk(tmp_path_factory.mktemp("guest"))
    disks = [GuestDisk(image, ImageFormat.RAW)]
    with open_guest(disks, access=Access.READ_WRITE, accelerator=Accelerator.TCG) as opened:
        mount_root(opened, machine=machine())
        yield opened


@pytest.mark.guestfs
@pytest.mark.timeout(300)
class TestOpenGuest:
    def test_boot_is_mounted_although_fstab_calls_it_sda2(self, guest: Guest) -> None:
        assert guest.exists("/boot/lost+found")
        assert guest.free_space("/boot") < 20 * MiB

    def test_the_system_is_known(self, guest: Guest) -> None:
        system = operating_system(guest)
        assert system is not None
        assert (system.id, system.version, system.family, system.name) == (
            "ubuntu",
            "22.04",
            "debian",
            "Test 22",
        )
        assert system.machine_id == "e6ad8ce822f559e8899402a5b2d647fb"

    def test_a_replaced_file_keeps_owner_and_mode_and_the_link_to_it(self, guest: Guest) -> None:
        guest.write("/etc/link", b"after")
        assert guest.read("/etc/owned") == b"after"
        status = guest._handle.statns("/etc/owned")
        assert (status["st_uid"], status["st_gid"], status["st_mode"] & 0o7777) == (7, 42, 0o640)
        guest.write("/etc/owned", b"through the link")
        assert guest.read("/etc/link") == b"through the link"

    def test_a_new_file_has_the_label_of_its_folder(self, guest: Guest) -> None:
        assert guest._handle.lgetxattr("/labelled", "security.selinux") == LABEL + b"\0"
        guest.write("/labelled/new", b"")
        assert guest._handle.lgetxattr("/labelled/new", "security.selinux").rstrip(b"\0") == LABEL

    def test_a_link_out_of_the_guest_stays_inside(self, guest: Guest) -> None:
        assert not guest.exists("/etc/escape")
        guest.write("/etc/escape", b"caught")
        assert not Path("/etc/p2v-escaped").exists()
        assert guest.read("/etc/escape") == b"caught"

    def test_a_large_file_survives_the_way_in_and_out(self, guest: Guest) -> None:
        content = os.urandom(5 * MiB)
        guest.write("/etc/large", content)
        assert guest.read("/etc/large") == content
        guest.move("/etc/large", "/boot/large")
        assert guest.size("/boot/large") == len(content)
        assert not guest.exists("/etc/large")
        guest.remove("/boot/large")

    def test_what_is_no_file_is_refused_at_once(self, guest: Guest) -> None:
        with pytest.raises(GuestError, match="no file"):
            guest.read("/etc/fifo")
        with pytest.raises(GuestError, match="more than"):
            guest.read("/etc/fstab", limit=3)
        assert guest.sha256("/etc") == guest.sha256("/nowhere") == ""

    def test_paths_are_listed_in_order(self, guest: Guest) -> None:
        assert guest.glob("/etc/[fm]*") == ["/etc/fifo", "/etc/fstab", "/etc/machine-id"]

    def test_a_program_that_is_not_there_is_an_error_of_the_guest(self, guest: Guest) -> None:
        with pytest.raises(GuestError, match="mkinitramfs"):
            guest.run(["/usr/sbin/mkinitramfs"])


@pytest.mark.guestfs
@pytest.mark.timeout(300)
def test_a_root_is_found_without_a_probe_and_a_lost_boot_is_said(tmp_path: Path) -> None:
    need_guestfs()
    need_tools("mke2fs", "sfdisk", "qemu-img")
    image = make_disk(tmp_path)
    before = image.read_bytes()
    disks = [GuestDisk(image, ImageFormat.RAW)]
    with open_guest(disks, access=Access.READ_ONLY, accelerator=Accelerator.TCG) as guest:
        assert [root.title for root in find_roots(guest)] == ["Test 22"]
        elsewhere = machine(mountpoint="")
        lost = replace(elsewhere, disks=(replace(elsewhere.disks[0], path="/dev/sdb"),))
        with pytest.raises(GuestError, match="/boot of the guest"):
            mount_root(guest, machine=lost)
        guest.unmount_all()
        mount_root(guest, machine=elsewhere)
        with pytest.raises(GuestError, match="Read-only"):
            guest.write("/etc/fstab", b"")
    assert image.read_bytes() == before


@pytest.mark.guestfs
@pytest.mark.timeout(60)
def test_an_appliance_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    need_guestfs()
    need_tools("mke2fs", "sfdisk", "qemu-img")
    disks = [GuestDisk(make_disk(tmp_path), ImageFormat.RAW)]
    started = time.monotonic()
    with (
        pytest.raises(TargetError, match="within 3 s"),
        open_guest(disks, access=Access.READ_ONLY, accelerator=Accelerator.TCG, launch_seconds=3.0),
    ):
        pass
    assert time.monotonic() - started < 15
