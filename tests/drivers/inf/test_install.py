"""Install sections, services, and the programs that a package brings."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.inf.index import best, packages, read_index
from drivers.inf.model import (
    Architecture,
    DeviceIds,
    IdKind,
    Match,
    Place,
    RegistryRoot,
    RegistryValue,
    Service,
)
from drivers.inf.pe import HEAD, Pe, parse_pe
from drivers.inf.text import InfError
from fixtures.windows.programs import WINE, bare, marked, signed, unsigned
from p2v.command import check
from tests.conftest import need_tools
from tests.drivers.inf.packs import (
    DEVICE,
    DEVICES,
    INSTALL,
    SEVEN_32,
    TEN,
    VERSION,
    WHOLE,
    found,
    pack,
    reason,
)

AMD64 = Architecture.AMD64


class TestSections:
    @pytest.mark.parametrize(
        ("there", "taken"),
        [
            (("Install", "Install.NT", "Install.NTamd64"), "Install.ntamd64"),
            (("Install", "Install.NT", "Install.NTx86"), "Install.nt"),
            (("Install", "Install.NTx86"), "Install"),
        ],
    )
    def test_the_platform_section_counts_first(
        self, tmp_path: Path, there: tuple[str, ...], taken: str
    ) -> None:
        text = WHOLE.replace("[Install]", "".join(f"[{name}]\nx=1\n" for name in there) + f"[{taken}]")
        pack(tmp_path, text.replace("[Install.Services]", f"[{taken}.Services]"))
        match = found(tmp_path)
        assert (match.install.name, match.install.actual) == ("Install", taken)
        assert match.descriptor.actual == taken
        assert match.install.function_driver is not None

    def test_services_of_the_plain_section_are_not_those_of_a_platform_one(self, tmp_path: Path) -> None:
        """SetupAPI asks for [ACTUAL.Services] alone."""
        pack(tmp_path, WHOLE.replace("[Install]", "[Install.NT]"))
        assert reason(tmp_path) == "a.inf: [Install.nt] names no service that drives the device"

    def test_a_missing_section_is_named(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("= Install,", "= Elsewhere,"))
        assert reason(tmp_path) == "a.inf: its install section [Elsewhere] is missing"

    def test_a_sound_section_beside_a_broken_one_can_be_used(self, tmp_path: Path) -> None:
        other = "Other = Broken,PCI\\VEN_1234&DEV_0002\n"
        pack(tmp_path, VERSION + DEVICES + other + INSTALL + "[Broken]\nCopyFiles=@b.sys")
        assert found(tmp_path).descriptor.section == "Install"
        assert [each.section for each in found(tmp_path).package.descriptors] == ["Install", "Install"]
        second = DeviceIds(("PCI\\VEN_1234&DEV_0002",))
        assert reason(tmp_path, device=second) == "a.inf: b.sys is missing from the pack"

    def test_software_and_hardware_keys_includes_and_feature_score(self, tmp_path: Path) -> None:
        more = (
            "[Install]\nAddReg=S\nInclude=machine.inf\nNeeds=MSAHCI\nFeatureScore=0x80\n[S]\nHKR,,soft,,1\n"
            "[Install.HW]\nAddReg=H\n[H]\nHKR,Interrupt Management,,0x10\n"
            "[Install.Services]\nNeeds=MSAHCI.Services\n"
        )
        pack(tmp_path, WHOLE + more)
        install = found(tmp_path).install
        assert [each.name for each in install.software] == ["soft"]
        assert [each.key for each in install.hardware] == ["Interrupt Management"]
        assert (install.include, install.needs) == (("machine.inf",), ("MSAHCI", "MSAHCI.Services"))
        assert install.feature_score == 0x80
        assert found(tmp_path).rank == 0x00800000

    @pytest.mark.parametrize("score", ["xFD", "FD", "0xFD"])
    def test_feature_scores_are_hexadecimal(self, tmp_path: Path, score: str) -> None:
        """`FeatureScore=xFD` is how the documentation writes it."""
        pack(tmp_path, WHOLE + f"[Install]\nFeatureScore={score}")
        assert found(tmp_path).install.feature_score == 0xFD

    def test_devices_that_a_section_excludes(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE + "[Install]\nExcludeID=PCI\\VEN_9999,pci\\ven_1234&dev_0001")
        assert reason(tmp_path) == "a.inf: [Install] excludes the device"
        assert found(tmp_path, device=DeviceIds(("PCI\\CC_0100",))).install.excluded

    def test_a_feature_score_is_a_byte(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE + "[Install]\nFeatureScore=100")
        assert "FeatureScore is no byte" in reason(tmp_path)


class TestServices:
    def test_everything_that_a_key_of_services_has(self, tmp_path: Path) -> None:
        more = (
            "[Service]\nLoadOrderGroup = SCSI miniport\nDisplayName=%Name%\nDescription=D\n"
            "Dependencies=one,two\n"
            "AddReg=P\n[P]\nHKR,Parameters,BusType,0x10001,0xA\n[E]\nAddReg=EV\n[EV]\nHKR,,TypesSupported,0x10001,7\n"
        )
        pack(tmp_path, WHOLE.replace("= a,2,Service", "= a,0x2,Service,E") + more)
        assert found(tmp_path).install.services == (
            Service(
                name="a",
                function_driver=True,
                type=1,
                start=0,
                error_control=1,
                binary=Place(12, "", "a.sys"),
                group="SCSI miniport",
                display_name="A device",
                description="D",
                dependencies=("one", "two"),
                values=(RegistryValue(RegistryRoot.RELATIVE, "Parameters", "BusType", 4, b"\x0a\0\0\0"),),
                events=(RegistryValue(RegistryRoot.RELATIVE, "", "TypesSupported", 4, b"\7\0\0\0"),),
            ),
        )

    def test_a_null_driver_is_no_service(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("AddService = a,2,Service", "AddService = ,2"))
        assert "names no service" in reason(tmp_path)
        assert packages(read_index(tmp_path), TEN).usable[0].installs[0].services == ()

    def test_a_filter_is_no_function_driver(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("= a,2,Service", "= a,,Service"))
        assert "names no service" in reason(tmp_path)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("StartType = 0", "StartType = 5"),
            ("StartType = 0", ""),
            ("ErrorControl = 1", "ErrorControl = many"),
            ("ServiceBinary = %12%\\a.sys", "ServiceBinary = ..\\a.sys"),
            ("[Service]", "[Elsewhere]"),
            ("= a,2,Service", "= a\\b,2,Service"),
            ("= a,2,Service", "= " + "a" * 300 + ",2,Service"),
            ("AddService = a,2,Service", "AddService = a,2,Service\n" * 21),
        ],
    )
    def test_nonsense_is_refused(self, tmp_path: Path, old: str, new: str) -> None:
        assert old in WHOLE
        pack(tmp_path, WHOLE.replace(old, new))
        assert reason(tmp_path).startswith("a.inf: ")

    def test_the_file_of_a_service_must_be_copied(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("CopyFiles = @a.sys", ""))
        assert reason(tmp_path) == "a.inf: the file of its service a, a.sys, is not copied"

    def test_unless_another_inf_brings_it(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("CopyFiles = @a.sys", "Include=b.inf\nNeeds=B"))
        assert found(tmp_path).install.files == ()


class TestPackage:
    def test_says_what_a_registry_writer_needs(self, tmp_path: Path) -> None:
        package = found(pack(tmp_path / "p").parent).package
        assert (package.name, package.inf, package.catalog) == ("a.inf", "p/a.inf", "p/a.cat")
        assert package.version == (1, 2, 3, 4)
        # 2026-01-02 00:00 UTC, as `python -c` of another library would say: Unix time 1767312000.
        assert package.filetime == (1767312000 + 11644473600) * 10_000_000
        assert package.contents == ("p/a.inf", "p/a.cat", "p/a.sys")
        assert [(each.device_id, each.kind, each.position) for each in package.descriptors] == [
            ("PCI\\VEN_1234&DEV_0001", IdKind.HARDWARE, 0),
            ("PCI\\CC_0100", IdKind.COMPATIBLE, 0),
        ]
        assert package.string("%NAME%") == package.string(package.descriptors[0].description) == "A device"
        assert package.install("INSTALL").function_driver is not None
        with pytest.raises(KeyError):
            package.install("Other")

    def test_the_date_of_a_real_hive(self, tmp_path: Path) -> None:
        """VMware's pvscsi, 2021-04-26, has 00c0b6192f3ad701 in the Version blob of a Windows 10."""
        pack(tmp_path, WHOLE.replace("01/02/2026", "04/26/2021"))
        assert struct.pack("<Q", found(tmp_path).package.filetime).hex() == "00c0b6192f3ad701"


