"""Decisions and refusals, before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2v.errors import PlanRefused
from p2v.model import (
    Consistency,
    ConsistencyWish,
    Disk,
    Filesystem,
    Finding,
    Firmware,
    GiB,
    Machine,
    MountedFilesystem,
    Nic,
    OperatingSystem,
    Partition,
    Plan,
    Severity,
    TableKind,
    WindowsSystem,
)
from p2v.plan import Offer, Wishes, choose_disks, describe, make_plan, name_of
from p2v.targets import libvirt

ROOT = Partition(1, 2**20, 3 * GiB, "83", filesystem=Filesystem("ext4", 3 * GiB, GiB, "u-1"), mountpoint="/")
SDA = Disk(
    "/dev/sda", 4 * GiB, serial="S1", model="ACME", names=("/dev/sda", "/dev/disk/by-id/ata-ACME_S1"),
    table=TableKind.MBR, partitions=(ROOT,), data_size=GiB,
)  # fmt: skip
DATA = Partition(1, 2**20, GiB, "83", filesystem=Filesystem("xfs", GiB), mountpoint="/data")
SDB = Disk("/dev/sdb", 2 * GiB, serial="S2", partitions=(DATA,), data_size=2 * GiB)
DEBIAN = OperatingSystem("debian", "12", "Debian GNU/Linux 12", "debian", machine_id="ab" * 16)
MACHINE = Machine(
    "web01", Firmware.BIOS, 2, 4 * GiB, (SDA, SDB), (Nic("eno1", "00:11:22:33:44:55"),), DEBIAN,
    uuid="6a1f2f10-9d3c-11e6-8f4b-001b213a4f15", live=True,
)  # fmt: skip


def plan_for(machine: Machine = MACHINE, units: int = 1, **wishes: object) -> Plan:
    asked = Wishes("ssh://web01", **wishes)  # type: ignore[arg-type]
    return make_plan(machine, asked, [Offer(libvirt.PLATFORM, libvirt.check)], units=units)


def test_as_the_machine_is() -> None:
    plan = plan_for()
    assert (plan.name, plan.cpus, plan.memory, plan.firmware) == ("web01", 2, 4 * GiB, Firmware.BIOS)
    assert [(disk.index, disk.disk.serial, disk.data_size) for disk in plan.disks] == [
        (0, "S1", GiB),
        (1, "S2", 2 * GiB),
    ]
    assert [(nic.mac, nic.source_name) for nic in plan.nics] == [("00:11:22:33:44:55", "eno1")]
    assert (plan.consistency, plan.warnings) == (Consistency.FROZEN, ())


def test_as_the_user_wishes() -> None:
    plan = plan_for(name="new", cpus=8, memory=GiB, disks=("S1",))
    assert (plan.name, plan.cpus, plan.memory) == ("new", 8, GiB)
    assert [disk.disk for disk in plan.disks] == [SDA]
    assert any("/dev/sdb is not captured, mounted at /data" in warning for warning in plan.warnings)


@pytest.mark.parametrize("name", ["/dev/sda", "sda", "S1", "/dev/disk/by-id/ata-ACME_S1"])
def test_a_disk_by_any_of_its_names(name: str) -> None:
    assert choose_disks(MACHINE, (name,)) == (SDA,)


def test_a_disk_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(PlanRefused, match="no disk sdz") as refused:
        plan_for(disks=("sda", "sdz"))
    assert "/dev/sdb (serial S2)" in refused.value.hint


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (replace(MACHINE, os=None), "No operating system"),
        (replace(MACHINE, os=replace(DEBIAN, family="", name="Plan 9")), "Plan 9 is not a system"),
        (replace(MACHINE, os=replace(DEBIAN, architecture="aarch64")), "aarch64"),
        (replace(MACHINE, disks=()), "no disk to capture"),
        (replace(MACHINE, disks=(SDB,)), "root filesystem of web01 is on none"),
        (replace(MACHINE, disks=(replace(SDA, size=2**62),)), "/dev/sda"),
        (
            replace(MACHINE, findings=(Finding(Severity.BLOCKER, "encrypted with BitLocker", "manage-bde"),)),
            "BitLocker",
        ),
    ],
    ids=[
        "no system",
        "unknown system",
        "other processor",
        "no disk",
        "root left out",
        "too large",
        "finding",
    ],
)
def test_what_cannot_work_is_refused(machine: Machine, reason: str) -> None:
    with pytest.raises(PlanRefused, match=reason):
        plan_for(machine)


def test_every_reason_is_given_at_once() -> None:
    findings = (Finding(Severity.BLOCKER, "first"), Finding(Severity.BLOCKER, "second"))
    with pytest.raises(PlanRefused, match=r"first\n- second"):
        plan_for(replace(MACHINE, findings=findings))


def test_the_root_of_a_windows_is_its_own_drive() -> None:
    windows = OperatingSystem("windows", "10.0.19041", "Windows 10", "windows", windows=WindowsSystem(
        10, 0, 19041, drive="C:"
    ))  # fmt: skip
    volume = MountedFilesystem("C:\\", "NTFS", ("/dev/sda",), 2**20, 3 * GiB, "\\\\?\\Volume{1}\\")
    disk = replace(SDA, partitions=(replace(ROOT, mountpoint="C:\\"),))
    plan = plan_for(replace(MACHINE, os=windows, disks=(disk,), mounted=(volume,)))
    assert plan.consistency is Consistency.SNAPSHOT
    assert "of every NTFS and ReFS volume (VSS)" in describe(plan, size="1 GiB")
    other = replace(disk, partitions=(replace(ROOT, mountpoint="D:\\"),))
    with pytest.raises(PlanRefused, match="root filesystem"):
        plan_for(replace(MACHINE, os=windows, disks=(other,), mounted=(volume,)))


def test_a_root_behind_lvm_is_believed() -> None:
    volume = replace(ROOT, mountpoint="", filesystem=Filesystem("LVM2_member", 3 * GiB))
    assert plan_for(replace(MACHINE, disks=(replace(SDA, partitions=(volume,)),))).disks


def test_an_image_gets_a_card_that_stays_the_same() -> None:
    image = replace(MACHINE, nics=(), live=False, uuid="")
    plan = plan_for(image)
    assert plan.consistency is Consistency.OFFLINE
    assert plan.nics[0].mac.startswith("52:54:00:")
    assert plan.nics == plan_for(image).nics
    assert any("new MAC" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("web01.example.org", "web01.example.org"),
        ("büro pc", "b-ro-pc"),
        ("../../etc", "etc"),
        ("///", "machine"),
        ("-x", "x"),
    ],
)
def test_names_are_safe(hostname: str, name: str) -> None:
    assert name_of(replace(MACHINE, hostname=hostname)) == name


def test_the_printed_plan_says_what_matters() -> None:
    text = describe(plan_for(prove=True, consistency=ConsistencyWish.FUZZY), size="3.0 GiB")
    for words in (
        "web01",
        "KVM / libvirt",
        "virtio-blk",
        "3.0 GiB",
        "serial S2",
        "00:11:22:33:44:55",
        "1 unit",
        "warning",
    ):
        assert words in text


EXT4 = MountedFilesystem("/", "ext4", ("/dev/sda",), start=2**20, length=3 * GiB)
ESP = MountedFilesystem("/boot/efi", "vfat", ("/dev/sda",), start=2**30, length=2**29)
FUSE = MountedFilesystem("/backup", "fuseblk", ("/dev/sdb",), start=2**20, length=GiB)
ZFS = replace(SDA, unknown_users=("/dev/sda3",))


@pytest.mark.parametrize(
    ("machine", "wish", "grade"),
    [
        (MACHINE, "auto", Consistency.FROZEN),
        (MACHINE, "freeze", Consistency.FROZEN),
        (MACHINE, "fuzzy", Consistency.FUZZY),
        (replace(MACHINE, mounted=(EXT4, ESP)), "auto", Consistency.FROZEN),
        (replace(MACHINE, mounted=(EXT4, FUSE)), "auto", Consistency.FUZZY),
        (replace(MACHINE, mounted=(replace(ESP, length=0),)), "auto", Consistency.FUZZY),
        (replace(MACHINE, disks=(ZFS,)), "auto", Consistency.FUZZY),
        (replace(MACHINE, disks=(replace(SDA, idle=True),)), "freeze", Consistency.OFFLINE),
        (replace(MACHINE, disks=(replace(SDA, idle=True), SDB)), "auto", Consistency.FROZEN),
        (replace(MACHINE, live=False), "snapshot", Consistency.OFFLINE),
    ],
    ids=[
        "running",
        "frozen as asked",
        "as it is",
        "an ESP is read twice",
        "one that nobody can freeze",
        "an ESP on an array",
        "an unknown user",
        "nobody uses the disk",
        "somebody uses one of the disks",
        "an image",
    ],
)
def test_the_best_grade(machine: Machine, wish: str, grade: Consistency) -> None:
    plan = plan_for(machine, consistency=ConsistencyWish(wish))
    assert plan.consistency is grade
    fuzzy = [warning for warning in plan.warnings if "consistency: fuzzy" in warning]
    assert bool(fuzzy) == (grade is Consistency.FUZZY)


def test_a_freeze_that_cannot_be_is_refused_with_what_is_in_its_way() -> None:
    with pytest.raises(PlanRefused, match="/backup is fuseblk") as refused:
        plan_for(replace(MACHINE, mounted=(EXT4, FUSE)), consistency=ConsistencyWish.FREEZE)
    assert "--consistency auto" in refused.value.hint
    # What is on other disks does not matter.
    assert (
        plan_for(
            replace(MACHINE, mounted=(EXT4, FUSE)), consistency=ConsistencyWish.FREEZE, disks=("S1",)
        ).consistency
        is Consistency.FROZEN
    )


def test_a_rescue_system_is_offline_and_not_what_is_converted() -> None:
    idle = tuple(replace(disk, idle=True) for disk in (SDA, SDB))
    rescue = replace(MACHINE, disks=idle, os=replace(DEBIAN, family="", name="SystemRescue 11"))
    plan = plan_for(rescue)
    assert (plan.consistency, plan.machine.os) == (Consistency.OFFLINE, None)
    assert any("SystemRescue 11" in warning for warning in plan.warnings)
    # An idle data disk of a system that runs from another disk of the same machine is no such thing.
    home = replace(rescue, disks=(SDA, idle[1]), mounted=(EXT4,))
    with pytest.raises(PlanRefused, match="SystemRescue 11 is not a system"):
        plan_for(home, disks=("S2",))


def test_identity_is_the_hardware_else_the_disks() -> None:
    assert MACHINE.identity == "uuid:6a1f2f10-9d3c-11e6-8f4b-001b213a4f15"
    image = replace(MACHINE, uuid="")
    assert image.identity == replace(image, disks=(SDB, SDA)).identity
    assert image.identity != replace(image, disks=(SDA,)).identity
