"""Which files of a pack go where, and that none of them comes from anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivers.inf.files import binary_place
from drivers.inf.model import Architecture, PayloadFile, Place
from drivers.inf.text import InfError
from drivers.inf.tree import DEPTH_LIMIT, file_name, source_path, walk
from fixtures.windows.programs import bare
from p2v.errors import UsageError
from tests.drivers.inf.packs import DEVICES, INSTALL, VERSION, WHOLE, found, pack, reason

COPY_SECTION = """\
[SourceDisksNames]
1 = "Disk",,,\\drivers
[SourceDisksNames.amd64]
2 = "Disk for x64",,,x64
[SourceDisksFiles]
a.sys = 1,sub
b.dll = 2
[DestinationDirs]
DefaultDestDir = 12
Dlls = 11,vendor\\sub
[Install]
CopyFiles = Files,Dlls
[Files]
a.sys,,,2
[Dlls]
c.dll,b.dll
"""
SERVICE = INSTALL.partition("CopyFiles = @a.sys\n")[2]


class TestPlaces:
    def test_disks_folders_destinations_and_other_names(self, tmp_path: Path) -> None:
        below = pack(tmp_path / "pack", VERSION + DEVICES + COPY_SECTION + SERVICE)
        (below / "Drivers" / "Sub").mkdir(parents=True)
        (below / "a.sys").rename(below / "Drivers" / "Sub" / "A.SYS")
        (below / "X64").mkdir()
        (below / "X64" / "b.DLL").write_bytes(b"a library")
        install = found(tmp_path).install
        assert install.files == (
            PayloadFile("pack/Drivers/Sub/A.SYS", Place(12, "", "a.sys")),
            PayloadFile("pack/X64/b.DLL", Place(11, "vendor\\sub", "c.dll")),
        )
        assert install.files[1].place.windows_path == "System32\\vendor\\sub\\c.dll"

    def test_the_section_of_the_architecture_counts_before_the_general_one(self, tmp_path: Path) -> None:
        sources = "[SourceDisksFiles]\na.sys=1,x86\n[SourceDisksFiles.amd64]\na.sys=1,amd64\n"
        pack(tmp_path, WHOLE + "[SourceDisksNames]\n1=Disk\n" + sources)
        for architecture in ("x86", "amd64"):
            (tmp_path / architecture).mkdir()
            (tmp_path / architecture / "a.sys").write_bytes(bare(Architecture(architecture)))
        assert [file.source for file in found(tmp_path).install.files] == ["amd64/a.sys"]

    def test_an_inf_that_lists_no_sources_has_them_beside_it(self, tmp_path: Path) -> None:
        pack(tmp_path / "x")
        assert [file.source for file in found(tmp_path).install.files] == ["x/a.sys"]

    def test_a_file_that_several_sections_copy_is_there_once(self, tmp_path: Path) -> None:
        pack(
            tmp_path,
            WHOLE.replace("CopyFiles = @a.sys", "CopyFiles = @a.sys,F\nCopyFiles = F") + "[F]\na.sys",
        )
        assert len(found(tmp_path).install.files) == 1

    def test_without_a_destination(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("DefaultDestDir = 12", ""))
        assert "[DestinationDirs] says nothing of a.sys" in reason(tmp_path)

    def test_the_number_of_files_is_bounded(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("@a.sys", "F") + "[F]\n" + "a.sys\n" * 2001)
        assert "copies more than 2000 files" in reason(tmp_path)


class TestMissing:
    def test_is_named(self, tmp_path: Path) -> None:
        pack(tmp_path)
        (tmp_path / "a.sys").unlink()
        assert reason(tmp_path) == "a.inf: a.sys is missing from the pack"

    def test_a_compressed_file_is_said_to_be(self, tmp_path: Path) -> None:
        pack(tmp_path)
        (tmp_path / "a.sys").rename(tmp_path / "a.sy_")
        assert "only compressed, as a.sy_" in reason(tmp_path)


ESCAPES = (
    *("..\\a.sys", "..", "...", ".. ", "../a.sys", "sub/a.sys", "sub\\..\\..\\a.sys", "/etc/passwd"),
    *("C:\\a.sys", "C:a.sys", "\\\\server\\share\\a.sys", "\\\\?\\C:\\a.sys", "a.sys:stream"),
    *("*.sys", "a\x01.sys", "a\ud800.sys"),
)


class TestEscapes:
    @pytest.mark.parametrize("path", ESCAPES)
    def test_paths_that_lead_out_are_refused(self, path: str) -> None:
        with pytest.raises(InfError, match="leads out of the pack"):
            source_path("sub", path)
        with pytest.raises(InfError):
            file_name(path)

    def test_paths_of_the_documentation_are_not(self) -> None:
        assert source_path("\\WinNT", "\\x86", "aha154x.sys") == "WinNT/x86/aha154x.sys"
        assert source_path("", ".", "a.sys") == "a.sys"
        assert source_path(".\\one", "two\\", "a..b.sys") == "one/two/a..b.sys"

    @pytest.mark.parametrize("name", ["", ".", "\\", "sub\\a.sys", "\\a.sys"])
    def test_a_name_is_one_name(self, name: str) -> None:
        with pytest.raises(InfError, match="no name of a file"):
            file_name(name)

    @pytest.mark.parametrize("path", ["..\\a.sys", "/etc/passwd", "C:\\a.sys", "sub\\a.sys"])
    @pytest.mark.parametrize(
        "place", ["CopyFiles = @{}", "CopyFiles = F\n[F]\na.sys,{}", "CopyFiles = F\n[F]\n{},a.sys"]
    )
    def test_an_inf_that_names_them_has_no_driver(self, tmp_path: Path, path: str, place: str) -> None:
        pack(tmp_path / "in", WHOLE.replace("CopyFiles = @a.sys", place.format(path)))
        (tmp_path / "a.sys").write_bytes(bare(Architecture.AMD64))
        assert "file" in reason(tmp_path / "in") or "leads out" in reason(tmp_path / "in")

    @pytest.mark.parametrize(
        "lines",
        [
            "[SourceDisksNames]\n1=D,,,..\n[SourceDisksFiles]\na.sys=1",
            "[SourceDisksNames]\n1=D\n[SourceDisksFiles]\na.sys=1,..\\out",
        ],
    )
    def test_nor_one_whose_disks_lie_outside(self, tmp_path: Path, lines: str) -> None:
        pack(tmp_path / "in", WHOLE + lines)
        assert "leads out of the pack" in reason(tmp_path / "in")

    def test_nor_one_whose_destination_does(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("DefaultDestDir = 12", "DefaultDestDir = 12,..\\..\\x"))
        assert "leads out of the pack" in reason(tmp_path)

    def test_a_catalogue_cannot_lie_elsewhere(self, tmp_path: Path) -> None:
        pack(tmp_path, WHOLE.replace("a.cat", "..\\a.cat"))
        assert "leads out of the pack" in reason(tmp_path)

    @pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
    def test_symbolic_links_are_no_files_wherever_they_point(self, tmp_path: Path, inside: bool) -> None:
        below = pack(tmp_path / "in")
        (below / "a.sys").rename(below / "real.sys" if inside else tmp_path / "real.sys")
        (below / "a.sys").symlink_to(below / "real.sys" if inside else tmp_path / "real.sys")
        assert reason(below) == "a.inf: a.sys is not a regular file"

    def test_folders_behind_links_are_not_read(self, tmp_path: Path) -> None:
        pack(tmp_path / "elsewhere")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
        assert walk(tmp_path / "in").files == {}

    def test_a_pipe_is_no_file_and_nobody_waits_for_it(self, tmp_path: Path) -> None:
        pack(tmp_path)
        (tmp_path / "a.sys").unlink()
        os.mkfifo(tmp_path / "a.sys")
        os.mkfifo(tmp_path / "b.inf")
        assert reason(tmp_path) == "a.inf: a.sys is not a regular file"

    def test_a_file_that_became_a_link_is_not_followed(self, tmp_path: Path) -> None:
        tree = walk(pack(tmp_path / "in"))
        (tmp_path / "in" / "a.sys").unlink()
        (tmp_path / "in" / "a.sys").symlink_to("/etc/passwd")
        with pytest.raises(InfError, match=r"a\.sys cannot be read"):
            tree.read("a.sys", 10)

    def test_folders_have_a_depth(self, tmp_path: Path) -> None:
        deep = tmp_path
        for _ in range(DEPTH_LIMIT + 1):
            deep /= "d"
        deep.mkdir(parents=True)
        with pytest.raises(UsageError, match="nested more than"):
            walk(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("%12%\\viostor.sys", "System32\\drivers\\viostor.sys"),
        ("%13%\\viostor.sys", "System32\\drivers\\viostor.sys"),
        ("%11%\\drivers\\a.sys", "System32\\drivers\\a.sys"),
        ("%10%\\System32\\drivers\\a.sys", "System32\\drivers\\a.sys"),
        ("System32\\drivers\\a.sys", "System32\\drivers\\a.sys"),
        ("\\SystemRoot\\System32\\drivers\\a.sys", "System32\\drivers\\a.sys"),
        ("%SystemRoot%\\System32\\a.sys", "System32\\a.sys"),
        ("%16422%\\Vendor\\a.exe", None),
    ],
)
def test_files_of_services(text: str, path: str | None) -> None:
    assert binary_place(text).windows_path == path


@pytest.mark.parametrize(
    "text", ["", "a.sys", "C:\\a.sys", "%12%\\..\\..\\a.sys", "%12%a.sys", "%12%\\", "%x%\\a.sys"]
)
def test_files_of_services_that_cannot_be(text: str) -> None:
    with pytest.raises(InfError):
        binary_place(text)
