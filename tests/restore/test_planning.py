"""Which image goes where, and everything that is refused before anybody writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2v.errors import P2VError, PlanRefused, UsageError
from p2v.model import (
    Disk,
    Filesystem,
    Firmware,
    GiB,
    ImageFormat,
    Machine,
    MiB,
    Nic,
    OperatingSystem,
    Partition,
    Plan,
    PlannedDisk,
    PlannedNic,
    TableKind,
    WindowsSystem,
)
from p2v.restore import words
from p2v.restore.job import DiskChoice, GrowChoice, parse_disks, parse_grow, parse_nics
from p2v.restore.model import Metal, NicMove, Resize, RestorePlan, SourceDisk
from p2v.restore.planning import (
    RestoreWishes,
    find_disk,
    make_restore_plan,
    make_rollback_plan,
    require_erase,
    with_targets,
)
from tests.plans import make_plan

UUID = "4c4c4544-0000-1000-8000-000000000001"
OLD_MAC, NEW_MAC = "52:54:00:00:00:01", "aa:bb:cc:dd:ee:01"
ROOT = Partition(1, MiB, 8 * GiB, "83", filesystem=Filesystem("ext4", 8 * GiB, used=GiB))
IMAGE = Disk("/dev/sda", 16 * GiB, table=TableKind.MBR, table_id="abc", partitions=(ROOT,))
GUEST = Machine("web 01!", Firmware.BIOS, 2, GiB, (IMAGE,), nics=(Nic("eth0", OLD_MAC),))
IMAGES = (SourceDisk(Path("/images/one.qcow2"), ImageFormat.QCOW2, IMAGE),)
OLD_CONTENT = Partition(1, MiB, GiB, "07", filesystem=Filesystem("ntfs", GiB, label="OLD\x1b[2JDATA"))
FIRST = Disk(
    "/dev/nvme0n1",
    32 * GiB,
    serial="S3",
    wwn="eui.0025388A",
    model="Fast",
    partitions=(OLD_CONTENT,),
    idle=True,
)
SECOND = Disk("/dev/sda", 32 * GiB, serial="WD-2", wwn="0x5000c500a1", model="Large", idle=True)


def metal(*disks: Disk, firmware: Firmware = Firmware.BIOS, uuid: str = UUID) -> Metal:
    nics = (Nic("eno1", NEW_MAC),)
    return Metal(Machine("rescue", firmware, 8, GiB, disks or (FIRST, SECOND), nics=nics, uuid=uuid))


def wishes(**changed: object) -> RestoreWishes:
    plain = RestoreWishes("one.qcow2", "ssh://rescue", disks=(DiskChoice(0, "S3"),))
    return replace(plain, **changed)  # type: ignore[arg-type]


def refusal(*, there: Metal | None = None, guest: Machine = GUEST, **changed: object) -> P2VError:
    with pytest.raises((PlanRefused, UsageError)) as caught:
        make_restore_plan(guest, IMAGES, there or metal(), wishes(**changed), units=1)
    assert caught.value.hint or isinstance(caught.value, UsageError)
    return caught.value


@pytest.mark.parametrize("name", ["S3", "s3", "eui.0025388A", "0025388a", " S3 "])
def test_a_disk_is_found_by_serial_and_wwn(name: str) -> None:
    plan = make_restore_plan(GUEST, IMAGES, metal(), wishes(disks=(DiskChoice(0, name),)), units=1)
    assert plan.moves[0].target is FIRST
    assert plan.moves[0].resize is Resize.KEEP
    assert plan.name == "web-01-restore"


@pytest.mark.parametrize("name", ["/dev/nvme0n1", "nvme0n1", "S", "S33", "", "0x"])
def test_a_disk_is_found_by_nothing_else(name: str) -> None:
    assert "No disk of the machine has" in refusal(disks=(DiskChoice(0, name),)).message


def test_two_disks_of_one_serial_are_told_apart_by_wwn() -> None:
    """Some USB cases and cheap controllers give every disk the same serial."""
    twin = replace(SECOND, serial="S3")
    assert "2 disks of the machine have" in refusal(there=metal(FIRST, twin)).message
    assert find_disk("5000c500a1", (FIRST, twin)) is twin


def test_disks_without_serial_match_nothing() -> None:
    bare = replace(FIRST, serial="", wwn="")
    assert "neither serial nor WWN" in refusal(there=metal(bare), disks=(DiskChoice(0, ""),)).message


def test_every_image_needs_a_disk() -> None:
    assert "Onto which disk does image 0" in refusal(disks=()).message
    assert "there are 1 images" in refusal(disks=(DiskChoice(0, "S3"), DiskChoice(1, "WD-2"))).message


def test_one_disk_for_two_images_is_refused() -> None:
    with pytest.raises(PlanRefused, match="is named for two images"):
        make_restore_plan(
            GUEST, IMAGES * 2, metal(), wishes(disks=(DiskChoice(0, "S3"), DiskChoice(1, "S3"))), units=1
        )


def test_a_disk_in_use_is_refused_with_who_uses_it() -> None:
    mounted = replace(FIRST, idle=False, partitions=(replace(OLD_CONTENT, mountpoint="/srv"),))
    assert "is in use on the machine: /srv" in refusal(there=metal(mounted)).message
    claimed = replace(FIRST, idle=False, unknown_users=("/dev/dm-3",))
    assert "/dev/dm-3" in refusal(there=metal(claimed)).message


def test_a_small_disk_is_refused_and_a_large_one_is_not() -> None:
    small = replace(FIRST, size=4 * GiB)
    assert refusal(there=metal(small)).exit_code == 3
    assert "too small" in refusal(there=metal(small), convert=False).message
    plan = make_restore_plan(GUEST, IMAGES, metal(small), wishes(shrink=True), units=1)
    assert plan.moves[0].resize is Resize.SHRINK
    plan = make_restore_plan(GUEST, IMAGES, metal(), wishes(grow=(GrowChoice(0, 1),)), units=1)
    assert (plan.moves[0].resize, plan.moves[0].partition) == (Resize.GROW, 1)


@pytest.mark.parametrize("convert", [True, False])
def test_other_sectors_are_refused(convert: bool) -> None:
    assert (
        "sectors of 4096" in refusal(there=metal(replace(FIRST, sector_size=4096)), convert=convert).message
    )


def test_the_firmware_must_find_its_loader() -> None:
    assert "EFI system partition" in refusal(there=metal(firmware=Firmware.UEFI)).message
    uefi = replace(GUEST, firmware=Firmware.UEFI)
    images = (replace(IMAGES[0], disk=replace(IMAGE, table=TableKind.GPT)),)
    with pytest.raises(PlanRefused, match="BIOS"):
        make_restore_plan(uefi, images, metal(), wishes(), units=1)
    with pytest.raises(PlanRefused, match="starts by UEFI"):
        make_restore_plan(uefi, images, metal(), wishes(convert=False), units=1)


def test_a_windows_starts_by_its_own_firmware_only() -> None:
    """Though its disk has room for another loader."""
    system = OperatingSystem(
        "windows", "10.0.20348", "Windows Server 2022", "windows", windows=WindowsSystem(10, 0, 20348)
    )
    guest = replace(GUEST, firmware=Firmware.UEFI, os=system)
    refused = refusal(guest=guest)
    assert "Windows Server 2022 was installed for UEFI" in refused.message
    assert "to UEFI" in refused.hint
    linux = replace(guest, os=replace(system, windows=None))
    assert make_restore_plan(linux, IMAGES, metal(), wishes(), units=1).convert


def test_cards_are_those_of_image_and_machine() -> None:
    plan = make_restore_plan(GUEST, IMAGES, metal(), wishes(nics=(NicMove(OLD_MAC, NEW_MAC),)), units=1)
    assert plan.nics == (NicMove(OLD_MAC, NEW_MAC),)
    by_name = make_restore_plan(GUEST, IMAGES, metal(), wishes(nics=(NicMove("eth0", NEW_MAC),)), units=1)
    assert by_name.nics == plan.nics
    assert "the machine has" in refusal(nics=(NicMove(OLD_MAC, OLD_MAC),)).message
    assert "the image has" in refusal(nics=(NicMove(NEW_MAC, NEW_MAC),)).message


def test_the_only_card_takes_over_the_only_one() -> None:
    assert make_restore_plan(GUEST, IMAGES, metal(), wishes(), units=1).nics == (NicMove(OLD_MAC, NEW_MAC),)
    two = replace(GUEST, nics=(*GUEST.nics, Nic("eth1", "52:54:00:00:00:02")))
    assert make_restore_plan(two, IMAGES, metal(), wishes(), units=1).nics == ()


def test_a_card_whose_address_is_unknown_is_found_by_its_name() -> None:
    guest = replace(GUEST, nics=(Nic("ens3", ""), Nic("ens4", "")))
    plan = make_restore_plan(guest, IMAGES, metal(), wishes(nics=(NicMove("ens4", NEW_MAC),)), units=1)
    assert plan.nics == (NicMove(NEW_MAC, NEW_MAC),)
    assert [nic.name for nic in plan.guest.nics if nic.mac == NEW_MAC] == ["ens4"]


def test_an_erase_names_the_disk_once_more() -> None:
    plan = make_restore_plan(GUEST, IMAGES, metal(), wishes(), units=1)
    for names in ((), ("WD-2",), ("/dev/nvme0n1",), ("",), ("y", "yes")):
        with pytest.raises(PlanRefused, match="nobody has") as caught:
            require_erase(plan, names)
        assert caught.value.hint == "Add: --erase S3"
    require_erase(plan, ("WD-2", "eui.0025388A"))


def test_the_plan_says_what_is_lost() -> None:
    text = words.plan_text(make_restore_plan(GUEST, IMAGES, metal(), wishes(), units=1))
    assert "Fast" in text
    assert "32.0 GiB" in text
    assert "serial S3" in text
    assert "partition 1: 1.0 GiB, ntfs" in text
    assert "\x1b" not in text


def test_disks_are_found_again_after_another_boot() -> None:
    plan = make_restore_plan(GUEST, IMAGES, metal(), wishes(), units=1)
    swapped = (replace(SECOND, path="/dev/nvme0n1"), replace(FIRST, path="/dev/nvme1n1"))
    assert with_targets(plan, swapped).moves[0].target.path == "/dev/nvme1n1"
    with pytest.raises(PlanRefused, match="any more"):
        with_targets(plan, [SECOND])


def captured() -> Plan:
    plan = make_plan()
    disk = replace(IMAGE, serial="S3", wwn="eui.0025388A", size=32 * GiB)
    machine = replace(GUEST, hostname="web01", disks=(disk,), uuid=UUID)
    nics = (PlannedNic("52:54:00:99:00:01", "eth0"),)
    return replace(plan, machine=machine, disks=(PlannedDisk(0, disk, GiB),), nics=nics)


def rollback(there: Metal, *, size: int = 32 * GiB) -> RestorePlan:
    images = (replace(IMAGES[0], disk=replace(IMAGE, size=size)),)
    plan = captured()
    wanted = wishes(disks=(), convert=False)
    return make_rollback_plan(plan, images, there, wanted, guest=GUEST)


def test_a_rollback_finds_its_own_disks_and_costs_nothing() -> None:
    plan = rollback(metal(SECOND, replace(FIRST, path="/dev/sdq")))
    assert plan.moves[0].target.path == "/dev/sdq"
    assert plan.units == 0
    assert plan.nics == (NicMove("52:54:00:99:00:01", OLD_MAC),)


def test_a_rollback_knows_a_disk_whose_wwn_was_shown_for_its_serial() -> None:
    there = metal(replace(FIRST, serial="0025388a"))
    assert rollback(there).moves[0].target.wwn == FIRST.wwn


@pytest.mark.parametrize(
    "there",
    [
        metal(uuid="00000000-0000-1000-8000-00000000beef"),
        metal(SECOND),
        metal(replace(FIRST, serial="S4")),
        metal(replace(FIRST, size=16 * GiB)),
        metal(replace(FIRST, idle=False)),
    ],
    ids=["uuid", "disk gone", "serial", "size", "in use"],
)
def test_a_rollback_touches_no_other_machine(there: Metal) -> None:
    with pytest.raises(PlanRefused):
        rollback(there)


@pytest.mark.parametrize("word", ["S3", "=S3", "0=", "a=S3", "-1=S3", "9999=S3"])
def test_disk_choices_that_are_none(word: str) -> None:
    with pytest.raises(UsageError):
        parse_disks([word])


def test_choices_as_they_are_typed() -> None:
    assert parse_disks(["0=S3", "1=a=b"]) == (DiskChoice(0, "S3"), DiskChoice(1, "a=b"))
    assert parse_grow(["2", "1=3"]) == (GrowChoice(0, 2), GrowChoice(1, 3))
    assert parse_nics(["52-54-00-00-00-01=AA:BB:CC:DD:EE:01"]) == (NicMove(OLD_MAC, NEW_MAC),)
    with pytest.raises(UsageError, match="stands twice"):
        parse_disks(["0=S3", "0=WD-2"])
    for wrong in ("x", "1=", "=", "1=2=3"):
        with pytest.raises(UsageError):
            parse_grow([wrong])
    with pytest.raises(UsageError):
        parse_nics([f"{OLD_MAC}=eth0"])
    assert parse_nics([f"eth0={NEW_MAC}"]) == (NicMove("eth0", NEW_MAC),)
