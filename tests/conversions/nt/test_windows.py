"""Every Windows on every target that it could go to, as a tree of files; its registry read by others.

The guests stand around a real SYSTEM hive, the readers are reglookup, regipy and dissect.regf: none of them
wrote it. What a receipt does not say must be as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from drivers.inf.index import DriverIndex, read_index
from drivers.inf.model import Architecture
from fixtures.windows import guests, packs, programs
from fixtures.windows.hive import editing
from fixtures.windows.spec import GUESTS
from p2v.errors import GuestError
from p2v.model import ChangeKind, Conversion, DiskBus, NicModel, RegistryChange
from tests.conversions.nt.windows_guests import convert, guest_tree, machine, pack_index, platform_of
from tests.registries import Place, changed, listing, read_key, recorded
from tests.tree_guest import TreeGuest

pytestmark = [pytest.mark.tools, pytest.mark.slow, pytest.mark.timeout(300)]

IDE = ("intelide", "pciide", "atapi")
HYPERV = ("vmbus", "storvsc", "storflt", "vpci", "bttflt")


@dataclass(frozen=True, slots=True)
class Case:
    """What a guest gets on a target, and the drivers that must start there with the boot loader."""

    guest: str
    target: str
    bus: DiskBus
    nic: NicModel
    drivers: tuple[str, ...]
    pack: str = ""

    def __str__(self) -> str:
        return f"{self.guest}-{self.target}{'-pack' if self.pack else ''}"


CASES = (
    Case("xp", "libvirt", DiskBus.IDE, NicModel.PCNET, IDE),
    Case("xp", "libvirt", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ("viostor",), "virtio"),
    Case("xp", "vmware", DiskBus.LSI_LOGIC, NicModel.PCNET, ("symmpi",), "vmware"),
    Case("xp", "hyperv", DiskBus.IDE, NicModel.TULIP, IDE),
    Case("xp", "virtualserver", DiskBus.IDE, NicModel.TULIP, IDE),
    Case("7", "libvirt", DiskBus.SATA, NicModel.E1000, ("msahci", *IDE)),
    Case("7", "libvirt", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ("viostor",), "virtio"),
    Case("7", "vmware", DiskBus.LSI_SAS, NicModel.E1000, ("LSI_SAS",)),
    Case("7", "hyperv", DiskBus.IDE, NicModel.NETVSC, (*IDE, "vmbus", "storvsc", "storflt")),
    Case("7", "virtualserver", DiskBus.IDE, NicModel.TULIP, IDE),
    Case("10", "libvirt", DiskBus.SATA, NicModel.E1000, ("storahci",)),
    Case("10", "libvirt", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ("viostor",), "virtio"),
    Case("10", "proxmox", DiskBus.VIRTIO_SCSI, NicModel.VIRTIO, ("vioscsi",), "virtio"),
    Case("10", "vmware", DiskBus.PVSCSI, NicModel.VMXNET3, ("pvscsi",), "vmware"),
    Case("10", "hyperv", DiskBus.IDE, NicModel.NETVSC, (*IDE, *HYPERV)),
    Case("2019", "libvirt", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ("viostor",), "virtio"),
    Case("2019", "vmware", DiskBus.LSI_SAS, NicModel.E1000, ("LSI_SAS",)),
    Case("2019", "hyperv", DiskBus.IDE, NicModel.NETVSC, (*IDE, *HYPERV)),
    Case("2019", "virtualserver", DiskBus.IDE, NicModel.TULIP, IDE),
    Case("2025", "libvirt", DiskBus.VIRTIO_BLK, NicModel.VIRTIO, ("viostor",), "virtio"),
    Case("2025", "vmware", DiskBus.PVSCSI, NicModel.VMXNET3, ("pvscsi",), "vmware"),
    Case("2025", "virtualbox", DiskBus.SATA, NicModel.E1000, ("storahci",)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packs")


def index_of(pack: str, folder: Path) -> DriverIndex | None:
    return pack_index(pack, folder) if pack else None


def hive(guest: TreeGuest, name: str = "SYSTEM") -> Path:
    (found,) = guest.root.glob(f"[wW]*/[sS]ystem32/config/{name}")
    return found


@cache
def untouched(hive: Path) -> dict[Place, tuple[str, str]]:
    return listing(hive)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_guest_gets_what_it_needs_and_nothing_else(case: Case, folder: Path, tmp_path: Path) -> None:
    guest = guest_tree(case.guest, tmp_path)
    index = index_of(case.pack, folder)
    conversion = convert(guest, case.guest, platform_of(case.target), index)
    assert (conversion.disk_bus, conversion.nic_model) == (case.bus, case.nic)
    see_boot_drivers(case, guest)
    see_binding(case, guest)
    receipt_is_whole(case, guest, conversion)

    again = convert(guest, case.guest, platform_of(case.target), index)
    assert (again.changes, again.registry) == ((), ())
    assert (again.disk_bus, again.nic_model) == (case.bus, case.nic)


def see_boot_drivers(case: Case, guest: TreeGuest) -> None:
    """In every set of controls: Start 0, no StartOverride, a file behind it."""
    files = {str(file.relative_to(guest.root)).lower() for file in hive(guest).parents[1].rglob("*.sys")}
    for control_set in ("ControlSet001", "ControlSet002"):
        if read_key(hive(guest), control_set) is None:
            assert control_set == "ControlSet002"
            continue
        for name in case.drivers:
            key = read_key(hive(guest), f"{control_set}\\Services\\{name}")
            assert key is not None, f"no {name} in {control_set}"
            assert key.values["start"] == 0, f"{name} in {control_set}"
            assert "startoverride" not in key.subkeys, f"{name} in {control_set}"
            path = key.values["imagepath"].replace("\\", "/").lower()
            assert f"windows/{path}" in files, f"{name}: {path}"


def see_binding(case: Case, guest: TreeGuest) -> None:
    """The first driver's devices lead to it: by CriticalDeviceDatabase, or all through DriverDatabase."""
    identifier = DEVICES[case.bus]
    if read_key(hive(guest), "DriverDatabase") is None:
        for control_set in ("ControlSet001", "ControlSet002"):
            device = identifier.replace("\\", "#")
            found = read_key(hive(guest), f"{control_set}\\Control\\CriticalDeviceDatabase\\{device}")
            assert found is not None, f"{device} in {control_set}"
            assert found.values["service"].lower() == case.drivers[0].lower()
            assert found.values["classguid"].lower().startswith("{4d36e9")
        return
    names = read_key(hive(guest), f"DriverDatabase\\DeviceIds\\{identifier}")
    assert names is not None, identifier
    bound = {service_of(hive(guest), inf, identifier) for inf in names.values}
    assert case.drivers[0].lower() in bound


