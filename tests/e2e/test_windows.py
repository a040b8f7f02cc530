"""Windows through the whole pipeline: from a disk image to virtual machines, by the command line.

What Windows gets on every target is shown on trees of files (tests/conversions/nt); here are the ways around
it: NTFS and the ESP in the appliance, drivers of two packs, the receipt, the configuration, the unit.
dissect.target looks at the disks that came out.
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fixtures.command import FixtureError, run
from fixtures.windows import guests, packs
from fixtures.windows.spec import GUESTS, MiB, WindowsSpec
from p2v.journal import RECEIPT
from p2v.model import ChangeKind, Output, Receipt
from tests.conftest import need_tools
from tests.e2e.cli import p2v
from tests.registries import changed, listing, recorded

pytestmark = [pytest.mark.guestfs, pytest.mark.timeout(1200)]

HIVES = ("SYSTEM", "SOFTWARE")


@dataclass(frozen=True, slots=True)
class Moved:
    """A run of the whole pipeline."""

    spec: WindowsSpec
    folder: Path
    home: Path
    receipt: Receipt

    def output(self, platform: str) -> Output:
        (found,) = [each for each in self.receipt.outputs if each.platform.name == platform]
        return found

    def image(self, platform: str) -> Path:
        output = self.output(platform)
        return self.folder / "vm" / output.platform.label / output.files[0].path


def source(name: str) -> Path:
    """The disk of a guest."""
    need_tools("mkntfs", "ntfs-3g", "ntfsfix", "sfdisk", "mcopy", "qemu-img", "reglookup")
    if os.geteuid() or not Path("/dev/fuse").exists():
        if os.environ.get("CI"):
            pytest.fail("NTFS disks are made as root, with FUSE")
        pytest.skip("NTFS disks are made as root, with FUSE")
    try:
        return guests.disk(name)
    except FixtureError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def move(name: str, image: Path, folder: Path, targets: tuple[str, ...], drivers: Path | None) -> Moved:
    wanted = [word for target in targets for word in ("--to", target)]
    given: list[str | Path] = ["--drivers", drivers] if drivers else []
    home, runs = folder / "home", folder / "runs"
    given += ["--output", runs, "--name", "win", "--cpus", "1", "--json"]
    answer = p2v("convert", image, *wanted, *given, home=home)
    assert answer.code == 0, answer.stderr
    receipt: Receipt = RECEIPT.validate_json(answer.stdout)
    return Moved(GUESTS[name], runs / "win", home, receipt)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """A server with UEFI, for two platforms, with the drivers of both in one folder."""
    folder = tmp_path_factory.mktemp("server")
    image = source("2025")
    packs.virtio(folder / "drivers" / "virtio")
    packs.vmware(folder / "drivers" / "vmware")
    return move("2025", image, folder, ("libvirt", "vmware"), folder / "drivers")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """An XP with a BIOS, with nothing but what it brings."""
    return move("xp", source("xp"), tmp_path_factory.mktemp("xp"), ("virtualserver",), None)


def opened(image: Path) -> Any:
    return importlib.import_module("dissect.target").Target.open(image)


def service(target: Any, name: str) -> Any:
    return target.registry.key(f"HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\{name}")


@pytest.mark.parametrize(
    ("platform", "driver", "device"),
    [
        ("libvirt", "viostor", "VEN_1AF4&DEV_1042"),
        ("vmware", "pvscsi", "VEN_15AD&DEV_07C0"),
    ],
)
def test_a_server_is_bound_to_its_new_disks(server: Moved, platform: str, driver: str, device: str) -> None:
    target = opened(server.image(platform))
    assert target.os == "windows"
    assert "Windows Server 2025" in target.version
    key = service(target, driver)
    assert key.value("Start").value == 0
    assert "StartOverride" not in [each.name for each in key.subkeys()]
    assert target.fs.path(f"c:/windows/{key.value('ImagePath').value}".replace("\\", "/")).is_file()
    database = "HKEY_LOCAL_MACHINE\\SYSTEM\\DriverDatabase"
    names = [each.name for each in target.registry.key(f"{database}\\DeviceIds\\PCI\\{device}").values()]
    labels = [
        target.registry.key(f"{database}\\DriverInfFiles\\{name}").value("Active").value for name in names
    ]
    # VMware's tools had left a package of theirs in this hive, which has no Configurations.
    bound = [label for label in labels if _configured(target, f"{database}\\DriverPackages\\{label}")]
    assert len(bound) == 1
    assert target.fs.path(f"c:/windows/system32/driverstore/filerepository/{bound[0]}/{driver}.inf").is_file()


def _configured(target: Any, package: str) -> bool:
    return "Configurations" in [each.name for each in target.registry.key(package).subkeys()]


def test_an_xp_starts_from_ide(old: Moved) -> None:
    target = opened(old.image("virtualserver"))
    assert target.version.startswith("Microsoft Windows XP")
    for name in ("intelide", "pciide", "atapi"):
        assert service(target, name).value("Start").value == 0
    critical = "HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Control\\CriticalDeviceDatabase"
    assert target.registry.key(f"{critical}\\pci#ven_8086&dev_7111").value("Service").value == "intelide"
    assert service(target, "intelppm").value("Start").value == 4


def test_the_configuration_has_the_devices_that_the_guest_has_drivers_for(server: Moved, old: Moved) -> None:
    (path,) = (server.folder / "vm" / "libvirt").glob("*.xml")
    domain = ElementTree.parse(path).getroot()
    assert [each.get("bus") for each in domain.findall("devices/disk[@device='disk']/target")] == ["virtio"]
    assert {each.get("type") for each in domain.findall("devices/interface/model")} == {"virtio"}
    clock = domain.find("clock")
    assert clock is not None
    assert clock.get("offset") == "localtime"
    (path,) = (server.folder / "vm" / server.output("vmware").platform.label).glob("*.vmx")
    settings = path.read_text()
    assert 'scsi0.virtualDev = "pvscsi"' in settings
    assert 'ethernet0.virtualDev = "vmxnet3"' in settings
    (path,) = (old.folder / "vm" / "virtualserver").glob("*.vmc")
    assert "<ide_adapter>" in path.read_text("utf-16")


@pytest.mark.parametrize("name", ["server", "old"])
def test_the_receipt_names_every_value_that_differs(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    moved: Moved = request.getfixturevalue(name)
    output = moved.receipt.outputs[0]
    before, after = opened(guests.disk(moved.spec.name)), opened(moved.image(output.platform.name))
    for hive in HIVES:
        places = [taken(target, hive, tmp_path / word) for target, word in ((before, "a"), (after, "b"))]
        path = next(
            (each.path for each in output.conversion.changes if each.path.endswith(f"/config/{hive}")), ""
        )
        assert changed(listing(places[0]), listing(places[1])) == recorded(output.conversion.registry, path)
    assert output.conversion.registry


def taken(target: Any, hive: str, folder: Path) -> Path:
    """A hive of a disk, as a file."""
    folder.mkdir(exist_ok=True)
    place = folder / hive
    place.write_bytes(target.fs.path(f"c:/windows/system32/config/{hive}").read_bytes())
    return place


@pytest.mark.parametrize("name", ["server", "old"])
def test_the_volume_is_sound_and_the_capture_as_it_was(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    moved: Moved = request.getfixturevalue(name)
    raw = tmp_path / "disk.raw"
    run(
        ["qemu-img", "convert", "-O", "raw", moved.image(moved.receipt.outputs[0].platform.name), raw],
        timeout=120,
    )
    volume = tmp_path / "ntfs"
    count = (moved.spec.size - moved.spec.start) // MiB - 2
    where = [f"skip={moved.spec.start // MiB}", f"count={count}", "bs=1M", "conv=sparse"]
    run(["dd", f"if={raw}", f"of={volume}", *where], timeout=120)
    assert "processed successfully" in run(["ntfsfix", "-n", volume], timeout=60)
    for change in moved.receipt.outputs[0].conversion.changes:
        if change.kind is ChangeKind.CREATED and not change.path.startswith("/@"):
            seen = run(["ntfssecaudit", volume, change.path], timeout=60)
            assert "mode 0755" in seen, change.path  # nobody but administrators may change it
    captured, image = opened(moved.folder / "capture" / "disk0.raw"), opened(guests.disk(moved.spec.name))
    for hive in HIVES:
        place = f"c:/windows/system32/config/{hive}"
        assert captured.fs.path(place).read_bytes() == image.fs.path(place).read_bytes()


def test_two_platforms_cost_one_unit(server: Moved) -> None:
    assert server.receipt.license is not None
    assert server.receipt.license.units == 1
    shown = p2v("license", "show", "--json", home=server.home)
    assert json.loads(shown.stdout)["used"] == 1


@pytest.mark.matrix
def test_a_converted_disk_is_right_already(server: Moved, tmp_path: Path) -> None:
    drivers = server.folder.parents[1] / "drivers"
    again = move("2025", server.image("libvirt"), tmp_path, ("libvirt",), drivers)
    conversion = again.receipt.outputs[0].conversion
    assert conversion.changes == ()
    assert conversion.registry == ()
    assert conversion.disk_bus is server.output("libvirt").conversion.disk_bus
