"""What is written to boot configurations, drive letters and services, read by programs that had no part in
it.
"""

from __future__ import annotations

import importlib
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from conversions.changes import Changes
from conversions.nt import boot_configuration, first_boot
from conversions.nt.boot_sector import corrected, parse
from conversions.nt.disk_ids import GptPlace, MbrPlace, Move, Place
from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.first_boot_scripts import NAME
from conversions.nt.paths import WindowsPaths
from conversions.nt.work import WindowsWork
from conversions.request import Request
from drivers import pack
from fixtures.windows.spec import (
    DISK_GUID,
    DISK_SIGNATURE,
    GUESTS,
    STATIC_ADDRESS,
    STATIC_CARD,
    STATIC_GATEWAY,
    STATIC_MAC,
    SYSTEM_PARTITION,
)
from p2v import command
from p2v.hives import GuestHives
from p2v.model import Firmware, MiB
from tests.conversions.nt.windows_guests import convert, guest_tree, machine, platform_of
from tests.registries import changed, listing, read_key, recorded
from tests.tree_guest import TreeGuest

dissect_ntfs: Any = importlib.import_module("dissect.ntfs")  # it has no types

pytestmark = [pytest.mark.tools, pytest.mark.slow, pytest.mark.timeout(300)]

NEW_DISK, NEW_PARTITION = uuid.UUID(int=0xD15C), uuid.UUID(int=0x9A27)
UEFI_MOVE = Move(GptPlace(DISK_GUID, SYSTEM_PARTITION), GptPlace(NEW_DISK, NEW_PARTITION))
BIOS_MOVE = Move(MbrPlace(DISK_SIGNATURE, GUESTS["2019"].start), MbrPlace(0xCAFE0007, 700 * MiB))


def repaired(guest: TreeGuest, name: str, move: Move) -> RegistryRecord:
    """The guest after its partition was renamed; every hive is written by hivex."""
    spec, record, changes = GUESTS[name], RegistryRecord(), Changes(guest)
    platform, hives, paths = platform_of("libvirt"), GuestHives(guest), WindowsPaths(guest)
    request = Request(machine(spec), (), Firmware(spec.firmware), platform, pack(platform.driver_pack))
    path = paths.find(f"/{spec.root}/System32/config/SYSTEM")
    windows = machine(spec).os
    assert windows
    assert windows.windows
    with hives.edit(path) as system:
        edits = RegistryEdits(system, path, record)
        work = WindowsWork(
            changes, request, windows.windows, paths, hives, record, edits, edits, ("ControlSet001",)
        )
        boot_configuration.repair(work, (move,))
    return record


def device(element: bytes) -> Place:
    """The 88 bytes as "Devices Partition - Data" of the BCDEdit guide (mistyprojects.co.uk) takes them
    apart.
    """
    assert len(element) == 88
    kind, size, table = struct.unpack_from("<I4xI", element, 0x10) + struct.unpack_from("<I", element, 0x34)
    assert (kind, size) == (6, 0x48)
    if table == 1:
        return MbrPlace(*struct.unpack_from("<I", element, 0x38), *struct.unpack_from("<Q", element, 0x20))
    return GptPlace(uuid.UUID(bytes_le=element[0x38:0x48]), uuid.UUID(bytes_le=element[0x20:0x30]))


@pytest.mark.parametrize(("name", "move"), [("10", UEFI_MOVE), ("2019", BIOS_MOVE), ("7", BIOS_MOVE)])
def test_a_renamed_partition_is_renamed_for_other_readers(tmp_path: Path, name: str, move: Move) -> None:
    guest = guest_tree(name, tmp_path)
    (store,) = (path for path in guest.root.rglob("*") if path.name.upper() == "BCD")
    (system,) = guest.root.glob("[wW]*/[sS]ystem32/config/SYSTEM")
    before, letters = listing(store), listing(system)
    record = repaired(guest, name, move)
    loader = f"Objects\\{_default(store)}\\Elements"
    for element in ("11000001", "21000001"):
        found = read_key(store, f"{loader}\\{element}")
        assert found
        assert device(found.values["element"]) == move.new
    path = "/" + str(store.relative_to(guest.root))
    assert changed(before, listing(store)) == recorded(record.changes, path) != set()
    hive = "/" + str(system.relative_to(guest.root))
    assert changed(letters, listing(system)) == recorded(record.changes, hive)
    assert ("mounteddevices", "\\dosdevices\\c:") in recorded(record.changes, hive)
    assert repaired(guest, name, move).changes == ()


def _default(store: Path) -> str:
    key = read_key(store, f"Objects\\{boot_configuration.BOOT_MANAGER}\\Elements\\23000003")
    assert key
    return str(key.values["element"]).rstrip("\0")


@pytest.mark.parametrize("name", ["xp", "7", "10"])
def test_the_first_boot_is_a_service_for_other_readers(tmp_path: Path, name: str) -> None:
    guest = guest_tree(name, tmp_path)
    conversion = convert(guest, name, platform_of("hyperv"))
    (system,) = guest.root.glob("[wW]*/[sS]ystem32/config/SYSTEM")
    sets = [key for key, value in listing(system) if value is None and key.endswith(f"\\services\\{NAME}")]
    assert sets == [f"controlset00{number}\\services\\{NAME}" for number in range(1, len(sets) + 1)]
    assert len(sets) == (1 if name == "10" else 2)
    for key in sets:
        found = read_key(system, key)
        assert found
        assert (found.values["start"], found.values["type"], found.values["errorcontrol"]) == (2, 0x10, 0)
        assert str(found.values["imagepath"]).rstrip("\0") == first_boot.IMAGE_PATH
    (script,) = guest.root.glob(f"[wW]*/{NAME}/network.*")
    text = script.read_text("ascii")
    for known in (STATIC_ADDRESS, STATIC_GATEWAY, STATIC_CARD):
        assert known in text
    assert STATIC_MAC.upper() in text or STATIC_MAC.upper().replace(":", "") in text
    assert str(script.relative_to(guest.root)) in {change.path.lstrip("/") for change in conversion.changes}


def test_a_mended_boot_sector_is_that_of_the_same_volume(tmp_path: Path) -> None:
    """mkntfs wrote it, with a start that is wrong; ntfsfix and dissect.ntfs read what we made of it."""
    image = tmp_path / "c.ntfs"
    with image.open("wb") as file:
        file.truncate(16 * MiB)
    mkntfs = command.need_tool("mkntfs", reason="make a volume", package="ntfs-3g")
    command.check(
        [mkntfs, "-F", "-Q", "-q", "-p", "2048", "-H", "255", "-S", "63", image], timeout=60, reason="format"
    )
    before = image.read_bytes()
    found = parse(before[:512])
    assert (found.hidden, found.heads, found.backup + 512) == (2048, 255, len(before))
    after = bytearray(before)
    for offset in (0, found.backup):
        after[offset : offset + 512] = corrected(before[offset : offset + 512], hidden=63, heads=128)
    image.write_bytes(after)
    ntfsfix = command.need_tool("ntfsfix", reason="check a volume", package="ntfs-3g")
    said = command.check([ntfsfix, "-n", image], timeout=60, reason="check a volume")
    assert "processed successfully" in said
    with image.open("rb") as file:
        bpb = dissect_ntfs.NTFS(file).boot_sector.Bpb
        assert (bpb.HiddenSectors, bpb.Heads, bpb.SectorsPerTrack) == (63, 128, 63)
    assert after[found.backup :] == after[:512]
