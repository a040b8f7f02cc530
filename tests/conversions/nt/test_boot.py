"""Boot configuration, loaders and boot sectors of a guest; each step done twice changes nothing the second
time.
"""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from conversions.nt import boot_configuration, boot_sector, loaders
from conversions.nt.boot_sector import corrected, heads_of, parse
from conversions.nt.disk_ids import GptPlace, MbrPlace, Move
from conversions.nt.registry import Value, binary, sz
from conversions.nt.work import WindowsWork
from p2v.errors import GuestError
from p2v.model import Disk, Filesystem, Firmware, GiB, KiB, Machine, MiB, Partition, TableKind
from tests.conversions.nt.memory_hives import MemoryHive, MemoryHives, machine, work_on
from tests.conversions.nt.test_disk_ids import GPT, WINDOWS_8_MBR, WINDOWS_11_GPT, mutated
from tests.conversions.trees import portable_executable
from tests.tree_guest import TreeGuest

LOADER = "{9dd54393-76ea-11ed-8c7c-de4e190a0ee1}"
BCD = "/@esp/EFI/Microsoft/Boot/BCD"
MANAGER = portable_executable(text="Microsoft Corporation".encode("utf-16-le"))


def store(*, path: str = "\\Windows\\system32\\winload.efi", device: bytes = WINDOWS_11_GPT) -> MemoryHive:
    objects = "Objects\\{}\\Elements\\{}"
    hive = MemoryHive()
    hive.put(objects.format(boot_configuration.BOOT_MANAGER, "23000003"), sz("Element", LOADER))
    hive.put(objects.format(LOADER, "12000002"), sz("Element", path))
    hive.put(objects.format(LOADER, "21000001"), binary("Element", device))
    hive.put(objects.format(LOADER, "16000046"), binary("Element", b"\1"))
    return hive


def gpt_disk(partition: UUID = GPT.partition) -> Disk:
    parts = (Partition(1, MiB, GiB, "", str(partition)),)
    return Disk("/dev/sda", 10 * GiB, table=TableKind.GPT, table_id=str(GPT.disk), partitions=parts)


def bcd_work(
    folder: Path, hive: MemoryHive, of: Machine, *, firmware: Firmware = Firmware.UEFI, version: str = "10"
) -> WindowsWork:
    guest = TreeGuest(folder / "guest")
    path = BCD if firmware is Firmware.UEFI else "/@boot/BOOT/bcd"
    guest.mkdir(path.rsplit("/", 1)[0])
    guest.write(path, b"regf")
    hives = MemoryHives(**{path: hive})
    return work_on(folder, guest=guest, hives=hives, of=of, firmware=firmware, version=version)


def test_a_boot_configuration_that_holds_is_left_alone(tmp_path: Path) -> None:
    hive = store()
    work = bcd_work(tmp_path, hive, replace(machine(), disks=(gpt_disk(),)))
    boot_configuration.step(work)
    assert (hive.writes, work.changes.warnings, work.record.changes) == (0, (), ())


def test_a_configuration_of_another_disk_or_firmware_is_told(tmp_path: Path) -> None:
    other = replace(machine(), disks=(gpt_disk(UUID(int=5)),))
    hive = store(path="\\Windows\\system32\\winload.exe")
    work = bcd_work(tmp_path, hive, other)
    boot_configuration.step(work)
    assert [warning.split(" starts ")[1] for warning in work.changes.warnings] == [
        "Windows from a partition that is on none of the captured disks",
        "\\Windows\\system32\\winload.exe, which is not for a machine with UEFI",
    ]
    assert hive.writes == 0


def test_a_display_that_parallels_turned_off_comes_back(tmp_path: Path) -> None:
    hive = store()
    of = replace(machine(vendor="Parallels International GmbH."), disks=(gpt_disk(),))
    work = bcd_work(tmp_path, hive, of)
    boot_configuration.step(work)
    assert not hive.has(f"Objects\\{LOADER}\\Elements\\16000046")
    assert {change.hive for change in work.record.changes} == {BCD}
    writes = hive.writes
    boot_configuration.step(work)
    assert hive.writes == writes