class TestDrivers:
    def test_of_another_architecture_are_refused(self, tmp_path: Path) -> None:
        pack(tmp_path, a_sys=bare(Architecture.X86))
        assert reason(tmp_path) == "a.inf: a.sys is for x86, not for amd64"

    def test_the_inf_of_another_architecture_is_named_as_such(self, tmp_path: Path) -> None:
        pack(tmp_path)
        assert reason(tmp_path, SEVEN_32) == "a.inf: it has no driver for x86, only for amd64"

    def test_the_inf_of_a_later_windows_as_well(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("NTamd64", "NTamd64.10.0...22000"))
        assert "is for Windows 10.0.19041 (amd64)" in reason(tmp_path)

    def test_without_any_signature_are_refused(self, tmp_path: Path) -> None:
        text = WHOLE.replace("CatalogFile = a.cat", "")
        pack(tmp_path, text, a_sys=unsigned(AMD64))
        assert reason(tmp_path).startswith(
            "a.inf: a.sys is not signed, and no catalogue vouches for it: it names"
        )

    def test_that_are_signed_themselves_need_no_catalogue(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("CatalogFile = a.cat", ""))
        assert found(tmp_path).package.catalog == ""
        assert found(tmp_path).rank >> 24 > 0
        assert "Windows itself would call the package unsigned" in found(tmp_path).package.warnings[0]

    def test_without_their_catalogue_are_refused_and_it_is_named(self, tmp_path: Path) -> None:
        pack(tmp_path, a_sys=unsigned(AMD64))
        (tmp_path / "a.cat").unlink()
        assert reason(tmp_path).endswith("vouches for it: its catalogue: a.cat is missing from the pack")
        (tmp_path / "a.cat").touch()
        assert reason(tmp_path).endswith("vouches for it: its catalogue a.cat is empty")

    def test_of_the_boot_that_only_a_catalogue_vouches_for_are_warned_of(self, tmp_path: Path) -> None:
        pack(tmp_path / "a", a_sys=unsigned(AMD64))
        (warning,) = found(tmp_path).package.warnings
        assert "a/a.sys carries no signature of its own" in warning
        pack(tmp_path / "a")
        assert found(tmp_path).package.warnings == ()

    def test_that_are_no_programs_are_refused(self, tmp_path: Path) -> None:
        pack(tmp_path, a_sys=b"#!/bin/sh\n")
        assert reason(tmp_path) == "a.inf: a.sys: it is no program"

    def test_are_checked_where_they_are_copied_though_no_service_uses_them(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("@a.sys", "@a.sys,@b.sys"), b_sys=b"")
        assert reason(tmp_path) == "a.inf: b.sys: it is no program"

    def test_cut_short_are_refused(self, tmp_path: Path) -> None:
        pack(tmp_path, a_sys=bare(AMD64)[:-1])
        assert "cut short" in reason(tmp_path)


