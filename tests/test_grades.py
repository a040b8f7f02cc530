"""What is tried for the consistency of a copy, and how large snapshots become."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2v.errors import PlanRefused
from p2v.grades import choose_consistency, snapshot_plans
from p2v.model import (
    Consistency,
    ConsistencyWish,
    Disk,
    Firmware,
    GiB,
    LogicalVolume,
    Machine,
    MiB,
    MountedFilesystem,
    VolumeGroup,
)

EXTENT = 4 * MiB
SDA = Disk("/dev/sda", 100 * GiB)
BOOT = MountedFilesystem("/boot", "ext4", ("/dev/sda",), start=MiB, length=GiB)
ESP = MountedFilesystem("/boot/efi", "vfat", ("/dev/sda",), start=GiB, length=128 * MiB)
ROOT = MountedFilesystem("/", "xfs", ("/dev/sda",), length=20 * GiB, volume="vg-root")
HOME = MountedFilesystem("/home", "zonefs", ("/dev/sda",), length=60 * GiB, volume="vg-home")
SRV = MountedFilesystem("/srv", "ext4", ("/dev/sda",), start=50 * GiB, length=GiB)
AWAY = MountedFilesystem("/mnt", "fuseblk", ("/dev/sdb",), length=GiB)
VG = VolumeGroup("vg", "u1", 20 * GiB, EXTENT, 5, usable=True)
LV_ROOT = LogicalVolume("vg", "root", 20 * GiB, plain=True, mapped="vg-root")
LV_HOME = LogicalVolume("vg", "home", 60 * GiB, plain=True, mapped="vg-home")
MACHINE = Machine(
    "db01", Firmware.UEFI, 4, GiB, (SDA,), live=True, mounted=(ROOT, BOOT, ESP, HOME, AWAY),
    groups=(VG,), volumes=(LV_ROOT, LV_HOME),
)  # fmt: skip


def test_snapshots_where_everything_that_is_mounted_is_on_volumes() -> None:
    for wish in (ConsistencyWish.AUTO, ConsistencyWish.SNAPSHOT):
        assert choose_consistency(MACHINE, wish) == (Consistency.SNAPSHOT, ())


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (replace(MACHINE, mounted=(BOOT,)), "no filesystem is on a logical volume"),
        (replace(MACHINE, mounted=(ROOT, SRV)), "/srv is on no logical volume"),
        (replace(MACHINE, mounted=(ROOT, replace(BOOT, kind="fuseblk"))), "/boot is fuseblk"),
        (replace(MACHINE, volumes=(LV_ROOT,)), "nothing is known of the volume of /home"),
        (replace(MACHINE, groups=()), "nothing is known of the volume of /"),
        (replace(MACHINE, volumes=(LV_ROOT, replace(LV_HOME, plain=False))), "/home is not a plain one"),
        (replace(MACHINE, groups=(replace(VG, usable=False),)), "/ is not a plain one"),
        (replace(MACHINE, groups=(replace(VG, free=8 * GiB - EXTENT),)), "vg has 8188 MiB free"),
        (replace(MACHINE, disks=(replace(SDA, unknown_users=("/dev/sda9",)),)), "/dev/sda9 is in use"),
        (replace(MACHINE, unguarded="there is no Python"), "there is no Python"),
    ],
)
def test_what_is_in_the_way_of_snapshots(machine: Machine, reason: str) -> None:
    with pytest.raises(PlanRefused, match=reason):
        choose_consistency(machine, ConsistencyWish.SNAPSHOT)
    grade, _ = choose_consistency(machine, ConsistencyWish.AUTO)
    assert grade is not Consistency.SNAPSHOT


def test_frozen_is_next_and_fuzzy_last() -> None:
    full = replace(MACHINE, groups=(replace(VG, free=0),), mounted=(ROOT, BOOT, ESP))
    assert choose_consistency(full, ConsistencyWish.AUTO) == (Consistency.FROZEN, ())
    strange = replace(full, mounted=(ROOT, HOME))
    assert choose_consistency(strange, ConsistencyWish.AUTO) == (Consistency.FUZZY, ("/home is zonefs",))
    with pytest.raises(PlanRefused, match="cannot be frozen: /home is zonefs"):
        choose_consistency(strange, ConsistencyWish.FREEZE)


def test_all_that_is_free_is_shared_by_size() -> None:
    """Not more than a snapshot can ever fill, whole extents, and at least a tenth."""
    root, home = snapshot_plans(MACHINE)
    assert (root.volume, home.volume) == (LV_ROOT, LV_HOME)
    assert (root.size, home.size) == (5 * GiB, 15 * GiB)
    rich = replace(MACHINE, groups=(replace(VG, free=500 * GiB),))
    root, home = snapshot_plans(rich)
    assert LV_ROOT.size < root.size < 1.05 * LV_ROOT.size
    assert LV_HOME.size < home.size < 1.05 * LV_HOME.size
    poor = replace(MACHINE, groups=(replace(VG, free=8 * GiB + EXTENT),))
    assert all(one.size % EXTENT == 0 and one.size >= one.volume.size / 10 for one in snapshot_plans(poor))
    assert sum(one.size for one in snapshot_plans(poor)) <= 8 * GiB + EXTENT


def test_a_volume_that_is_mounted_twice_needs_one_snapshot() -> None:
    twice = replace(MACHINE, mounted=(ROOT, replace(ROOT, place="/again")))
    assert [one.volume.name for one in snapshot_plans(replace(twice, mounted=(ROOT, ROOT)))] == ["root"]
    assert [one.volume.name for one in snapshot_plans(twice)] == ["root"]
