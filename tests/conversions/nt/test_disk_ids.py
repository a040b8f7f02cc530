"""BCD device elements and MountedDevices against what Windows itself wrote."""

from __future__ import annotations

import random
from dataclasses import replace
from uuid import UUID

from conversions.nt import mounted_devices
from conversions.nt.boot_configuration import repair, repair_store
from conversions.nt.disk_ids import GptPlace, MbrPlace, Move, Place, located, moves, relocated, remounted
from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.registry import binary
from p2v.model import Disk, GiB, MiB, Partition, TableKind
from tests.conversions.nt.memory_hives import MemoryHive

WINDOWS_8_MBR = bytes.fromhex(
    "00000000000000000000000000000000 0600000000000000 4800000000000000"
    "0000f015000000000000000000000000 00000000 01000000 f1a8ebb3000000000000000000000000"
    "00000000000000000000000000000000"
)
"""mistyprojects.co.uk, BCDEdit guide, "Devices Partition - Data": Windows 8.1, start 368,050,176 bytes."""
WINDOWS_11_GPT = bytes.fromhex(
    "00000000000000000000000000000000 0600000000000000 4800000000000000"
    "a0ce8115ee127d4f8967a2b73024aae2 00000000 00000000 430ddcada917264ea16cdc71e67393f7"
    "00000000000000000000000000000000"
)
"""virt-v2v, test-data/phony-guests/windows-bcd.reg: osdevice of a Windows 11."""
WINDOWS_11_RAMDISK = bytes.fromhex(
    "9543d59dea76ed118c7cde4e190a0ee1 0000000001000000 b800000000000000"
    "03000000000000000000000000000000 0000000000000000 01000000 90000000 05000000"
    "0600000000000000 4800000000000000 911db90e980c9645ac349775035ee4a6 0000000000000000"
    "430ddcada917264ea16cdc71e67393f7 00000000000000000000000000000000"
) + "\\Recovery\\WindowsRE\\Winre.wim\0".encode("utf-16-le")
"""The same store: the device of its recovery environment, a file on another partition."""

MBR = MbrPlace(0xB3EBA8F1, 368_050_176)
GPT = GptPlace(UUID("addc0d43-17a9-4e26-a16c-dc71e67393f7"), UUID("1581cea0-12ee-4f7d-8967-a2b73024aae2"))
RECOVERY = GptPlace(GPT.disk, UUID("0eb91d91-0c98-4596-ac34-9775035ee4a6"))
OTHER = GptPlace(UUID(int=7), UUID(int=9))


def test_what_windows_wrote_is_read() -> None:
    assert located(WINDOWS_8_MBR) == (MBR,)
    assert located(WINDOWS_11_GPT) == (GPT,)
    assert located(WINDOWS_11_RAMDISK) == (RECOVERY,)


def test_a_renamed_partition_is_written_as_windows_would() -> None:
    """From MBR to the GPT of the other store, and back: byte for byte what Windows has there."""
    assert relocated(WINDOWS_8_MBR, {MBR: GPT}) == WINDOWS_11_GPT
    assert relocated(WINDOWS_11_GPT, {GPT: MBR}) == WINDOWS_8_MBR


def test_the_file_on_a_renamed_partition_stays() -> None:
    after = relocated(WINDOWS_11_RAMDISK, {RECOVERY: OTHER})
    assert located(after) == (OTHER,)
    assert len(after) == len(WINDOWS_11_RAMDISK)
    assert after.endswith("Winre.wim\0".encode("utf-16-le"))
    assert relocated(after, {OTHER: RECOVERY}) == WINDOWS_11_RAMDISK


def test_what_is_in_no_move_stays() -> None:
    assert relocated(WINDOWS_11_RAMDISK, {GPT: OTHER}) == WINDOWS_11_RAMDISK
    assert relocated(b"", {GPT: OTHER}) == b""


def test_two_partitions_may_change_places() -> None:
    swap: dict[Place, Place] = {GPT: RECOVERY, RECOVERY: GPT}
    both = WINDOWS_11_GPT + WINDOWS_11_RAMDISK
    assert located(relocated(both, swap)) == (RECOVERY, GPT)


def test_drive_letters_follow_their_partitions() -> None:
    """The GUID is that of C: in the SYSTEM hive of the sdist of dissect.regf."""
    letter = bytes.fromhex("444d494f3a49443a 948d171e794fe941865d2e5b4328cd23")
    old = GptPlace(UUID(int=1), UUID("1e178d94-4f79-41e9-865d-2e5b4328cd23"))
    assert old.mounted() == letter
    assert remounted(letter, {old: MBR}) == bytes.fromhex("f1a8ebb3 0000f01500000000")
    assert remounted(MBR.mounted(), {MBR: old}) == letter


