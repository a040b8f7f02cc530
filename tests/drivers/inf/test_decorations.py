"""TargetOS decorations and Models sections, by the examples of Microsoft's documentation."""

from __future__ import annotations

import pytest

from drivers.inf.decorations import Decoration, choose, parse_decoration
from drivers.inf.model import Architecture, IdKind, Windows
from drivers.inf.models import MAKER_LIMIT, Model, decorated_sections, every_id, makers, models
from drivers.inf.strings import Inf, with_strings
from drivers.inf.text import InfError, parse
from p2v.model import ProductType

DATACENTER = 0x80
"""VER_SUITE_DATACENTER, winnt.h."""

XP = Windows(5, 1, 2600, Architecture.X86)
VISTA = Windows(6, 0, 6002, Architecture.X86)
SEVEN = Windows(6, 1, 7601, Architecture.AMD64)
TEN_RTM = Windows(10, 0, 10240, Architecture.AMD64)
TEN = Windows(10, 0, 19041, Architecture.AMD64)
SERVER = Windows(10, 0, 17763, Architecture.AMD64, ProductType.SERVER)


def chosen(decorations: str, windows: Windows) -> str | None:
    found = choose(decorations.split(","), windows)
    return found.text if found else None


@pytest.mark.parametrize(
    ("text", "decoration"),
    [
        ("NT", Decoration("NT")),
        ("NTx86", Decoration("NTx86", Architecture.X86)),
        ("ntAMD64.6.1", Decoration("ntAMD64.6.1", Architecture.AMD64, 6, 1)),
        ("NT.7.8", Decoration("NT.7.8", None, 7, 8)),
        ("NTamd64.10.0...14393", Decoration("NTamd64.10.0...14393", Architecture.AMD64, 10, 0, build=14393)),
        ("NTx86....0x80", Decoration("NTx86....0x80", Architecture.X86, suites=DATACENTER)),
        ("NTx86.0x5.0x1.0x3", Decoration("NTx86.0x5.0x1.0x3", Architecture.X86, 5, 1, 3)),
        (
            "NTarm64.10.0.1..16299",
            Decoration("NTarm64.10.0.1..16299", Architecture.ARM64, 10, 0, 1, build=16299),
        ),
    ],
)
def test_decorations_are_read(text: str, decoration: Decoration) -> None:
    assert parse_decoration(text) == decoration


@pytest.mark.parametrize("text", ["", "x86", "NTmips", "NT.five", "NTx86.1.2.3.4.5.6", "NT.-"])
def test_what_windows_does_not_know_is_passed_over(text: str) -> None:
    assert parse_decoration(text) is None


@pytest.mark.parametrize(
    ("decorations", "windows", "section"),
    [
        # "INF Manufacturer Section": a version weighs more than product and suite.
        ("NT,NT.5,NT.5.5,NT....0x80", XP, "NT.5"),
        ("NT,NT.5,NT.5.5,NT....0x80", Windows(5, 1, 2600, Architecture.X86, suites=DATACENTER), "NT.5"),
        ("NTx86....0x80,NTamd64", Windows(5, 1, 2600, Architecture.X86, suites=DATACENTER), "NTx86....0x80"),
        ("NTx86....0x80,NTamd64", XP, None),
        ("NTx86....0x80,NTamd64", SEVEN, "NTamd64"),
        # NT.7.8 is for 7.8 and later; earlier ones take NT.
        ("NT,NT.7.8", Windows(7, 9, 0, Architecture.X86), "NT.7.8"),
        ("NT,NT.7.8", XP, "NT"),
        # Example 3: builds count within a version only.
        ("NTamd64.6.1,NTamd64.10.0,NTamd64.10.0...14393", SEVEN, "NTamd64.6.1"),
        ("NTamd64.6.1,NTamd64.10.0,NTamd64.10.0...14393", TEN_RTM, "NTamd64.10.0"),
        ("NTamd64.6.1,NTamd64.10.0,NTamd64.10.0...14393", TEN, "NTamd64.10.0...14393"),
        ("NTamd64.10.0...14393", Windows(11, 0, 1, Architecture.AMD64), "NTamd64.10.0...14393"),
        ("NTamd64.10.0...14393", TEN_RTM, None),
        # Highest version not above the target's.
        ("NTamd64.6.3,NTamd64.6.1,NTamd64.10.0", Windows(6, 2, 9200, Architecture.AMD64), "NTamd64.6.1"),
        # Product types.
        ("NTamd64.10.0.1,NTamd64.10.0.3", SERVER, "NTamd64.10.0.3"),
        ("NTamd64.10.0,NTamd64.10.0.3", SERVER, "NTamd64.10.0.3"),
        ("NTamd64.10.0.1", SERVER, None),
        ("NTamd64.10.0.2", SERVER, None),
        ("NTamd64.6.1.3,NTamd64.10.0", SERVER, "NTamd64.10.0"),
        # What is not for x86 must say so.
        ("NT.6.1", SEVEN, None),
        ("NT.5.1,NTx86.5.1", XP, "NTx86.5.1"),
        ("NTx86", SEVEN, None),
    ],
)
def test_choice_of_the_documentation(decorations: str, windows: Windows, section: str | None) -> None:
    assert chosen(decorations, windows) == section


def inf(text: str) -> Inf:
    return with_strings(parse(text.encode()))


def sections(text: str, windows: Windows) -> list[str]:
    return [decoration for _, decoration in decorated_sections(inf(text), windows)]


