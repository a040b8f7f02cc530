"""What a plan says of a Windows before a byte is copied: its devices, what it lacks, and what would work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.windows import packs
from p2v import rooms
from p2v.driver_shelf import DriverShelf
from p2v.errors import PlanRefused, UsageError
from p2v.guest_wishes import clean_up
from p2v.job import Job, job_from_json
from p2v.model import (
    Choice,
    CleanUp,
    DiskBus,
    Firmware,
    GiB,
    Machine,
    NicModel,
    OperatingSystem,
    Plan,
    ProductType,
    WindowsSystem,
)
from p2v.plan import Wishes, make_plan
from p2v.targets import find_target
from tests.plans import make_machine

NO_DRIVERS = DriverShelf(None)


def windows(
    version: tuple[int, int, int] = (10, 0, 19041),
    *,
    architecture: str = "x86_64",
    firmware: Firmware = Firmware.BIOS,
) -> Machine:
    kind = ProductType.WORKSTATION
    known = WindowsSystem(*version, kind)
    name = ".".join(str(part) for part in version)
    system = OperatingSystem("windows", name, f"Windows {name}", "windows", architecture, windows=known)
    return replace(make_machine(), os=system, firmware=firmware, findings=())


def planned(machine: Machine, *targets: str, shelf: DriverShelf = NO_DRIVERS, **wishes: object) -> Plan:
    found = tuple(find_target(target) for target in targets)
    offers, said = rooms.offers_for(machine, found, shelf)
    made = make_plan(machine, replace(Wishes("disk.raw"), **wishes), offers, units=1)  # type: ignore[arg-type]
    return replace(made, warnings=(*made.warnings, *said))


@pytest.mark.parametrize(
    ("version", "target", "firmware", "bus", "nic"),
    [
        ((5, 1, 2600), "libvirt", "bios", DiskBus.IDE, NicModel.PCNET),
        ((6, 1, 7601), "libvirt", "bios", DiskBus.SATA, NicModel.E1000),
        ((10, 0, 26100), "libvirt", "uefi", DiskBus.SATA, NicModel.E1000),
        ((6, 1, 7601), "vmware", "bios", DiskBus.LSI_SAS, NicModel.E1000),
        ((10, 0, 17763), "vmware", "uefi", DiskBus.LSI_SAS, NicModel.E1000),
        ((6, 1, 7601), "hyperv", "bios", DiskBus.IDE, NicModel.NETVSC),
        ((10, 0, 26100), "hyperv", "uefi", DiskBus.HYPERV_SCSI, NicModel.NETVSC),
        ((5, 1, 2600), "virtualserver", "bios", DiskBus.IDE, NicModel.TULIP),
    ],
)
def test_devices_that_windows_drives_by_itself(
    version: tuple[int, int, int], target: str, firmware: str, bus: DiskBus, nic: NicModel
) -> None:
    narrow = "i686" if version < (6, 0, 0) else "x86_64"
    machine = windows(version, architecture=narrow, firmware=Firmware(firmware))
    plan = planned(machine, target, cpus=1, memory=GiB)
    assert plan.platform.disk_bus is bus
    assert plan.platform.nic_model is nic
    wanted = find_target(target)
    changed = wanted.fit(wanted.platform, Firmware(firmware)).disk_bus is not bus
    assert any("drivers" in warning for warning in plan.warnings) >= changed


def test_a_better_device_that_is_missing_is_told_with_the_option_that_brings_it() -> None:
    said = " ".join(planned(windows(), "libvirt").warnings)
    assert "no driver for virtio-blk disks" in said
    assert "--drivers" in said


@pytest.mark.parametrize(("option", "works"), [("virtio-blk", "bus=sata"), ("nic=virtio", "nic=e1000")])
def test_a_device_that_was_named_is_not_exchanged(option: str, works: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        planned(windows(), f"libvirt:{option}")
    assert f"--to libvirt:{works}" in caught.value.hint
    assert "--drivers" in caught.value.hint


@pytest.mark.tools
def test_drivers_that_are_brought_give_the_usual_devices(tmp_path: Path) -> None:
    packs.virtio(tmp_path / "pack")
    with DriverShelf(tmp_path / "pack") as shelf:
        plan = planned(windows(), "libvirt", shelf=shelf)
        assert shelf.index() is shelf.index()
    assert (plan.platform.disk_bus, plan.platform.nic_model) == (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert plan.warnings == ()


def test_a_target_without_any_disk_for_it_refuses() -> None:
    """Generation 2 emulates nothing, and Windows 7 knows none of what it has."""
    with pytest.raises(PlanRefused, match="does not start on Microsoft Hyper-V"):
        planned(windows((6, 1, 7601), firmware=Firmware.UEFI), "hyperv")


def test_more_disks_than_the_bus_takes() -> None:
    """The plan was for virtio, which takes 26; on SATA there are six."""
    machine = windows()
    many = replace(
        machine, disks=tuple(replace(machine.disks[0], path=f"/dev/sd{name}") for name in "abcdefg")
    )
    with pytest.raises(PlanRefused, match="7 disks: KVM / libvirt takes 6"):
        planned(many, "libvirt")


def test_a_proof_is_refused_with_the_reason() -> None:
    with pytest.raises(PlanRefused, match="cannot be told here"):
        planned(windows(), "libvirt", prove=True)


@pytest.mark.parametrize(
    ("architecture", "fits"), [("i686", True), ("x86_64", True), ("aarch64", False), ("ia64", False)]
)
def test_architectures(architecture: str, *, fits: bool) -> None:
    machine = windows(architecture=architecture)
    if fits:
        assert planned(machine, "libvirt").platform.disk_bus is DiskBus.SATA
    else:
        with pytest.raises(PlanRefused, match=f"is a {architecture} machine"):
            planned(machine, "libvirt")
    linux = make_machine()
    assert linux.os
    old = replace(linux, findings=(), os=replace(linux.os, architecture="i686"))
    with pytest.raises(PlanRefused, match="is a i686 machine"):
        planned(old, "libvirt")


@pytest.mark.parametrize(
    ("name", "content", "system", "fits"),
    [
        ("first.ps1", b"Write-Host", "windows", True),
        ("first.cmd", b"echo", "windows", True),
        ("first.sh", b"#!/bin/sh", "windows", False),
        ("first.ps1", b"Write-Host", "linux", False),
        ("first.sh", b"#!/bin/sh", "linux", True),
    ],
)
def test_a_script_for_the_first_boot(
    tmp_path: Path, name: str, content: bytes, system: str, *, fits: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    script = clean_up(remove=(), identity=Choice.KEEP, hostname="", first_boot=tmp_path / name, disable=())
    machine = windows() if system == "windows" else make_machine()
    if fits:
        assert planned(machine, "libvirt", clean_up=script).clean_up.first_boot
    else:
        with pytest.raises(PlanRefused, match="at its first boot"):
            planned(machine, "libvirt", clean_up=script)


def test_other_wishes_are_for_linux() -> None:
    with pytest.raises(PlanRefused, match="clean-up options"):
        planned(windows(), "libvirt", clean_up=CleanUp(hostname="other"))


def test_what_is_no_folder_of_drivers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with DriverShelf(path) as shelf, pytest.raises(UsageError):
            shelf.index()


def test_drivers_are_not_read_for_a_linux(tmp_path: Path) -> None:
    """A batch may name them for all its machines."""
    with DriverShelf(tmp_path / "nothing") as shelf:
        plan = planned(replace(make_machine(), findings=()), "libvirt", shelf=shelf)
    assert plan.platform.disk_bus is DiskBus.VIRTIO_BLK


def test_a_run_remembers_where_its_drivers_are(tmp_path: Path) -> None:
    job = Job("disk.raw", ("libvirt",), tmp_path, drivers=tmp_path / "virtio-win.iso")
    assert job_from_json(job.to_json(), where=tmp_path) == job
