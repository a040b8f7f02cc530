"""Drivers from a folder or an ISO image: unpacked for a while, and nothing hostile with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from drivers.inf.index import packages, read_index
from drivers.inf.model import Architecture, Windows
from fixtures.windows import packs
from fixtures.windows.programs import bare
from p2v import command
from p2v.command import check
from p2v.driver_media import Content, opened, parse_listing
from p2v.errors import TargetError, UsageError
from tests.conftest import need_tools

TEN = Windows(10, 0, 19041, Architecture.AMD64)
JOLIET, ROCK_RIDGE = ("-J", "--norock"), ("-r",)

LISTING = """\
dr-xr-xr-x    1 0        0               0 Nov 23 15:49 '/'
-r--r--r--    1 0        0           12345 Nov 23 15:49 '/it'"'"'s.inf'
lr-xr-xr-x    1 0        0               0 Nov 23 15:49 '/link' -> '../../etc'
crw-r--r--    1 0        0             1,3 Jan  1  1970 '/null'
dr-xr-xr-x    1 0        0               0 Nov 23 15:49 '/Über dir'
"""


def image(folder: Path, *options: str) -> Path:
    """An ISO image of a folder, as xorriso makes it."""
    need_tools("xorriso")
    made = folder.with_suffix(".iso")
    check(
        ["xorriso", "-as", "mkisofs", "-quiet", *options, "-o", made, folder],
        timeout=60,
        reason="make an image",
    )
    return made


class TestFolder:
    def test_is_given_as_it_is(self, tmp_path: Path) -> None:
        with opened(tmp_path) as folder:
            assert folder == tmp_path

    def test_or_file_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no folder and no file"), opened(tmp_path / "nowhere"):
            pass

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\0" * 100_000])
    def test_a_file_must_be_an_image(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "virtio-win.iso"
        path.write_bytes(data)
        with pytest.raises(UsageError, match="neither a folder nor an ISO image"), opened(path):
            pass


class TestListing:
    def test_is_counted(self) -> None:
        assert parse_listing(LISTING) == Content(5, 12345)

    @pytest.mark.parametrize(
        "line",
        [
            "-r--r--r--    1 0        0               1 Nov 23 15:49 '/new\nline'",
            "-r--r--r--    1 0        0               1 Nov 23 15:49 '/a/../../b'",
            "-r--r--r--    1 0        0               1 Nov 23 15:49 '/a\\b'",
            "-r--r--r--    1 0        0               1 Nov 23 15:49 '/a\x1b[31m'",
            "what xorriso never said",
        ],
    )
    def test_names_that_no_pack_has_are_refused(self, line: str) -> None:
        with pytest.raises(TargetError, match="a name that no pack of drivers has"):
            parse_listing(LISTING + line + "\n")

    def test_so_are_amounts(self) -> None:
        with pytest.raises(TargetError, match="which no pack of drivers has"):
            parse_listing(LISTING.replace("12345", "9999999999999"))


@pytest.mark.tools
class TestImage:
    @pytest.mark.parametrize("options", [ROCK_RIDGE, JOLIET, ("-r", "-J")], ids=" ".join)
    def test_holds_the_drivers_that_the_folder_holds(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        source = packs.virtio(tmp_path / "pack", bare)
        made = image(source, *options)
        expected = packages(read_index(source), TEN).usable
        with opened(made, scratch=tmp_path) as folder:
            assert packages(read_index(folder), TEN).usable == expected
            assert folder.is_relative_to(tmp_path)
        assert not folder.exists()

    def test_links_pipes_and_devices_are_left_out(self, tmp_path: Path) -> None:
        source = tmp_path / "pack"
        (source / "w10").mkdir(parents=True)
        (source / "w10" / "it's Größe.inf").write_text("x")
        (source / "w10" / "it's Größe.inf").chmod(0o4555)
        (source / "out").symlink_to("/etc")
        (source / "w10" / "passwd.inf").symlink_to("/etc/passwd")
        os.mkfifo(source / "pipe")
        with opened(image(source, *ROCK_RIDGE), scratch=tmp_path) as folder:
            found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
            assert found == ["w10", "w10/it's Größe.inf"]
            assert (folder / "w10" / "it's Größe.inf").stat().st_mode & 0o7777 == 0o700

    def test_is_removed_when_reading_fails(self, tmp_path: Path) -> None:
        source = packs.metal(tmp_path / "pack", bare)
        made = image(source, *ROCK_RIDGE)
        before = set(tmp_path.iterdir())
        with pytest.raises(ZeroDivisionError), opened(made, scratch=tmp_path):
            raise ZeroDivisionError
        assert set(tmp_path.iterdir()) == before

    def test_with_a_hostile_name_is_refused_before_anything_is_unpacked(self, tmp_path: Path) -> None:
        source = tmp_path / "pack"
        source.mkdir()
        (source / "new\nline").touch()
        with (
            pytest.raises(TargetError, match="a name that no pack of drivers has"),
            opened(image(source, *ROCK_RIDGE), scratch=tmp_path),
        ):
            pass

    def test_cut_short_is_an_error_and_not_half_a_pack(self, tmp_path: Path) -> None:
        source = packs.virtio(tmp_path / "pack", bare, packs.VIRTIO[:1])
        (source / "large.bin").write_bytes(os.urandom(1 << 20))
        made = image(source, *ROCK_RIDGE)
        os.truncate(made, made.stat().st_size // 2)
        with pytest.raises(TargetError, match="xorriso failed to unpack"), opened(made, scratch=tmp_path):
            pass

    def test_without_room_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = image(packs.metal(tmp_path / "pack", bare), *ROCK_RIDGE)
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(TargetError, match="0 MiB are free"), opened(made, scratch=tmp_path):
            pass

    def test_without_xorriso(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = image(packs.metal(tmp_path / "pack", bare), *ROCK_RIDGE)
        monkeypatch.setattr(command, "find_tool", lambda _: None)
        with pytest.raises(TargetError, match="xorriso is needed") as caught, opened(made, scratch=tmp_path):
            pass
        assert caught.value.hint == "Try: sudo apt install xorriso"