DEVICES = {
    DiskBus.IDE: "PCI\\VEN_8086&DEV_7010",
    DiskBus.SATA: "PCI\\CC_010601",
    DiskBus.LSI_SAS: "PCI\\VEN_1000&DEV_0054",
    DiskBus.LSI_LOGIC: "PCI\\VEN_1000&DEV_0030",
    DiskBus.PVSCSI: "PCI\\VEN_15AD&DEV_07C0",
    DiskBus.VIRTIO_BLK: "PCI\\VEN_1AF4&DEV_1001",
    DiskBus.VIRTIO_SCSI: "PCI\\VEN_1AF4&DEV_1048",
}


def service_of(hive: Path, inf: str, identifier: str) -> str:
    """The way that Windows goes from a device to its driver."""
    names = read_key(hive, f"DriverDatabase\\DriverInfFiles\\{inf}")
    assert names is not None, inf
    package = f"DriverDatabase\\DriverPackages\\{names.values['active']}"
    device = read_key(hive, f"{package}\\Descriptors\\{identifier}")
    if device is None:  # only staged, as VMware's tools left theirs in the real hive
        return ""
    section = read_key(hive, f"{package}\\Configurations\\{device.values['configuration']}")
    assert section is not None, f"{package} has no {device.values['configuration']}"
    assert device.values["configuration"] in names.values["configurations"]
    return str(section.values["service"]).lower()


def receipt_is_whole(case: Case, guest: TreeGuest, conversion: Conversion) -> None:
    """What differs is what the receipt says, key by key, value by value, file by file."""
    before = guests.tree(case.guest)
    for name in ("SYSTEM", "SOFTWARE"):
        after = hive(guest, name)
        path = str(after.relative_to(guest.root))
        differs = changed(untouched(before / path), listing(after))
        assert differs == recorded(conversion.registry, f"/{path}"), name
    assert files_that_differ(before, guest.root) == {change.path.lstrip("/") for change in conversion.changes}


