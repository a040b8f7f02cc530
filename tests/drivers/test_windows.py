"""Which devices a Windows gets on a target, as the plan says it before anything is captured."""

from __future__ import annotations

import pytest

import drivers
from drivers import physical
from drivers.inf.index import DriverIndex, read_index
from drivers.inf.model import Windows
from drivers.pack import DeviceId
from drivers.windows import STORAGE, NoDriver, WindowsChoice, choose, choose_card, device_of
from fixtures.windows import packs, programs
from p2v.model import DiskBus, NicModel, ProductType, WindowsSystem
from p2v.targets import find_target

XP, SEVEN, TEN = WindowsSystem(5, 1, 2600), WindowsSystem(6, 1, 7601), WindowsSystem(10, 0, 19041)
SERVER = WindowsSystem(10, 0, 26100, ProductType.SERVER)


@pytest.fixture(scope="module")
def virtio(tmp_path_factory: pytest.TempPathFactory) -> DriverIndex:
    return read_index(packs.virtio(tmp_path_factory.mktemp("virtio"), programs.bare))


def chosen(target: str, system: WindowsSystem, index: DriverIndex | None = None) -> WindowsChoice | NoDriver:
    platform = find_target(target).platform
    architecture = "i686" if system.major < 6 else "x86_64"
    return choose(drivers.pack(platform.driver_pack), platform, system, architecture, index)


@pytest.mark.parametrize(
    ("target", "system", "bus", "nic"),
    [
        ("libvirt", XP, DiskBus.IDE, NicModel.PCNET),
        ("libvirt", SEVEN, DiskBus.SATA, NicModel.E1000),
        ("libvirt", TEN, DiskBus.SATA, NicModel.E1000),
        ("vmware", XP, DiskBus.LSI_LOGIC, NicModel.PCNET),
        ("vmware", SERVER, DiskBus.LSI_SAS, NicModel.E1000),
        ("hyperv", SEVEN, DiskBus.IDE, NicModel.NETVSC),
        ("hyperv", XP, DiskBus.IDE, NicModel.TULIP),
        ("virtualserver", TEN, DiskBus.IDE, NicModel.TULIP),
        ("virtualbox", TEN, DiskBus.SATA, NicModel.E1000),
        ("virtualbox", XP, DiskBus.IDE, NicModel.PCNET),
        ("xen", TEN, DiskBus.IDE, NicModel.E1000),
    ],
)
def test_without_drivers_a_windows_gets_what_it_brings_drivers_for(
    target: str, system: WindowsSystem, bus: DiskBus, nic: NicModel
) -> None:
    found = chosen(target, system)
    assert isinstance(found, WindowsChoice)
    assert (found.disk_bus, found.nic_model, found.packages) == (bus, nic, ())
    first = find_target(target).platform.disk_bus
    assert any(first in warning for warning in found.warnings) == (first is not bus)


@pytest.mark.parametrize(
    ("system", "folder"), [(XP, "xp/x86"), (SEVEN, "w7/amd64"), (TEN, "w10/amd64"), (SERVER, "2k25/amd64")]
)
def test_with_its_drivers_it_gets_the_best_devices(
    virtio: DriverIndex, system: WindowsSystem, folder: str
) -> None:
    found = chosen("libvirt", system, virtio)
    assert isinstance(found, WindowsChoice)
    assert (found.disk_bus, found.nic_model) == (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert [match.package.inf for match in found.packages] == [f"viostor/{folder}/viostor.inf"]
    assert [match.package.inf for match in found.cards] == [f"NetKVM/{folder}/netkvm.inf"]
    assert found.warnings == ()


def test_a_platform_without_a_bus_that_it_can_use_is_refused_with_others_that_it_can() -> None:
    found = chosen("kubevirt", XP)
    assert isinstance(found, NoDriver)
    assert "sata" in found.reasons[-1]
    assert "--drivers" in found.hint
    assert "virtualserver" in found.hint


def test_on_metal_every_driver_of_its_own_is_started() -> None:
    raid = DeviceId("pci:v00001000d0000005Dsv00001028sd00001F49bc01sc04i00")
    pack = physical.pack_for([raid], [])
    found = choose(pack, find_target("raw").platform, TEN, "x86_64", None)
    assert isinstance(found, WindowsChoice)
    assert found.disk_bus is DiskBus.METAL
    assert found.inbox is not None
    assert found.inbox.companions == STORAGE


def test_a_card_of_metal_gets_its_driver_from_the_pack(virtio: DriverIndex) -> None:
    """The card of a machine in QEMU stands for any: its driver is in the pack."""
    card = DeviceId("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00")
    pack = physical.pack_for([], [card])
    windows = Windows.of(TEN, "x86_64")
    assert windows is not None
    model, cards, warnings = choose_card(pack, find_target("raw").platform, windows, virtio)
    assert model is NicModel.METAL
    assert [match.package.name for match in cards] == ["netkvm.inf"]
    assert warnings == ()
    assert choose_card(pack, find_target("raw").platform, windows, None) == (NicModel.METAL, (), ())


def test_an_alias_of_linux_is_an_id_of_windows() -> None:
    """A PERC H730 as Linux' sysfs and a Windows' setupapi log name it."""
    found = device_of(DeviceId("pci:v00001000d0000005Dsv00001028sd00001F49bc01sc04i00"))
    assert found is not None
    assert "PCI\\VEN_1000&DEV_005D&SUBSYS_1F491028" in found.hardware
    assert "PCI\\CC_0104" in found.compatible
    assert device_of(DeviceId("usb:v0951p1666d0110dc00dsc00dp00ic08isc06ip50in00")) is None