def test_the_store_of_a_bios_machine_is_found_whatever_its_case(tmp_path: Path) -> None:
    hive = store(path="\\Windows\\system32\\winload.exe", device=WINDOWS_8_MBR)
    parts = (Partition(2, 368_050_176, GiB, "07"),)
    disk = Disk("/dev/sda", 10 * GiB, table=TableKind.MBR, table_id="b3eba8f1", partitions=parts)
    work = bcd_work(tmp_path, hive, replace(machine(), disks=(disk,)), firmware=Firmware.BIOS)
    assert boot_configuration.stores(work) == ("/@boot/BOOT/bcd",)
    boot_configuration.step(work)
    assert work.changes.warnings == ()
    old, new = MbrPlace(0xB3EBA8F1, 368_050_176), MbrPlace(7, MiB)
    boot_configuration.repair(work, (Move(old, new),))
    (change,) = work.record.changes
    assert (change.hive, change.key.rsplit("\\", 1)[1]) == ("/@boot/BOOT/bcd", "21000001")
    after = boot_configuration.default_entry(hive)
    assert after is not None
    assert after.devices == (new,)
    boot_configuration.repair(work, (Move(old, new),))
    assert work.record.changes == (change,)


def test_the_step_follows_partitions_that_will_begin_elsewhere(tmp_path: Path) -> None:
    """As on a disk of another size: what is in the table when it boots counts, and nothing is warned of."""
    hive = store(path="\\Windows\\system32\\winload.exe", device=WINDOWS_8_MBR)
    parts = (Partition(2, 368_050_176, GiB, "07"),)
    disk = Disk("/dev/sda", 10 * GiB, table=TableKind.MBR, table_id="b3eba8f1", partitions=parts)
    work = bcd_work(tmp_path, hive, replace(machine(), disks=(disk,)), firmware=Firmware.BIOS)
    new = MbrPlace(0xB3EBA8F1, GiB)
    move = Move(MbrPlace(0xB3EBA8F1, 368_050_176), new)
    work = replace(work, request=replace(work.request, moves=(move,)))
    boot_configuration.step(work)
    entry = boot_configuration.default_entry(hive)
    assert entry is not None
    assert (entry.devices, work.changes.warnings) == ((new,), ())
    writes = hive.writes
    boot_configuration.step(work)
    assert hive.writes == writes


def test_missing_and_damaged_stores_only_warn(tmp_path: Path) -> None:
    none = work_on(tmp_path)
    boot_configuration.step(none)
    assert "none of the captured disks" in none.changes.warnings[0]
    damaged = bcd_work(tmp_path, MemoryHive(), machine())
    damaged = replace(damaged, opener=MemoryHives())
    boot_configuration.step(damaged)
    assert "was left as it is" in damaged.changes.warnings[0]
    empty = bcd_work(tmp_path, MemoryHive(), machine())
    boot_configuration.step(empty)
    assert "does not say which Windows" in empty.changes.warnings[0]


def test_xp_has_no_boot_configuration(tmp_path: Path) -> None:
    work = work_on(tmp_path, version="xp")
    boot_configuration.step(work)
    assert work.changes.warnings == ()


def test_mutated_stores_are_read_and_repaired_without_an_error(tmp_path: Path) -> None:
    chance = random.Random(6)
    work = bcd_work(tmp_path, MemoryHive(), replace(machine(), disks=(gpt_disk(),)))
    for _ in range(1000):
        hive = store()
        for key in [key for key in hive.content() if "elements" in key]:
            value = hive.content()[key]
            kind = chance.choice((value.kind, value.kind, chance.randrange(1 << 32)))
            hive.put(key.rsplit("\\", 1)[0], Value(value.name, kind, mutated(value.data, chance)))
        trial = replace(work, opener=MemoryHives(**{BCD: hive}))
        boot_configuration.step(trial)
        boot_configuration.repair(trial, (Move(GPT, GptPlace(UUID(int=1), UUID(int=2))),))


