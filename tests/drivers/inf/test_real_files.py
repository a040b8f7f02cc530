"""INF files that nobody here wrote: Wine's own, which is large, and QEMU's, which is a driver's."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.inf.ids import PciFunction
from drivers.inf.index import best, packages, read_index
from drivers.inf.model import Architecture, Match, RegistryType, Windows
from drivers.inf.strings import with_strings
from drivers.inf.text import parse
from tests.drivers.inf.packs import SEVEN_32, TEN

WINE_INF = Path("/usr/share/wine/wine.inf")
QEMU_INF = Path("/usr/share/doc/qemu-system-data/qemupciserial.inf")
TWO_PORTS = PciFunction(0x1B36, 0x0003, 0x1AF4, 0x1100, 1, 0x070002)


@pytest.mark.tools
class TestFileOfWine:
    """A large INF that nobody here wrote. It is no driver's: it has no [Manufacturer]."""

    def text(self) -> str:
        assert WINE_INF.exists(), "apt-get install libwine"
        return WINE_INF.read_text()

    def test_every_section_and_entry_is_found(self) -> None:
        """Counted by the simplest means: lines that are no comment, no header and no continuation."""
        text = self.text()
        lines = [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(";")
        ]
        headers = {line[1 : line.index("]")].lower() for line in lines if line.startswith("[")}
        entries = [line for line in lines if not line.startswith("[")]
        continued = sum(line.endswith("\\") for line in entries)
        assert continued > 50
        sections = parse(text.encode())
        assert set(sections.names) == headers
        found = sum(len(list(sections.lines(name))) for name in sections.names)
        assert found == len(entries) - continued

    def test_entries_are_read_as_they_are_meant(self) -> None:
        inf = with_strings(parse(self.text().encode()))
        assert inf.value("version", "signature") == "$CHICAGO$"
        lines = [inf.fields(line) for line in inf.sections.lines("CurrentVersion")]
        assert ("HKLM", "%CurrentVersion%", "CommonFilesDir", "", "%16427%") not in lines
        key = "Software\\Microsoft\\Windows\\CurrentVersion"
        assert ("HKLM", key, "CommonFilesDir", "", "%16427%") in lines

    def test_it_is_no_driver(self, tmp_path: Path) -> None:
        (tmp_path / "wine.inf").write_text(self.text())
        (rejected,) = read_index(tmp_path).rejected
        assert rejected.reason == "it has no [Manufacturer], so it installs no device"


@pytest.mark.tools
class TestFileOfQemu:
    """A serial card, which inbox drivers serve: everything comes by Include and Needs."""

    def match(self, tmp_path: Path, windows: Windows) -> Match:
        if not QEMU_INF.exists():
            pytest.skip("qemu-system-data is not installed, or without its documentation")
        (tmp_path / "qemupciserial.inf").write_bytes(QEMU_INF.read_bytes())
        outcome = best(read_index(tmp_path), windows, TWO_PORTS.ids(windows))
        assert isinstance(outcome, Match), outcome
        return outcome

    @pytest.mark.parametrize("windows", [TEN, SEVEN_32], ids=str)
    def test_the_card_with_two_ports(self, tmp_path: Path, windows: Windows) -> None:
        match = self.match(tmp_path, windows)
        assert match.package.string(match.descriptor.description) == "2x QEMU PCI Serial Card"
        assert match.install.name == "ComPort_inst2"
        assert match.install.include == ("mf.inf",)
        assert match.install.needs == ("MFINSTALL.mf", "MFINSTALL.mf.Services")
        # Plain ids are hardware ids up to Windows 8.1, compatible ids since; there is no catalogue.
        assert match.rank & 0xF000 == (0x2000 if windows is TEN else 0)
        assert match.rank >> 24 > 0

    def test_its_registry_values(self, tmp_path: Path) -> None:
        values = {(each.key, each.name): each for each in self.match(tmp_path, TEN).install.hardware}
        assert len(values) == 6
        assert values["Child0001", "HardwareID"].data.decode("utf-16-le") == "*PNP0501\0"
        assert values["Child0001", "VaryingResourceMap"].type == RegistryType.BINARY
        assert values["Child0001", "VaryingResourceMap"].data == bytes((0, 8, 0, 0, 0, 8, 0, 0, 0))

    def test_it_is_for_two_architectures(self, tmp_path: Path) -> None:
        self.match(tmp_path, TEN)
        arm = packages(read_index(tmp_path), Windows(10, 0, 22631, Architecture.ARM64))
        assert [each.reason for each in arm.refused] == ["it has no driver for arm64, only for x86, amd64"]
