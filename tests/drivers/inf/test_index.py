"""The index of a pack: what it finds for a device, in the layouts of real packs, and what it refuses."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from drivers.inf import index as index_module
from drivers.inf.ids import PciFunction
from drivers.inf.index import DriverIndex, best, packages, read_index
from drivers.inf.model import Architecture, DeviceIds, Encoding, Match, NoMatch, Windows
from drivers.inf.text import InfError, Sections, parse
from fixtures.windows import packs
from fixtures.windows.programs import bare
from p2v.errors import UsageError
from p2v.model import ProductType, WindowsSystem
from tests.drivers.inf.packs import DEVICE, TEN, WHOLE, found, pack, reason, rejection

AMD64, X86 = Architecture.AMD64, Architecture.X86
SERVER = ProductType.SERVER

VIRTIO_BLK = PciFunction(0x1AF4, 0x1001, 0x1AF4, 0x0002, 0, 0x010000)
VIRTIO_BLK_MODERN = PciFunction(0x1AF4, 0x1042, 0x1AF4, 0x1100, 1, 0x010000, express=0)
VIRTIO_SCSI_OTHER_BOARD = PciFunction(0x1AF4, 0x1004, 0x108E, 0x0008, 0, 0x010000)
VIRTIO_NET = PciFunction(0x1AF4, 0x1000, 0x1AF4, 0x0001, 0, 0x020000)
PVSCSI = PciFunction(0x15AD, 0x07C0, 0x15AD, 0x07C0, 2, 0x010700, express=0)
RAID = PciFunction(0x1000, 0x005D, 0x1028, 0x1F49, 2, 0x010400, express=0)


@pytest.fixture(scope="module")
def virtio(tmp_path_factory: pytest.TempPathFactory) -> DriverIndex:
    return read_index(packs.virtio(tmp_path_factory.mktemp("virtio"), bare))


def match(index: DriverIndex, windows: Windows, function: PciFunction) -> Match:
    outcome = best(index, windows, function.ids(windows))
    assert isinstance(outcome, Match), outcome
    return outcome


class TestVirtioWin:
    @pytest.mark.parametrize(
        ("windows", "folder"),
        [
            (Windows(5, 1, 2600, X86), "xp/x86"),
            (Windows(6, 1, 7601, X86), "w7/x86"),
            (Windows(6, 1, 7601, AMD64), "w7/amd64"),
            (Windows(6, 1, 7601, AMD64, SERVER), "2k8R2/amd64"),
            (Windows(6, 3, 9600, AMD64), "w8.1/amd64"),
            (TEN, "w10/amd64"),
            (Windows(10, 0, 22631, AMD64), "w11/amd64"),
            (Windows(10, 0, 14393, AMD64, SERVER), "2k16/amd64"),
            (Windows(10, 0, 17763, AMD64, SERVER), "2k19/amd64"),
            (Windows(10, 0, 26100, AMD64, SERVER), "2k25/amd64"),
        ],
        ids=str,
    )
    def test_each_windows_gets_the_build_for_it(
        self, virtio: DriverIndex, windows: Windows, folder: str
    ) -> None:
        assert match(virtio, windows, VIRTIO_BLK).package.inf == f"viostor/{folder}/viostor.inf"

    def test_what_the_registry_gets(self, virtio: DriverIndex) -> None:
        """As the reference has it of the real driver: SCSI miniport, PCI interface, bus type 1."""
        service = match(virtio, TEN, VIRTIO_BLK_MODERN).install.function_driver
        assert service is not None
        assert (service.name, service.start, service.group) == ("viostor", 0, "SCSI miniport")
        assert service.binary.windows_path == "System32\\drivers\\viostor.sys"
        assert {(each.key, each.name): each.data for each in service.values} == {
            ("Parameters\\PnpInterface", "5"): b"\1\0\0\0",
            ("Parameters", "BusType"): b"\1\0\0\0",
        }

    def test_a_board_of_another_vendor_is_known_by_its_model(self, virtio: DriverIndex) -> None:
        found = match(virtio, TEN, VIRTIO_SCSI_OTHER_BOARD)
        assert found.descriptor.device_id == "PCI\\VEN_1AF4&DEV_1004"
        assert found.rank & 0xF000 == 0x3000

    def test_all_that_it_has_for_one_windows(self, virtio: DriverIndex) -> None:
        there = packages(virtio, TEN)
        assert sorted(each.inf for each in there.usable) == [
            "Balloon/w10/amd64/balloon.inf",
            "NetKVM/w10/amd64/netkvm.inf",
            "vioscsi/w10/amd64/vioscsi.inf",
            "viostor/w10/amd64/viostor.inf",
        ]
        assert {each.reason for each in there.refused if "/x86/" in each.path} == {
            "it has no driver for amd64, only for x86"
        }

    def test_without_the_build_for_it_the_nearest_older_one_serves(self, tmp_path: Path) -> None:
        packs.virtio(tmp_path, bare, packs.VIRTIO[:1])
        for folder in ("w10", "w11", "2k22", "2k25"):
            (tmp_path / "viostor" / folder).rename(tmp_path / folder)
            for file in (tmp_path / folder).rglob("*.*"):
                file.unlink()
        found = match(read_index(tmp_path), Windows(10, 0, 20348, AMD64, SERVER), VIRTIO_BLK)
        assert found.package.inf == "viostor/2k19/amd64/viostor.inf"

    def test_names_of_folders_do_not_let_in_what_the_inf_excludes(self, tmp_path: Path) -> None:
        packs.virtio(tmp_path, bare, packs.VIRTIO[:1])
        viostor = tmp_path / "viostor"
        (viostor / "w7").rename(viostor / "away")
        (viostor / "w10").rename(viostor / "w7")
        seven = Windows(6, 1, 7601, AMD64)
        assert match(read_index(tmp_path), seven, VIRTIO_BLK).package.inf == "viostor/away/amd64/viostor.inf"


class TestOtherPacks:
    def test_vmware_in_utf_16(self, tmp_path: Path) -> None:
        index = read_index(packs.vmware(tmp_path, bare))
        found = match(index, TEN, PVSCSI)
        assert found.package.encoding is Encoding.UTF16_LE
        assert found.package.version == (1, 3, 17, 0)
        assert isinstance(best(index, Windows(6, 1, 7601, AMD64), PVSCSI.ids()), NoMatch)

    @pytest.mark.parametrize("windows", [TEN, Windows(6, 1, 7601, X86)], ids=str)
    def test_a_raid_controller_of_metal(self, tmp_path: Path, windows: Windows) -> None:
        found = match(read_index(packs.metal(tmp_path, bare)), windows, RAID)
        assert found.descriptor.device_id == "PCI\\VEN_1000&DEV_005D&SUBSYS_1F491028"
        assert [file.source for file in found.install.files] == [
            f"raid/{windows.architecture}/examplesas.sys"
        ]

    def test_packs_of_several_vendors_in_one_folder(self, tmp_path: Path) -> None:
        packs.virtio(tmp_path / "one", bare, packs.VIRTIO[2:3])
        packs.metal(packs.vmware(tmp_path / "two", bare), bare)
        index = read_index(tmp_path)
        assert not index.rejected
        names = [match(index, TEN, each).package.name for each in (VIRTIO_NET, PVSCSI, RAID)]
        assert names == ["netkvm.inf", "pvscsi.inf", "examplesas.inf"]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "cp1252"])
    def test_text_of_other_languages_in_every_encoding(self, tmp_path: Path, encoding: str) -> None:
        marks = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
        text = WHOLE.replace("Name = A device", 'Name = "Gerät für Größe"')
        pack(tmp_path, marks.get(encoding, b"") + text.replace("\n", "\r\n").encode(encoding))
        package = found(tmp_path).package
        assert package.string("%Name%") == "Gerät für Größe"
        assert package.encoding == encoding


class TestReasons:
    def test_a_device_that_no_inf_knows(self, tmp_path: Path) -> None:
        pack(tmp_path)
        said = reason(tmp_path, device=DeviceIds(("PCI\\VEN_DEAD&DEV_BEEF",)))
        assert said == f"none of the 1 INF files below {tmp_path} knows PCI\\VEN_DEAD&DEV_BEEF"

    def test_files_that_cannot_be_read_are_mentioned(self, tmp_path: Path) -> None:
        pack(tmp_path, b_inf=b"[Version", a_inf=b"")
        outcome = best(read_index(tmp_path), TEN, DEVICE)
        assert isinstance(outcome, NoMatch)
        assert outcome.reasons[-1].startswith("2 INF files cannot be read; a.inf: its signature is ''")

    def test_an_extension_is_no_driver(self, tmp_path: Path) -> None:
        extended = WHOLE.replace("Class = SCSIAdapter", "ExtensionId = {AA}\nClass = Extension")
        pack(tmp_path, extended)
        assert reason(tmp_path) == "a.inf: it extends another driver, and drives nothing itself"
        assert [each.name for each in packages(read_index(tmp_path), TEN).usable] == ["a.inf"]

    def test_a_device_that_only_another_windows_may_have(self, tmp_path: Path) -> None:
        text = WHOLE.replace("NTamd64\n", "NTamd64,NTamd64.10.0\n", 1)
        pack(tmp_path, text + "[Devices.NTamd64.10.0]\nOther = Install,PCI\\OTHER")
        assert reason(tmp_path) == f"a.inf: it knows the device, but not on {TEN}"

    def test_reasons_are_few(self, tmp_path: Path) -> None:
        for number in range(30):
            pack(tmp_path / f"{number}", a_sys=bare(X86))
        outcome = best(read_index(tmp_path), TEN, DEVICE)
        assert isinstance(outcome, NoMatch)
        assert len(outcome.reasons) == 11
        assert outcome.reasons[-1] == "and 20 more INF files that know the device"


class TestRejected:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[autorun]\nopen=setup.exe", "its signature is ''"),
            ("[Version]\nSignature=$Chicago$\nClass=Net", "no [Manufacturer]"),
            ("[Version]\nSignature=$Chicago$\nClass=Toys\n[Manufacturer]", "no class of devices"),
            ("PK\x03\x04", "does not begin with a section"),
        ],
    )
    def test_files_that_are_no_drivers(self, tmp_path: Path, text: str, reason: str) -> None:
        pack(tmp_path, text)
        assert reason in rejection(tmp_path)

    def test_a_file_that_is_too_large_is_not_read_whole(self, tmp_path: Path) -> None:
        pack(tmp_path)
        with (tmp_path / "a.inf").open("wb") as file:
            file.truncate(1 << 40)  # bytes that no memory holds
        assert "INF files end at" in rejection(tmp_path)

    def test_links_to_inf_files_are_none(self, tmp_path: Path) -> None:
        pack(tmp_path / "out")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.inf").symlink_to(tmp_path / "out" / "a.inf")
        index = read_index(tmp_path / "in")
        assert (index.files, index.rejected) == ((), ())


class TestFolders:
    def test_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "nowhere"):
            with pytest.raises(UsageError, match="no folder of drivers"):
                read_index(path)

    def test_with_too_many_inf_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(4):
            (tmp_path / f"{number}.INF").touch()
        monkeypatch.setattr(index_module, "INF_LIMIT", 4)
        assert len(read_index(tmp_path).rejected) == 4
        monkeypatch.setattr(index_module, "INF_LIMIT", 3)
        with pytest.raises(UsageError, match="more than 3 INF files"):
            read_index(tmp_path)

    def test_with_too_much_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pack(tmp_path)
        monkeypatch.setattr(index_module, "TEXT_LIMIT", 10)
        with pytest.raises(UsageError, match="MiB"):
            read_index(tmp_path)

    def test_an_inf_that_is_there_twice_is_parsed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "two"):
            pack(tmp_path / name)
        parsed: list[bytes] = []

        def counted(data: bytes) -> Sections:
            parsed.append(data)
            return parse(data)

        monkeypatch.setattr(index_module, "parse", counted)
        assert [file.path for file in read_index(tmp_path).files] == ["one/a.inf", "two/a.inf"]
        assert len(parsed) == 1


class TestWindows:
    def test_from_what_a_probe_saw(self) -> None:
        seen = WindowsSystem(10, 0, 20348, SERVER)
        assert Windows.of(seen, "x86_64") == Windows(10, 0, 20348, AMD64, SERVER)
        assert Windows.of(seen, "i686") == Windows(10, 0, 20348, X86, SERVER)
        assert Windows.of(seen, "ppc64le") is None


def test_damage_is_an_error_that_the_user_can_act_on() -> None:
    assert issubclass(InfError, UsageError)