def loader_work(folder: Path, *, before: bytes | None, manager: bytes = MANAGER) -> WindowsWork:
    guest = TreeGuest(folder / "guest")
    guest.mkdir("/@esp/efi/microsoft/BOOT")
    guest.mkdir("/@esp/efi/Boot")
    guest.write("/@esp/efi/microsoft/BOOT/bootmgfw.EFI", manager)
    if before is not None:
        guest.write("/@esp/efi/Boot/bootx64.efi", before)
    return work_on(folder, guest=guest)


def test_a_missing_loader_is_put_where_firmware_looks(tmp_path: Path) -> None:
    work = loader_work(tmp_path, before=None)
    loaders.step(work)
    assert work.guest.read("/@esp/efi/Boot/BOOTX64.EFI") == MANAGER
    assert [change.path for change in work.changes.changes] == ["/@esp/efi/Boot/BOOTX64.EFI"]


def test_another_loader_is_kept_beside_it_and_told(tmp_path: Path) -> None:
    work = loader_work(tmp_path, before=b"MZ shim")
    loaders.step(work)
    assert work.guest.read("/@esp/efi/Boot/bootx64.efi") == MANAGER
    assert work.guest.read("/@esp/efi/Boot/bootx64.efi.before-p2v") == b"MZ shim"
    assert len(work.changes.changes) == 2
    assert "was not the loader of Windows" in work.changes.warnings[0]
    again = work_on(tmp_path, guest=TreeGuest(tmp_path / "guest"))
    loaders.step(again)
    assert (again.changes.changes, again.changes.warnings) == ((), ())


def test_an_older_loader_of_windows_is_replaced_without_a_word(tmp_path: Path) -> None:
    work = loader_work(tmp_path, before=MANAGER + b"older")
    loaders.step(work)
    assert work.guest.read("/@esp/efi/Boot/bootx64.efi") == MANAGER
    assert work.changes.warnings == ()


def test_a_full_partition_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    work = loader_work(tmp_path, before=b"MZ shim")
    assert isinstance(work.guest, TreeGuest)
    work.guest.free = 60 * KiB
    with pytest.raises(GuestError, match="KiB free"):
        loaders.step(work)
    assert work.changes.changes == ()


def test_no_loader_or_one_that_is_no_program_warns(tmp_path: Path) -> None:
    none = work_on(tmp_path / "none", guest=TreeGuest(tmp_path))
    loaders.step(none)
    assert "No boot manager" in none.changes.warnings[0]
    text = loader_work(tmp_path, before=None, manager=b"text")
    loaders.step(text)
    assert "copied nowhere" in text.changes.warnings[0]


SERIAL = 0x1122334455667788


def ntfs(*, hidden: int = 0, heads: int = 255, sectors: int = 2047) -> bytes:
    """As mkntfs writes it: `struct BIOS_PARAMETER_BLOCK` of ntfs-3g's layout.h."""
    head = struct.pack(
        "<3s8sHB7xBHHHIII", b"\xeb\x52\x90", b"NTFS    ", 512, 8, 0xF8, 0, 63, heads, hidden, 0, 0
    )
    sector = head.ljust(0x28, b"\0") + struct.pack("<QQQIIQ", sectors, 4, 8, 0xF6, 1, SERIAL)
    return sector.ljust(510, b"\0") + b"\x55\xaa"


class Volumes(TreeGuest):
    """A folder, and below it the bytes of its volume."""

    def __init__(self, root: Path, content: bytes) -> None:
        super().__init__(root)
        self.volume = bytearray(content)

    def read_volume(self, place: str, offset: int, count: int) -> bytes:
        assert place == "/"
        return bytes(self.volume[offset : offset + count])

    def write_volume(self, place: str, offset: int, content: bytes) -> None:
        assert place == "/"
        self.volume[offset : offset + len(content)] = content