EXAMPLE_1 = (
    "[Manufacturer]\n%MyName% = MyName,NTx86.5.1\n"
    "[MyName]\na=InstallA,hwid\n[MyName.NTx86.5.1]\na=InstallB,hwid"
)
EXAMPLE_2 = (
    "[Manufacturer]\n%MyName% = MyName,NTx86.6.0,NTx86.5.1,\n[MyName.NTx86.6.0] ; empty\n"
    "[MyName.NTx86.5.1]\na=InstallB,hwid\n[MyName]"
)


class TestModelsSections:
    def test_example_1_of_the_documentation(self) -> None:
        assert sections(EXAMPLE_1, XP) == ["NTx86.5.1"]
        assert sections(EXAMPLE_1, Windows(5, 0, 2195, Architecture.X86)) == [""]
        assert sections(EXAMPLE_1, SEVEN) == []

    def test_example_2_an_empty_section_excludes(self) -> None:
        text = inf(EXAMPLE_2)
        ((maker, decoration),) = decorated_sections(text, VISTA)
        assert decoration == "NTx86.6.0"
        assert list(models(text, maker, decoration)) == []
        assert sections(EXAMPLE_2, XP) == ["NTx86.5.1"]

    def test_a_listed_section_that_is_missing_excludes_as_well(self) -> None:
        text = "[Manufacturer]\na=M,NTamd64.6.1,NTamd64.10.0\n[M.NTamd64.6.1]\nx=I,hwid"
        assert sections(text, SEVEN) == ["NTamd64.6.1"]
        assert sections(text, TEN) == []

    def test_an_undecorated_section_is_for_x86(self) -> None:
        text = "[Manufacturer]\n%Mfg%=Contoso\n[Contoso]\nx=I,hwid"
        assert sections(text, VISTA) == [""]
        assert sections(text, SEVEN) == []

    def test_a_manufacturer_without_key_names_its_section(self) -> None:
        text = inf("[Manufacturer]\nContoso\n[Contoso]\nx=I,hwid")
        assert [maker.section for maker in makers(text)] == ["Contoso"]
        assert every_id(text) == {"HWID"}

    def test_the_name_of_a_section_may_be_a_token(self) -> None:
        text = "[Manufacturer]\n%M%=%M%,NTamd64\n[Vendor.NTamd64]\nx=I,hwid\n[Strings]\nM=Vendor"
        assert sections(text, SEVEN) == ["NTamd64"]

    def test_an_inf_without_manufacturer_drives_nothing(self) -> None:
        with pytest.raises(InfError, match="Manufacturer"):
            every_id(inf("[Version]\na=1"))

    def test_manufacturers_are_counted(self) -> None:
        for text in ("a=M\n" * (MAKER_LIMIT + 1), "a=M" + ",NTx86" * (MAKER_LIMIT + 1)):
            with pytest.raises(InfError, match="more than"):
                makers(inf("[Manufacturer]\n" + text))


class TestModelsLines:
    def read(self, lines: str) -> list[Model]:
        text = inf(f"[Manufacturer]\n%V%=M,NTamd64\n[M.NTamd64]\n{lines}")
        return list(models(text, makers(text)[0], "NTamd64"))

    def test_duplicate_descriptions_are_all_kept(self) -> None:
        found = self.read("%D%=A,PCI\\VEN_1\n%D%=B,PCI\\VEN_2")
        assert [(each.section, each.device_id) for each in found] == [
            ("A", "PCI\\VEN_1"),
            ("B", "PCI\\VEN_2"),
        ]
        assert {each.description for each in found} == {"%D%"}

    def test_hardware_and_compatible_ids_with_their_positions(self) -> None:
        found = self.read("%*pnp0f0c.DeviceDesc%= Ser_Inst,*PNP0F0C,SERENUM\\PNP0F0C,SERIAL_MOUSE")
        assert [(each.device_id, each.kind, each.position) for each in found] == [
            ("*PNP0F0C", IdKind.HARDWARE, 0),
            ("SERENUM\\PNP0F0C", IdKind.COMPATIBLE, 0),
            ("SERIAL_MOUSE", IdKind.COMPATIBLE, 1),
        ]

    def test_an_empty_hardware_id_leaves_compatible_ones(self) -> None:
        found = self.read("%D%=A,,PCI\\CC_0106")
        assert [(each.device_id, each.kind, each.position) for each in found] == [
            ("PCI\\CC_0106", IdKind.COMPATIBLE, 0)
        ]

    @pytest.mark.parametrize(
        "device_id",
        ["PCI\\VEN_1AF4&DEV_1001", "*PNP0501", "{4d36}\\a b", "USBPRINT\\Example (x-1)", "a" * 199],
    )
    def test_ids_of_devices(self, device_id: str) -> None:
        assert [each.device_id for each in self.read(f"%D%=A,{device_id}")] == [device_id]

    @pytest.mark.parametrize("device_id", ["a" * 200, "PCI\\\\X", "\\X", '"X\\"', "Gerät", "a\tb", '"a,b"'])
    def test_what_no_device_can_have_is_passed_over(self, device_id: str) -> None:
        assert [each.device_id for each in self.read(f"%D%=A,{device_id},OTHER")] == ["OTHER"]

    def test_an_install_section_is_one_name(self) -> None:
        with pytest.raises(InfError, match="no name of an install section"):
            self.read("%D%=A\\B,hwid")

    def test_lines_that_name_nothing_are_passed_over(self) -> None:
        assert self.read("%D%=\nnonsense\n%D%=A") == []
