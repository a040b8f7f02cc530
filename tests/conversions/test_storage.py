"""Names of disks below /etc: rewritten where it is known what they mean, named with their line where not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversions.changes import Changes
from conversions.devices import device_names, is_unstable, unknown_paths, with_stable_paths
from conversions.initramfs import End, Initramfs, Packed
from conversions.kernels import Kernel
from conversions.lvm import without_filters
from conversions.mdadm import without_members
from conversions.ramdisk_settings import stable_settings
from conversions.storage import rewrite_storage, warn_about_hardware
from p2v.model import Disk, Filesystem, Firmware, GiB, Machine, MiB, Partition
from tests.conversions.machines import ROOT_UUID, SWAP_UUID
from tests.conversions.trees import NAMES, guest_with, text

HIDING = (
    'filter = [ "a|/dev/sda2$|", "r|.*|" ]',
    'global_filter = ["a|^/dev/disk/by-path/pci-0000:03:00.0|","r/.*/"]',
    'filter=["a|sd.*|", "r|.*|"]',
    'filter = [\n\t"a|/dev/nvme0n1p3|",\n\t"r|^/dev/.*|"\n]',
    'filter = [ "a|/dev/mapper/mpath.*|", "r|.*|" ]',
    'filter = [ "a|/dev/cciss/c0d0p2|", "r|.*|" ]',
)
HARMLESS = (
    'filter = [ "a|.*|" ]',
    'filter = [ "r|/dev/cdrom|" ]',
    'filter = [ "a|/dev/sda|", "r|/dev/cdrom|" ]',
    'filter = [ "a|/dev/md.*|", "r|.*|" ]',
    'filter = [ "r|/dev/sdb|", "a|.*|" ]',
    'filter = [ "a|/dev/disk/by-id/lvm-pv-uuid-x|", "r|.*|" ]',
    '# filter = [ "a|/dev/sda2$|", "r|.*|" ]',
)


@pytest.mark.parametrize("line", HIDING)
def test_a_filter_that_hides_the_new_disks_is_put_out_of_force(line: str) -> None:
    before = f'devices {{\n\tdir = "/dev"\n\t{line}\n\tscan_lvs = 0\n}}\n'
    after = without_filters(before)
    active = [row for row in after.splitlines() if row.strip() and not row.lstrip().startswith("#")]
    assert active == ["devices {", '\tdir = "/dev"', "\tscan_lvs = 0", "}"]
    assert without_filters(after) == after


@pytest.mark.parametrize("line", HARMLESS)
def test_a_filter_that_hides_nothing_new_stays(line: str) -> None:
    assert without_filters(f"devices {{\n\t{line}\n}}\n") == f"devices {{\n\t{line}\n}}\n"


@given(st.text(alphabet='filter=[]"a|r/sd,.*\\ \n#', max_size=120))
def test_any_configuration_of_lvm_is_survived(noise: str) -> None:
    without_filters(noise)


def test_the_devices_file_goes_and_is_kept_beside(tmp_path: Path) -> None:
    content = "IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d4 DEVNAME=/dev/sda2 PVID=x PART=2\n"
    guest = guest_with(tmp_path, {"/etc/lvm/devices/system.devices": content})
    changes = Changes(guest)
    rewrite_storage(changes, NAMES)
    assert not guest.exists("/etc/lvm/devices/system.devices")
    assert text(guest, "/etc/lvm/devices/system.devices.before-p2v") == content
    again = Changes(guest)
    rewrite_storage(again, NAMES)
    assert again.changes == ()


def test_arrays_are_known_by_what_is_on_their_members(tmp_path: Path) -> None:
    before = (
        "# mdadm.conf\nDEVICE /dev/sda1 /dev/sdb1\nHOMEHOST <system>\n"
        "ARRAY /dev/md0 level=raid1 num-devices=2 UUID=0:1:2:3\n   devices=/dev/sda1,/dev/sdb1\n"
        "ARRAY /dev/md1 devices=/dev/sda2,/dev/sdz9\n"
    )
    guest = guest_with(tmp_path, {"/etc/mdadm/mdadm.conf": before})
    changes = Changes(guest)
    rewrite_storage(changes, NAMES)
    assert text(guest, "/etc/mdadm/mdadm.conf") == (
        "# mdadm.conf\nDEVICE partitions\nHOMEHOST <system>\n"
        "ARRAY /dev/md0 level=raid1 num-devices=2 UUID=0:1:2:3\n"
        f"ARRAY /dev/md1 devices=/dev/disk/by-uuid/{SWAP_UUID},/dev/sdz9\n"
    )
    assert ["/dev/sdz9" in warning for warning in changes.warnings] == [True]


@pytest.mark.parametrize(
    "line", ["DEVICE partitions containers", "DEVICE /dev/disk/by-uuid/x", "ARRAY /dev/md/0 UUID=x"]
)
def test_what_holds_anywhere_stays(line: str) -> None:
    assert without_members(f"{line}\n", NAMES) == f"{line}\n"


def test_what_nobody_can_rewrite_is_named_with_its_line(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/etc/smartd.conf": "# /dev/sda\nDEFAULT -a\n/dev/sda -m root\n",
        "/etc/udev/rules.d/60-disk.rules": (
            'KERNEL=="sda", SYMLINK+="data"\nENV{ID_PATH}=="pci-0000:00:1f.2", X="y"\n'
        ),
        "/etc/udev/rules.d/70-net.rules": 'SUBSYSTEM=="net", ENV{ID_PATH}=="pci-1"\n',
        "/etc/multipath/wwids": "# Multipath wwids\n/3600508b1001c7e1f/\n",
        "/etc/fstab": "UUID=x / ext4 defaults\n# two\n/dev/sdz1 /data xfs defaults\n",
        "/etc/crypttab": "secret /dev/nvme7n1p2 none\n",
    }
    changes = Changes(guest_with(tmp_path, files))
    rewrite_storage(changes, NAMES)
    warn_about_hardware(changes)
    said = "\n".join(changes.warnings)
    for place in (
        *("/etc/smartd.conf:3 names /dev/sda", "/etc/udev/rules.d/60-disk.rules:1", "60-disk.rules:2"),
        *("/etc/multipath/wwids", "/etc/fstab:3 names /dev/sdz1", "/etc/crypttab:1 names /dev/nvme7n1p2"),
    ):
        assert place in said
    assert "70-net" not in said
    assert changes.changes == ()


def test_a_huge_file_that_only_would_be_looked_at_is_said(tmp_path: Path) -> None:
    changes = Changes(guest_with(tmp_path, {"/etc/rc.local": b"#" * (5 * MiB)}))
    warn_about_hardware(changes)
    assert ["/etc/rc.local was not looked at" in warning for warning in changes.warnings] == [True]


def test_a_unit_that_mounts_by_an_old_name_gets_a_path_that_holds(tmp_path: Path) -> None:
    guest = guest_with(tmp_path, {"/etc/systemd/system/data.mount": "[Mount]\nWhat=/dev/sda1\nWhere=/data\n"})
    rewrite_storage(Changes(guest), NAMES)
    assert f"What=/dev/disk/by-uuid/{ROOT_UUID}\n" in text(guest, "/etc/systemd/system/data.mount")


def test_further_devices_of_btrfs_are_renamed_in_the_options(tmp_path: Path) -> None:
    line = "UUID=x / btrfs device=/dev/sda1,device=/dev/sda2,subvol=@ 0 0\n"
    guest = guest_with(tmp_path, {"/etc/fstab": line})
    rewrite_storage(Changes(guest), NAMES)
    assert "/dev/sda" not in text(guest, "/etc/fstab")
    assert "subvol=@ 0 0" in text(guest, "/etc/fstab")


@pytest.mark.parametrize(
    "name",
    [
        *("/dev/cciss/c0d0p1", "/dev/mmcblk0p2", "/dev/nvme0n1p3", "/dev/xvda1", "/dev/hda", "/dev/dm-3"),
        *("/dev/mapper/mpatha-part1", "/dev/mapper/mpathb2", "/dev/mapper/3600508b1001c7e1f0d5e2b8b9d1c7aaa"),
        *("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part2", "/dev/disk/by-id/scsi-36001405-part1"),
        "/dev/disk/by-id/dm-uuid-part1-mpath-3600508",
    ],
)
def test_names_that_another_machine_changes(name: str) -> None:
    assert is_unstable(name)


@pytest.mark.parametrize(
    "name",
    [
        *("/dev/mapper/vg-root", "/dev/vg/root", "/dev/md0", "/dev/disk/by-uuid/x", "/dev/disk/by-label/x"),
        *("/dev/disk/by-id/lvm-pv-uuid-x", "/dev/disk/by-id/md-uuid-x", "/dev/disk/by-id/dm-name-vg-root"),
    ],
)
def test_names_that_hold_anywhere(name: str) -> None:
    assert not is_unstable(name)


def test_the_partitions_of_a_smart_array_and_of_multipath_are_known() -> None:
    disk = Disk(
        "/dev/cciss/c0d0",
        GiB,
        names=("/dev/mapper/mpatha",),
        partitions=(Partition(2, MiB, GiB, "83", "", Filesystem("ext4", GiB, uuid=ROOT_UUID)),),
    )
    names = device_names(Machine("old", Firmware.BIOS, 1, GiB, (disk,)))
    for name in (
        "/dev/cciss/c0d0p2",
        "/dev/mapper/mpatha2",
        "/dev/mapper/mpathap2",
        "/dev/mapper/mpatha-part2",
    ):
        assert names.stable(name) == f"UUID={ROOT_UUID}"


def test_paths_in_any_text_are_renamed_whole() -> None:
    line = "a=/dev/sda1,/dev/sda12 b=/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part2: /x/dev/sda1"
    assert with_stable_paths(line, NAMES) == (
        f"a=/dev/disk/by-uuid/{ROOT_UUID},/dev/sda12 b=/dev/disk/by-uuid/{SWAP_UUID}: /x/dev/sda1"
    )
    assert unknown_paths(line, NAMES) == ("/dev/sda12",)


def inside(files: dict[str, str]) -> dict[str, str]:
    """What becomes of the settings of an initramfs."""
    packed = tuple(Packed(path, body.encode()) for path, body in files.items())
    contents = Initramfs((), packed, frozenset(), End())
    kernel = Kernel("6.1", "/boot/vmlinuz-6.1", "/boot/i", frozenset(), (), contents)
    return {path: file.text for path, file in stable_settings(kernel, NAMES).items()}


def test_an_initramfs_waits_for_no_disk_of_the_source() -> None:
    files = {
        "conf/conf.d/resume": "RESUME=/dev/sda2\n",
        "etc/crypttab": "root /dev/sda1 none\n",
        "etc/cmdline.d/x.conf": "root=/dev/sda1 rd.lvm.lv=a/b",
        "etc/mdadm/mdadm.conf": "DEVICE /dev/sda1\n",
        "etc/lvm/lvm.conf": 'filter = [ "a|/dev/sda2$|", "r|.*|" ]\n',
        "etc/fstab": "UUID=x / ext4 defaults\n",
        "conf/modules": "/dev/sda2\n",
    }
    assert inside(files) == {
        "conf/conf.d/resume": f"RESUME=UUID={SWAP_UUID}\n",
        "etc/crypttab": f"root UUID={ROOT_UUID} none\n",
        "etc/cmdline.d/x.conf": f"root=UUID={ROOT_UUID} rd.lvm.lv=a/b",
        "etc/mdadm/mdadm.conf": "DEVICE partitions\n",
        "etc/lvm/lvm.conf": '# filter = [ "a|/dev/sda2$|", "r|.*|" ]  # by p2v\n',
    }
    assert inside(files | inside(files)) == {}


def test_lvm_of_an_initramfs_looks_at_no_devices_file() -> None:
    content = {"etc/lvm/devices/system.devices": "IDTYPE=sys_wwid IDNAME=naa.5 DEVNAME=/dev/sda2 PVID=x\n"}
    assert inside(content) == {"etc/lvm/lvmlocal.conf": "devices { use_devicesfile = 0 }\n"}
    assert inside(content | inside(content)) == {}
