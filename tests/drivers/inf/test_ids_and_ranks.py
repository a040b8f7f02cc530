"""Ids of PCI functions as a real registry has them, and the ranks of the documentation."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date

import pytest

from drivers.inf.hints import closeness
from drivers.inf.ids import PciFunction
from drivers.inf.model import (
    Architecture,
    Descriptor,
    DeviceIds,
    DriverPackage,
    Encoding,
    IdKind,
    InstallSection,
    Match,
    Place,
    Service,
    Windows,
)
from drivers.inf.ranking import choose, identifier_score, rank
from fixtures.windows.real import system_hive
from p2v.model import ProductType

TEN = Windows(10, 0, 19041, Architecture.AMD64)
SEVEN = Windows(6, 1, 7601, Architecture.AMD64)
NVME = PciFunction(0x15AD, 0x07F0, 0x15AD, 0x07F0, 0, 0x010802, express=0)
IDS = DeviceIds(("h0", "h1", "h2"), ("c0", "c1", "c2"))


class TestPciIds:
    def test_of_a_function_without_express(self) -> None:
        """The display adapter of VMware, as Windows 10 recorded it in Enum\\PCI."""
        assert PciFunction(0x15AD, 0x0405, 0x15AD, 0x0405, 0, 0x030000).ids() == DeviceIds(
            (
                "PCI\\VEN_15AD&DEV_0405&SUBSYS_040515AD&REV_00",
                "PCI\\VEN_15AD&DEV_0405&SUBSYS_040515AD",
                "PCI\\VEN_15AD&DEV_0405&CC_030000",
                "PCI\\VEN_15AD&DEV_0405&CC_0300",
            ),
            (
                "PCI\\VEN_15AD&DEV_0405&REV_00",
                "PCI\\VEN_15AD&DEV_0405",
                "PCI\\VEN_15AD&CC_030000",
                "PCI\\VEN_15AD&CC_0300",
                "PCI\\VEN_15AD",
                "PCI\\CC_030000",
                "PCI\\CC_0300",
            ),
        )

    def test_of_an_express_function(self) -> None:
        assert NVME.ids().compatible[5:] == (
            "PCI\\CC_010802&DT_0",
            "PCI\\CC_010802",
            "PCI\\CC_0108&DT_0",
            "PCI\\CC_0108",
        )

    def test_subsystem_is_written_before_its_vendor(self) -> None:
        assert "SUBSYS_1F491028" in PciFunction(0x1000, 0x5D, 0x1028, 0x1F49, 2, 0x010400).ids().hardware[0]

    def test_of_a_bridge_without_subsystem(self) -> None:
        """The AGP bridge of VMware's board, as the same Windows recorded it."""
        ids = PciFunction(0x8086, 0x7191, 0, 0, 1, 0x060400).ids(TEN)
        assert ids.hardware[2:4] == ("PCI\\VEN_8086&DEV_7191&REV_01", "PCI\\VEN_8086&DEV_7191")
        assert ids.compatible[0] == "PCI\\VEN_8086&CC_060400"

    def test_before_windows_10_plain_ids_were_hardware_ids(self) -> None:
        """ "Identifiers for PCI Devices": their order is the same."""
        old, new = NVME.ids(SEVEN), NVME.ids(TEN)
        assert (
            old.hardware[2:4]
            == new.compatible[:2]
            == ("PCI\\VEN_15AD&DEV_07F0&REV_00", "PCI\\VEN_15AD&DEV_07F0")
        )
        assert old.hardware[4:] == new.hardware[2:]
        assert old.compatible == new.compatible[2:]


def descriptor(device_id: str, kind: IdKind, position: int = 0) -> Descriptor:
    return Descriptor(device_id, kind, position, "I", "I", "", "")


@pytest.mark.parametrize(
    ("device_id", "kind", "position", "score"),
    [
        ("H0", IdKind.HARDWARE, 0, 0x0000),
        ("h2", IdKind.HARDWARE, 0, 0x0002),
        ("h1", IdKind.COMPATIBLE, 3, 0x1001),
        ("c2", IdKind.HARDWARE, 0, 0x2002),
        ("c1", IdKind.COMPATIBLE, 2, 0x3201),
        ("other", IdKind.HARDWARE, 0, None),
    ],
)
def test_identifier_scores(device_id: str, kind: IdKind, position: int, score: int | None) -> None:
    assert identifier_score(IDS, descriptor(device_id, kind, position)) == score


