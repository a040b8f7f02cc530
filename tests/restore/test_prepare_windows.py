"""A Windows on its way to metal: its own drivers for the controllers, and all of the larger disk."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.windows import guests
from p2v.accelerator import find_accelerator
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.model import Disk, Firmware, ImageFormat, Machine, MiB, Nic
from p2v.restore.measure import measured
from p2v.restore.model import DiskMove, Metal, NicMove, PciDevice, Resize, RestorePlan, SourceDisk
from p2v.restore.prepare import prepare
from p2v.restore.relayout import relayout
from p2v.transports import SshOptions, open_transport
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.disk.volumes import attached, run
from tests.restore.test_resize import check_ntfs

pytestmark = [pytest.mark.guestfs, pytest.mark.timeout(900)]

MEGARAID = PciDevice("0000:03:00.0", 0x1000, 0x005D, 0x1028, 0x1F47, 2, 0x010400, "megaraid_sas")
CARD = PciDevice("0000:00:04.0", 0x8086, 0x1521, 0x8086, 0x0001, 1, 0x020000, "igb")


def test_windows_10_for_a_raid_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools("mkntfs", "sfdisk", "mcopy", "ntfsresize", "qemu-nbd", "losetup")
    if os.geteuid() != 0:
        pytest.skip("the disk of a Windows is made as root")
    monkeypatch.setenv("P2V_ACCEL", find_accelerator(tmp_path / "cache").accelerator)
    image = guests.disk("10")
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path / "home")
    with open_transport(str(image), SshOptions()) as transport:
        (disk,) = transport.survey().machine.disks
        with transport.open_disk(disk) as device:
            from p2v.disk.used import inspect_disk

            disk = measured(device, inspect_disk(device, disk))
    guest = Machine("w10", Firmware.UEFI, 2, 2048 * MiB, (disk,), (Nic("Ethernet", "00:11:22:33:44:55"),))
    target = Disk(
        "/dev/sda", disk.size + 200 * MiB, names=("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:2:0:0",)
    )
    metal = Metal(replace(guest, disks=(target,)), (MEGARAID, CARD))
    move = DiskMove(0, SourceDisk(image, ImageFormat.RAW, disk), target, Resize.GROW)
    nics = (NicMove("00:11:22:33:44:55", "3c:fd:fe:9d:11:02"),)
    plan = RestorePlan("w10", str(image), "ssh://rescue", guest, metal, (move,), nics, True, 1)
    prepared = prepare(plan, tmp_path, house, Keys())
    assert prepared.conversion
    assert prepared.conversion.family == "windows"
    changed = {change.key.lower() for change in prepared.conversion.registry}
    # Windows starts a disk driver that it did not need at the boot before only without this key.
    assert any(key.endswith("\\services\\percsas3i\\startoverride") for key in changed), changed
    assert prepared.entries == ()
    result = tmp_path / "result.raw"
    run("qemu-img", "convert", "-O", "raw", prepared.disks[0].path, result)
    assert result.stat().st_size == target.size
    system = relayout(move).changed
    assert system
    place = ("--offset", str(system.start), "--sizelimit", str(system.length))
    with attached(result, *place) as device_path:
        check_ntfs(device_path)