def files_that_differ(before: Path, after: Path) -> set[str]:
    return {name for name in names(before) | names(after) if not same((before / name), (after / name))}


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def test_a_second_target_leaves_what_the_first_one_needs(folder: Path, tmp_path: Path) -> None:
    guest = guest_tree("10", tmp_path)
    first = convert(guest, "10", platform_of("libvirt"), pack_index("virtio", folder))
    middle = listing(hive(guest))
    second = convert(guest, "10", platform_of("hyperv"), pack_index("virtio", folder))
    done = recorded(first.registry, second.registry[0].hive)
    assert not done & recorded(second.registry, second.registry[0].hive)
    after = listing(hive(guest))
    assert all(after.get(place) == middle.get(place) for place in done)
    assert convert(guest, "10", platform_of("libvirt"), pack_index("virtio", folder)).registry == ()


def test_without_its_file_a_driver_is_never_started(tmp_path: Path) -> None:
    """XP keeps what it does not use in driver.cab: a started driver without a file stops it with 0x7B."""
    guest = guest_tree("xp", tmp_path)
    guest.remove("/WINDOWS/system32/drivers/symmpi.sys")
    conversion = convert(guest, "xp", platform_of("vmware"))
    assert conversion.disk_bus is DiskBus.IDE
    assert any("driver.cab" in warning and "symmpi.sys" in warning for warning in conversion.warnings)
    key = read_key(hive(guest), "ControlSet001\\Services\\symmpi")
    assert key is not None
    assert key.values["start"] == 4


def test_no_bus_at_all_is_refused_and_nothing_written(tmp_path: Path) -> None:
    guest = guest_tree("xp", tmp_path)
    for name in ("symmpi", "atapi"):
        guest.remove(f"/WINDOWS/system32/drivers/{name}.sys")
    with pytest.raises(GuestError, match=r"atapi\.sys") as refused:
        convert(guest, "xp", platform_of("vmware"))
    assert "--drivers" in (refused.value.hint or "")
    assert not files_that_differ(guests.tree("xp"), guest.root) - {
        "WINDOWS/system32/drivers/symmpi.sys",
        "WINDOWS/system32/drivers/atapi.sys",
    }


def test_a_driver_that_the_guest_has_bound_already_needs_no_pack(folder: Path, tmp_path: Path) -> None:
    guest = guest_tree("10", tmp_path)
    convert(guest, "10", platform_of("libvirt"), pack_index("virtio", folder))
    conversion = convert(guest, "10", platform_of("libvirt"))
    assert conversion.disk_bus is DiskBus.VIRTIO_BLK
    # …but one that VMware's tools only staged, as in the real hive, is none.
    assert convert(guest_tree("2025", tmp_path), "2025", platform_of("vmware")).disk_bus is DiskBus.LSI_SAS


def test_a_package_gets_the_next_number_and_its_bit(folder: Path, tmp_path: Path) -> None:
    """The real hive has oem0 to oem8, and `ff 80` for them."""
    guest = guest_tree("10", tmp_path)
    guest.write("/Windows/inf/OEM9.INF", b"of a driver that was never bound")
    convert(guest, "10", platform_of("libvirt"), pack_index("virtio", folder))
    database = read_key(hive(guest), "DriverDatabase")
    assert database is not None
    assert bytes(database.values["oeminfmap"]) == b"\xff\xa0"
    assert guest.read("/Windows/inf/oem10.inf") == guest.read("/Windows/Drivers/p2v/viostor/viostor.inf")
    inf = read_key(hive(guest), "DriverDatabase\\DriverInfFiles\\oem10.inf")
    assert inf is not None
    label = inf.values["active"]
    assert label.startswith("viostor.inf_amd64_")
    assert guest.exists(f"/Windows/System32/DriverStore/FileRepository/{label}/viostor.sys")


def test_the_version_of_a_package_is_written_as_windows_does(folder: Path, tmp_path: Path) -> None:
    """The real hive's own entry of this very driver: VMware pvscsi 1.3.17.0, as pnputil wrote it."""
    guest = guest_tree("10", tmp_path)
    convert(guest, "10", platform_of("vmware"), pack_index("vmware", folder))
    real = read_key(hive(guest), "DriverDatabase\\DriverPackages\\pvscsi.inf_amd64_9e7bfe6e33172952")
    inf = read_key(hive(guest), "DriverDatabase\\DriverInfFiles\\oem9.inf")
    assert real is not None
    assert inf is not None
    ours = read_key(hive(guest), f"DriverDatabase\\DriverPackages\\{inf.values['active']}")
    assert ours is not None
    one, other = bytes(real.values["version"]), bytes(ours.values["version"])
    assert (one[:24], one[32:]) == (other[:24], other[32:])  # between them is the date, another one here
    assert real.values.keys() - ours.values.keys() == {"oempath", "signername", "importdate"}