def test_positions_beyond_three_digits_do_not_make_another_kind() -> None:
    assert identifier_score(IDS, descriptor("c1", IdKind.COMPATIBLE, 40)) == 0x3FFF


def service(start: int) -> Service:
    return Service("x", True, 1, start, 1, Place(12, "", "x.sys"))


def match(inf: str = "a/x.inf", *, of: int = 0, start: int = 0, **changed: object) -> Match:
    """A match of rank `of`, with everything alike but for what is changed."""
    install = InstallSection("I", "I", (service(start),), ())
    package = DriverPackage(
        inf=inf,
        sha256="",
        encoding=Encoding.UTF8,
        class_name="SCSIAdapter",
        class_guid="{4d36e97b-e325-11ce-bfc1-08002be10318}",
        provider="",
        date=date(2020, 1, 1),
        version=(1, 0, 0, 0),
        architecture=Architecture.AMD64,
        decoration="NTamd64.10.0",
        catalog="x.cat",
        descriptors=(),
        installs=(install,),
        contents=(),
        strings=(),
    )
    return Match(replace(package, **changed), descriptor("h0", IdKind.HARDWARE), install, of)  # type: ignore[arg-type]


def better(one: Match, other: Match, windows: Windows = TEN) -> bool:
    """Whether the first is chosen, in whichever order they come."""
    chosen = {choose(each, windows).package.inf for each in ([one, other], [other, one])}
    assert len(chosen) == 1
    return chosen == {one.package.inf}


class TestChoice:
    def test_the_rank_counts_first(self) -> None:
        assert better(
            match("a.inf", of=1, date=date(2000, 1, 1)), match("b.inf", of=2, date=date(2030, 1, 1))
        )

    def test_then_a_driver_of_the_boot_where_it_is_for_storage(self) -> None:
        assert better(match("z.inf", start=0), match("a.inf", start=3, date=date(2030, 1, 1)))

    def test_for_a_network_card_it_does_not_matter(self) -> None:
        net = "{4d36e972-e325-11ce-bfc1-08002be10318}"
        late = match("z.inf", start=3, class_guid=net, date=date(2030, 1, 1))
        assert better(late, match("a.inf", start=0, class_guid=net))

    def test_then_the_date_then_the_version(self) -> None:
        assert better(match("z.inf", date=date(2021, 1, 1)), match("a.inf", version=(9, 0, 0, 0)))
        assert better(match("z.inf", version=(1, 0, 0, 10)), match("a.inf", version=(1, 0, 0, 9)))

    def test_then_the_nearest_decoration(self) -> None:
        assert better(match("z.inf"), match("a.inf", decoration="NTamd64.6.1"))
        assert better(match("z.inf", decoration="NTamd64.6.1"), match("a.inf", decoration=""))

    def test_of_one_name_the_folder_of_that_windows_comes_before_a_newer_version(self) -> None:
        mine = match("viostor/w8.1/amd64/viostor.inf", version=(63, 85, 0, 0))
        newer = match("viostor/w10/amd64/viostor.inf", version=(100, 85, 0, 0))
        blue = Windows(6, 3, 9600, Architecture.AMD64)
        assert better(mine, newer, blue)
        assert better(newer, mine, TEN)

    def test_folders_decide_nothing_between_other_names_or_ranks(self) -> None:
        assert better(match("w7/b.inf", version=(2, 0, 0, 0)), match("w10/a.inf"))
        assert better(match("w7/a.inf", of=1), match("w10/a.inf", of=2))

    def test_of_one_folder_the_newer(self) -> None:
        assert better(match("new/w10/a.inf", date=date(2021, 1, 1)), match("old/w10/a.inf"))