def test_letters_of_other_devices_stay() -> None:
    hive, record = MemoryHive(), RegistryRecord()
    cd = binary("\\DosDevices\\D:", "\\??\\SCSI#CdRom#Диск".encode("utf-16-le"))
    c = binary("\\DosDevices\\C:", MBR.mounted())
    volume = replace(c, name="\\??\\Volume{62517174-f29b-11ec-85e0-806e6f6e6963}")
    hive.put("MountedDevices", cd, c, volume)
    mounted_devices.repair(RegistryEdits(hive, "SYSTEM", record), {MBR: GPT})
    assert hive.value("MountedDevices", c.name) == replace(c, data=GPT.mounted())
    assert hive.value("MountedDevices", volume.name) == replace(volume, data=GPT.mounted())
    assert hive.value("MountedDevices", cd.name) == cd
    assert [change.name for change in record.changes] == [c.name, volume.name]


def test_a_store_is_repaired_once() -> None:
    hive, record = store(), RegistryRecord()
    edits = RegistryEdits(hive, "BCD", record)
    repair_store(edits, {GPT: OTHER, RECOVERY: OTHER})
    assert [change.key.rsplit("\\", 1)[1] for change in record.changes] == ["21000001", "11000001"]
    writes = hive.writes
    repair_store(edits, {GPT: OTHER, RECOVERY: OTHER})
    assert hive.writes == writes


def test_without_moves_nothing_is_even_opened() -> None:
    repair(None, ())  # type: ignore[arg-type]  # whatever it opened would fail


def disk(table: TableKind, name: str, *partitions: Partition) -> Disk:
    return Disk("/dev/sda", 10 * GiB, table=table, table_id=name, partitions=partitions)


def test_moves_are_what_differs_between_two_looks() -> None:
    first = Partition(1, MiB, GiB, "07")
    second = Partition(2, 2 * GiB, GiB, "07")
    before = disk(TableKind.MBR, "b3eba8f1", first, second)
    after = disk(TableKind.MBR, "b3eba8f1", first, replace(second, start=3 * GiB))
    assert moves((before,), (before,)) == ()
    assert moves((before,), (after,)) == (Move(MbrPlace(0xB3EBA8F1, 2 * GiB), MbrPlace(0xB3EBA8F1, 3 * GiB)),)
    signed = replace(after, table_id="00000001")
    assert [move.new for move in moves((before,), (signed,))] == [MbrPlace(1, MiB), MbrPlace(1, 3 * GiB)]


def test_disks_without_names_move_nothing() -> None:
    damaged = disk(TableKind.GPT, "no guid", Partition(1, MiB, GiB, "", "nor this"))
    assert moves((damaged, Disk("/dev/sdb", GiB)), (damaged, Disk("/dev/sdb", GiB))) == ()


def store() -> MemoryHive:
    loader, recovery = "{9dd54393-76ea-11ed-8c7c-de4e190a0ee1}", "{9dd54394-76ea-11ed-8c7c-de4e190a0ee1}"
    hive = MemoryHive()
    hive.put(f"Objects\\{loader}\\Elements\\21000001", binary("Element", WINDOWS_11_GPT))
    hive.put(f"Objects\\{loader}\\Elements\\12000002", binary("Element", WINDOWS_11_GPT))  # a text's number
    hive.put(f"Objects\\{recovery}\\Elements\\11000001", binary("Element", WINDOWS_11_RAMDISK))
    return hive


def test_mutated_elements_and_letters_are_read_or_left_alone() -> None:
    """1,000 of each: nothing is raised, and what is not a partition keeps every byte."""
    chance = random.Random(6)
    table: dict[Place, Place] = {GPT: OTHER, RECOVERY: OTHER, MBR: OTHER}
    for sample in (WINDOWS_8_MBR, WINDOWS_11_GPT, WINDOWS_11_RAMDISK, MBR.mounted(), GPT.mounted()):
        for _ in range(1000):
            data = mutated(sample, chance)
            after = relocated(data, table)
            assert len(after) == len(data)
            assert set(located(after)) & set(table) == set()
            assert (after == data) == (not set(located(data)) & set(table))
            remounted(data, table)


def mutated(sample: bytes, chance: random.Random) -> bytes:
    data = bytearray(sample)
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = chance.choice((len(data), chance.randrange(len(data))))
    return bytes(data[:cut]) + chance.randbytes(chance.choice((0, 0, 40)))
