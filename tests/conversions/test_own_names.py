"""Names that the disks of images get from the fstab on them, and what is no evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conversions.devices import device_names
from conversions.fstab import encrypted, mounts
from conversions.own_names import Learned, learn_names, with_own_name
from p2v.model import Disk, Filesystem, GiB, Machine, Partition
from tests.conversions.machines import MACHINE, ROOT_UUID, SWAP_UUID, without_names

BY_PATH = "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"
BY_ID = "/dev/disk/by-id/ata-Samsung_SSD_860_EVO_S3Z8"
UNNAMED = without_names(MACHINE)
NAMED = replace(MACHINE, disks=(replace(MACHINE.disks[0], path="/images/metal12.raw", names=("/dev/sda",)),))


def learn(machine: Machine, *lines: str) -> Learned:
    return learn_names(machine, mounts("\n".join(lines)), (machine.disks[0], 1))


def stable(machine: Machine, name: str) -> str | None:
    return device_names(machine).stable(name)


def test_an_image_gets_the_name_that_its_own_system_uses() -> None:
    names = device_names(with_own_name(UNNAMED, f"{BY_PATH}-part1", UNNAMED.disks[0], 1))
    assert names.stable(f"{BY_PATH}-part2") == f"UUID={SWAP_UUID}"
    assert names.stable("/dev/sda2") == f"UUID={SWAP_UUID}"
    assert with_own_name(UNNAMED, f"{BY_PATH}-part1", UNNAMED.disks[0], 2) == UNNAMED


def test_a_disk_that_a_person_named_gets_the_name_of_its_root_too() -> None:
    learned = learn(NAMED, f"{BY_PATH}-part1 / ext4")
    assert stable(learned.machine, f"{BY_PATH}-part2") == f"UUID={SWAP_UUID}"
    assert stable(learned.machine, "/dev/sda1") == f"UUID={ROOT_UUID}"
    assert stable(learned.machine, "/dev/nvme0n1p1") is None
    assert learned.warnings == ()


def test_what_a_probe_saw_holds() -> None:
    image = NAMED.disks[0]
    for disk in (
        replace(image, serial="QM00001"),
        replace(image, path="/dev/sda"),
        replace(image, wwn="0x5"),
    ):
        seen = replace(MACHINE, disks=(disk,))
        assert learn(seen, f"{BY_PATH}-part1 / ext4", f"{BY_ID}-part2 none swap") == Learned(seen)


def test_a_name_whose_lines_describe_the_disk_is_believed_and_said() -> None:
    learned = learn(NAMED, "/dev/sda1 / ext4", f"{BY_ID}-part2 none swap")
    assert stable(learned.machine, f"{BY_ID}-part2") == f"UUID={SWAP_UUID}"
    assert [BY_ID in warning for warning in learned.warnings] == [True]
    assert learn_names(learned.machine, mounts(f"{BY_ID}-part2 none swap"), None).warnings == ()


def test_a_crypttab_is_evidence_too() -> None:
    luks = Partition(3, 0, GiB, "83", filesystem=Filesystem("crypto_LUKS", GiB, uuid="3333-3333"))
    disk = replace(NAMED.disks[0], partitions=(*NAMED.disks[0].partitions, luks))
    table = encrypted(f"# <name> <device>\nbroken\nsecret {BY_ID}-part3 none luks\n")
    machine = replace(NAMED, disks=(disk,))
    learned = learn_names(machine, table, None)
    assert stable(learned.machine, f"{BY_ID}-part3") == "UUID=3333-3333"
    wrong = encrypted(f"secret {BY_ID}-part2 none luks\n")
    assert learn_names(machine, wrong, None) == Learned(machine)


def test_a_disk_that_is_not_in_the_run_gets_no_name() -> None:
    """A backup disk on USB, whose first partition is ext4 as the root is."""
    usb = "/dev/disk/by-id/usb-WD_Elements-0:0"
    for root in ("/dev/sda1", f"UUID={ROOT_UUID.upper()}", f"/dev/disk/by-uuid/{ROOT_UUID}"):
        learned = learn(NAMED, f"{root} / ext4", f"{usb}-part1 /backup ext4 nofail")
        assert stable(learned.machine, f"{usb}-part1") is None
        assert learned.warnings == ()


def test_lines_that_do_not_describe_the_disk_are_no_evidence() -> None:
    root = f"UUID={ROOT_UUID} / ext4"
    wrong: Sequence[Sequence[str]] = (
        (f"{BY_ID}-part2 /data ext4",),
        (f"{BY_ID}-part7 none swap",),
        (f"{BY_ID}-part2 none swap", f"{BY_ID}-part3 /x xfs"),
        (f"{BY_ID}-part2 /x auto",),
    )
    for lines in wrong:
        assert learn(NAMED, root, *lines) == Learned(NAMED)


def test_of_two_disks_that_fit_neither_is_taken() -> None:
    def disk(name: str, uuid: str) -> Disk:
        partition = Partition(1, 0, GiB, "83", filesystem=Filesystem("xfs", GiB, uuid=uuid))
        return Disk(f"{name}.img", GiB, names=(f"/dev/{name}",), partitions=(partition,))

    line = f"{BY_ID}-part1 /data xfs"
    twins = replace(NAMED, disks=(*NAMED.disks, disk("sdb", "1111-1111"), disk("sdc", "2222-2222")))
    assert learn(twins, line) == Learned(twins)
    named = learn(twins, line, "UUID=1111-1111 /other xfs")
    assert stable(named.machine, f"{BY_ID}-part1") == "UUID=2222-2222"