def volume_work(folder: Path, volume: bytes, *, version: str, size: int = 3 * GiB) -> WindowsWork:
    filesystem = Filesystem("ntfs", MiB, uuid=f"{SERIAL:016X}")
    parts = (Partition(1, 63 * 512, MiB, "07", filesystem=filesystem),)
    disk = Disk("/dev/sda", size, table=TableKind.MBR, table_id="00000001", partitions=parts)
    of = replace(machine(), disks=(disk,))
    guest = Volumes(folder / "guest", volume)
    return work_on(folder, guest=guest, of=of, firmware=Firmware.BIOS, version=version)


def whole(sector: bytes, backup: bytes) -> bytes:
    return sector.ljust(2047 * 512, b"\x11") + backup


def test_xp_gets_geometry_and_start_in_both_copies(tmp_path: Path) -> None:
    before = whole(ntfs(hidden=0), ntfs(hidden=2048))
    work = volume_work(tmp_path, before, version="xp")
    boot_sector.step(work)
    assert isinstance(work.guest, Volumes)
    after = bytes(work.guest.volume)
    for offset in (0, 2047 * 512):
        found = parse(after[offset : offset + 512])
        assert (found.hidden, found.heads) == (63, 0x80)
    changed = {at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other}
    assert {at % 512 for at in changed} <= {0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F}
    assert [change.path for change in work.changes.changes] == [
        "/ (boot sector)",
        "/ (backup of the boot sector)",
    ]
    boot_sector.step(work)
    assert bytes(work.guest.volume) == after


def test_a_boot_sector_names_the_start_that_will_be(tmp_path: Path) -> None:
    work = volume_work(tmp_path, whole(ntfs(hidden=63), ntfs(hidden=63)), version="10")
    move = Move(MbrPlace(1, 63 * 512), MbrPlace(1, GiB))
    boot_sector.step(replace(work, request=replace(work.request, moves=(move,))))
    assert isinstance(work.guest, Volumes)
    for offset in (0, 2047 * 512):
        assert parse(bytes(work.guest.volume[offset : offset + 512])).hidden == GiB // 512


@pytest.mark.parametrize("version", ["7", "10"])
def test_newer_ones_keep_their_geometry(tmp_path: Path, version: str) -> None:
    work = volume_work(tmp_path, whole(ntfs(hidden=63), ntfs(hidden=63)), version=version)
    boot_sector.step(work)
    assert work.changes.changes == ()
    moved = volume_work(tmp_path, whole(ntfs(hidden=2048), b"\0" * 512), version=version)
    boot_sector.step(moved)
    assert isinstance(moved.guest, Volumes)
    assert (parse(bytes(moved.guest.volume[:512])).hidden, parse(bytes(moved.guest.volume[:512])).heads) == (
        63,
        255,
    )
    assert not any(moved.guest.volume[-512:])


def test_a_volume_that_nobody_knows_is_left_alone(tmp_path: Path) -> None:
    other = ntfs()[:0x48] + b"\x99" * 8 + ntfs()[0x50:]
    work = volume_work(tmp_path, whole(other, other), version="xp")
    boot_sector.step(work)
    assert "0 partitions have its serial" in work.changes.warnings[0]
    fat = volume_work(tmp_path, b"\xeb\x58\x90MSDOS5.0".ljust(MiB, b"\0"), version="xp")
    boot_sector.step(fat)
    assert "does not begin with a boot sector of NTFS" in fat.changes.warnings[0]


def test_heads_are_those_that_virt_v2v_gives() -> None:
    assert [heads_of(size) for size in (GiB, 2_114_445_312, 4_228_374_779, 4_228_374_780)] == [
        64,
        128,
        128,
        255,
    ]


def test_mutated_boot_sectors_are_mended_or_refused(tmp_path: Path) -> None:
    chance = random.Random(6)
    for _ in range(1000):
        sector = mutated(ntfs(hidden=chance.randrange(1 << 32)), chance)
        try:
            fixed = corrected(sector, hidden=63, heads=64)
        except GuestError:
            continue
        assert (len(fixed), parse(fixed).hidden, parse(fixed).heads) == (len(sector), 63, 64)
        work = volume_work(tmp_path, whole(sector[:512], ntfs()), version="xp")
        boot_sector.step(work)