def test_windows_that_a_pack_has_nothing_for(folder: Path, tmp_path: Path) -> None:
    """An x86 XP and a pack of x64 drivers."""
    guest = guest_tree("xp", tmp_path)
    conversion = convert(guest, "xp", platform_of("vmware"), pack_index("vmware", folder))
    assert conversion.disk_bus is DiskBus.LSI_LOGIC
    assert any("pvscsi" in warning for warning in conversion.warnings)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (programs.unsigned(Architecture.X86), "is for x86, not for amd64"),
        (programs.unsigned(Architecture.AMD64), "not signed"),
    ],
    ids=["x86", "unsigned"],
)
def test_a_driver_that_windows_would_not_load_is_not_put_in(
    program: bytes, said: str, tmp_path: Path
) -> None:
    folder = packs.virtio(tmp_path / "pack", programs.bare)
    for path in folder.glob("viostor/w10/amd64/*"):
        if path.suffix == ".sys":
            path.write_bytes(program)
        elif path.suffix == ".inf":
            path.write_text(path.read_text().replace("CatalogFile", "; CatalogFile"))
    for other in (folder / "vioscsi", *folder.glob("viostor/*/amd64")):
        if other.parent.name != "w10":
            shutil.rmtree(other)  # those for x86 stay: they are not the reason
    guest = guest_tree("10", tmp_path)
    conversion = convert(guest, "10", platform_of("libvirt"), read_index(folder))
    assert conversion.disk_bus is DiskBus.SATA
    assert any(said in warning for warning in conversion.warnings)
    assert read_key(hive(guest), "ControlSet001\\Services\\viostor") is None


def test_a_full_volume_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    guest = guest_tree("10", tmp_path)
    guest.free = 4 << 20
    with pytest.raises(GuestError, match="MiB free"):
        convert(guest, "10", platform_of("libvirt"), pack_index("virtio", folder))
    assert not files_that_differ(guests.tree("10"), guest.root)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"drop": ("Select",)}, "does not say which set"),
        ({"drop": ("ControlSet001",)}, "no set of controls"),
        ({"set": ("Select", 7)}, "ControlSet007"),
    ],
    ids=["no Select", "no control set", "Select leads nowhere"],
)
def test_hives_that_lack_what_a_windows_needs(
    damage: dict[str, tuple[str, int] | tuple[str]], said: str, tmp_path: Path
) -> None:
    guest = guest_tree("10", tmp_path)
    with editing(hive(guest)) as registry:
        for key in damage.get("drop", ()):
            registry.drop(str(key))
        if "set" in damage:
            registry.set("Select", Current=7, Default=7)
    before = hive(guest).read_bytes()
    with pytest.raises(GuestError, match=said):
        convert(guest, "10", platform_of("libvirt"))
    assert hive(guest).read_bytes() == before


def test_values_of_another_type_are_no_reason_to_stop(tmp_path: Path) -> None:
    guest = guest_tree("10", tmp_path)
    with editing(hive(guest)) as registry:
        registry.set("ControlSet001\\Services\\iaStorV", Start="zero", ImagePath=b"\xff" * 40)
        registry.set("ControlSet001\\Services\\bttflt", Type="one")
        registry.set("ControlSet001\\Services\\storahci", ImagePath=["a", "b"])
    assert convert(guest, "10", platform_of("hyperv")).disk_bus is DiskBus.IDE


def by_place(changes: Iterable[RegistryChange]) -> dict[tuple[str, str | None], RegistryChange]:
    return {(change.key, change.name): change for change in changes}


def test_what_a_receipt_says_of_a_value(tmp_path: Path) -> None:
    conversion = convert(guest_tree("7", tmp_path), "7", platform_of("libvirt"))
    said = by_place(conversion.registry)["ControlSet002\\Services\\msahci", "Start"]
    assert (said.kind, said.before, said.after) == (ChangeKind.EDITED, "dword:00000003", "dword:00000000")
    assert said.hive == "/Windows/System32/config/SYSTEM"
    conversion = convert(guest_tree("10", tmp_path), "10", platform_of("hyperv"))
    said = by_place(conversion.registry)["ControlSet001\\Services\\vmbus\\StartOverride", "0"]
    assert (said.kind, said.before, said.after) == (ChangeKind.REMOVED, "dword:00000003", "")


def test_the_guests_are_what_they_say() -> None:
    assert {spec.name for spec in GUESTS.values()} == {"xp", "7", "10", "2019", "2025"}
    for spec in GUESTS.values():
        assert machine(spec).os