class TestPe:
    @pytest.mark.parametrize("architecture", [Architecture.X86, AMD64, Architecture.ARM64])
    def test_machines(self, architecture: Architecture) -> None:
        for program, carries in ((bare(architecture), True), (unsigned(architecture), False)):
            assert parse_pe(program, len(program)) == Pe(architecture, signed=carries)

    def test_every_cut_is_noticed(self) -> None:
        whole = bare(AMD64)
        for length in range(len(whole)):
            with pytest.raises(InfError):
                parse_pe(whole[:length], length)

    def test_an_unknown_machine(self) -> None:
        program = bytearray(bare(AMD64))
        struct.pack_into("<H", program, 0x84, 0x5032)  # RISC-V
        with pytest.raises(InfError, match="0x5032"):
            parse_pe(bytes(program), len(program))

    def test_fewer_directories_than_that_of_certificates(self) -> None:
        program = bytearray(bare(AMD64))
        struct.pack_into("<I", program, 0x80 + 24 + 108, 4)
        assert not parse_pe(bytes(program), len(program)).signed

    @pytest.mark.tools
    def test_drivers_of_wine_as_binutils_read_them(self) -> None:
        """Independent of both: what objdump says of the machine and of the security directory."""
        need_tools("objdump")
        programs = sorted(WINE.glob("*.sys"))
        assert len(programs) > 10, "apt-get install libwine"
        for path in programs:
            data = path.read_bytes()
            said = check(["objdump", "-p", path], timeout=20, reason="read a header")
            security = next(line for line in said.splitlines() if "Security Directory" in line).split()
            assert "file format pei-x86-64" in said
            assert parse_pe(data[:HEAD], len(data)) == Pe(AMD64, signed=int(security[2], 16) != 0)

    @pytest.mark.tools
    def test_our_certificate_tables_as_binutils_read_them(self, tmp_path: Path) -> None:
        need_tools("objdump")
        program = signed(marked((WINE / "scsiport.sys").read_bytes(), AMD64))
        path = tmp_path / "a.sys"
        path.write_bytes(program)
        said = check(["objdump", "-p", path], timeout=20, reason="read a header")
        (line,) = (line for line in said.splitlines() if "Security Directory" in line)
        assert [int(word, 16) for word in line.split()[2:4]] == [len(program) - 24, 24]


def test_a_match_is_of_the_best_id(tmp_path: Path) -> None:
    pack(tmp_path)
    index = read_index(tmp_path)
    by_class = best(index, TEN, DeviceIds(("PCI\\VEN_9999",), ("PCI\\CC_0100",)))
    by_model = best(index, TEN, DEVICE)
    assert isinstance(by_class, Match)
    assert isinstance(by_model, Match)
    assert (by_class.rank, by_model.rank) == (0x00FF3000, 0x00FF0000)
    assert replace(by_class, rank=0).install == by_model.install