class TestRank:
    def test_is_composed_as_documented(self) -> None:
        one = match()
        assert rank(one.package, one.install, 0x2001) == 0x00FF2001
        assert rank(one.package, replace(one.install, feature_score=0x80), 0x3201) == 0x00803201

    def test_a_catalogue_is_better_than_none_and_a_platform_section_better_than_a_plain_one(self) -> None:
        one = match(catalog="")
        suffixed = replace(one.install, actual="I.NTamd64")
        ranks = [
            rank(match().package, one.install, 5),
            rank(one.package, suffixed, 0),
            rank(one.package, one.install, 0),
        ]
        assert ranks == sorted(ranks)
        assert len(set(ranks)) == 3


SERVERS = {14393: "2k16", 17134: "2k16", 17763: "2k19", 20348: "2k22", 26100: "2k25", 30000: "2k25"}
CLIENTS = {
    (5, 1, 2600): "xp",
    (6, 0, 6002): "2k8",
    (6, 1, 7601): "w7",
    (6, 2, 9200): "w8",
    (6, 3, 9600): "w8.1",
    (10, 0, 19045): "w10",
    (10, 0, 22000): "w11",
}


class TestHints:
    @pytest.mark.parametrize(("build", "folder"), SERVERS.items())
    def test_servers(self, build: int, folder: str) -> None:
        server = Windows(10, 0, build, Architecture.AMD64, ProductType.SERVER)
        assert [name for name in ("w10", "w11", *SERVERS.values()) if self.fits(name, server)] == [
            name for name in SERVERS.values() if name == folder
        ]

    @pytest.mark.parametrize(("version", "folder"), CLIENTS.items())
    def test_clients(self, version: tuple[int, int, int], folder: str) -> None:
        client = Windows(*version, Architecture.AMD64)
        assert [name for name in (*CLIENTS.values(), "2k12", "2k22") if self.fits(name, client)] == [folder]

    def test_the_layouts_of_virtio_win(self) -> None:
        for path in (
            "viostor/w10/amd64/v.inf",
            "amd64/w10/v.inf",
            "drivers/by-os/amd64/W10/v.inf",
            "pvscsi/Win10/amd64/v.inf",
        ):
            assert closeness(path, TEN)[0] == 0

    def test_own_then_unknown_then_older_nearest_first_then_newer(self) -> None:
        server = Windows(10, 0, 20348, Architecture.AMD64, ProductType.SERVER)
        order = ["2k22/a", "b/a", "2k19/a", "2k16/a", "w10/a", "2k12R2/a", "2k25/a"]
        assert sorted(set(order), key=lambda path: closeness(path, server)) == order

    def test_the_name_of_a_file_is_no_hint(self) -> None:
        assert closeness("w10", TEN)[0] == 1

    @staticmethod
    def fits(folder: str, windows: Windows) -> bool:
        return closeness(f"{folder}/x.inf", windows)[0] == 0


@pytest.mark.tools
def test_ids_of_every_pci_device_that_a_windows_10_recorded() -> None:
    """Made by pci.sys, read by hivex: each list rebuilt from the fields that it shows."""
    hivex = pytest.importorskip("hivex")
    hive = hivex.Hivex(str(system_hive()))
    key = hive.root()
    for name in ("ControlSet001", "Enum", "PCI"):
        key = hive.node_get_child(key, name)
    seen = 0
    for instance in (one for device in hive.node_children(key) for one in hive.node_children(device)):
        lists = {hive.value_key(value): value for value in hive.node_values(instance)}
        hardware, compatible = (
            tuple(filter(None, hive.value_multiple_strings(lists[name])))
            for name in ("HardwareID", "CompatibleIDs")
        )
        assert function_of(hardware, compatible).ids() == DeviceIds(hardware, compatible)
        seen += 1
    assert seen > 10


def function_of(hardware: tuple[str, ...], compatible: tuple[str, ...]) -> PciFunction:
    """The fields of a PCI function from the most specific of its ids, its class and its port type."""
    found = re.fullmatch(r"PCI\\VEN_(\w{4})&DEV_(\w{4})&SUBSYS_(\w{4})(\w{4})&REV_(\w\w)", hardware[0])
    assert found
    vendor, device, subsystem, maker, revision = (int(word, 16) for word in found.groups())
    ports = {int(each.partition("&DT_")[2], 16) for each in compatible if "&DT_" in each}
    code = next(int(each[-6:], 16) for each in hardware if "&CC_" in each)
    return PciFunction(vendor, device, maker, subsystem, revision, code, next(iter(ports), None))
