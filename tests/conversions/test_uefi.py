"""What firmware without boot entries starts: the guest's own loader, of whatever distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.uefi import ensure_fallback_loader
from p2v.errors import GuestError
from tests.conversions.trees import guest_with
from tests.tree_guest import TreeGuest

Files = dict[str, str | bytes]

DEBIAN: Files = {
    "/boot/efi/EFI/debian/shimx64.efi": b"shim",
    "/boot/efi/EFI/debian/grubx64.efi": b"grub",
    "/boot/efi/EFI/debian/mmx64.efi": b"keys",
}
SUSE: Files = {
    "/boot/efi/EFI/opensuse/shim.efi": b"shim",
    "/boot/efi/EFI/opensuse/grub.efi": b"grub",
    "/boot/efi/EFI/opensuse/MokManager.efi": b"keys",
}
SYSTEMD: Files = {"/efi/EFI/systemd/systemd-bootx64.efi": b"manager"}


def fallback(guest: TreeGuest, place: str = "/boot/efi") -> dict[str, bytes]:
    folder = guest.host(f"{place}/EFI/BOOT")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())} if folder.is_dir() else {}


def run(guest: TreeGuest, loader: str = "grub2") -> Changes:
    changes = Changes(guest)
    ensure_fallback_loader(changes, loader)
    return changes


@pytest.mark.parametrize(
    ("files", "place", "loader", "expected"),
    [
        (
            DEBIAN,
            "/boot/efi",
            "grub2",
            {"BOOTX64.EFI": b"shim", "grubx64.efi": b"grub", "mmx64.efi": b"keys"},
        ),
        (
            SUSE,
            "/boot/efi",
            "grub2",
            {"BOOTX64.EFI": b"shim", "grub.efi": b"grub", "MokManager.efi": b"keys"},
        ),
        (SYSTEMD, "/efi", "systemd-boot", {"BOOTX64.EFI": b"manager"}),
        ({"/boot/efi/EFI/arch/grubx64.efi": b"grub"}, "/boot/efi", "grub2", {"BOOTX64.EFI": b"grub"}),
        ({"/boot/EFI/Linux/arch.efi": b"uki"}, "/boot", "systemd-boot", {"BOOTX64.EFI": b"uki"}),
        ({"/boot/efi/EFI/x/grubaa64.efi": b"arm"}, "/boot/efi", "grub2", {"BOOTAA64.EFI": b"arm"}),
        ({"/boot/efi/EFI/x/grubia32.efi": b"small"}, "/boot/efi", "grub2", {"BOOTIA32.EFI": b"small"}),
        (
            {"/boot/efi/EFI/redhat/grub.efi": b"0.97", "/boot/efi/EFI/redhat/grub.conf": b"menu"},
            "/boot/efi",
            "grub-legacy",
            {"BOOTX64.EFI": b"0.97", "BOOTX64.conf": b"menu"},
        ),
    ],
    ids=["debian", "suse", "systemd-boot", "no-shim", "unified", "arm", "ia32", "red-hat-6"],
)
def test_the_guests_own_loader_is_put_there(
    tmp_path: Path, files: Files, place: str, loader: str, expected: dict[str, bytes]
) -> None:
    guest = guest_with(tmp_path, files)
    changes = run(guest, loader)
    assert fallback(guest, place) == expected
    assert not changes.warnings
    assert run(guest, loader).changes == ()


POINTER = "search.fs_uuid 0f3e root\nset prefix=($root)'/boot/grub2'\nconfigfile $prefix/grub.cfg\n"
MENU = "menuentry 'CentOS' {\n\tlinuxefi /vmlinuz-3.10\n}\n"
VENDORS = {
    "debian": ("shimx64.efi", "grubx64.efi", POINTER),
    "ubuntu": ("shimx64.efi", "grubx64.efi", POINTER),
    "kali": ("", "grubx64.efi", POINTER),
    "centos": ("shimx64.efi", "grubx64.efi", MENU),
    "redhat": ("shimx64.efi", "grubx64.efi", POINTER),
    "rocky": ("shimx64.efi", "grubx64.efi", POINTER),
    "almalinux": ("shimx64.efi", "grubx64.efi", POINTER),
    "fedora": ("shimx64.efi", "grubx64.efi", POINTER),
    "amzn": ("", "grubx64.efi", POINTER),
    "sles": ("shim.efi", "grub.efi", POINTER),
    "opensuse": ("shim.efi", "grub.efi", POINTER),
    "arch": ("", "grubx64.efi", ""),
    "alpine": ("", "grubx64.efi", ""),
    "void_grub": ("", "grubx64.efi", ""),
}
"""What each distribution installs into EFI/VENDOR: its first stage, GRUB, and GRUB's file there."""


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_distribution_gets_a_fallback_and_shim_stays_first(tmp_path: Path, vendor: str) -> None:
    shim, grub, menu = VENDORS[vendor]
    contents = {shim: b"shim", grub: b"grub", "grub.cfg": menu.encode()}
    own = {name: body for name, body in contents.items() if name and body}
    guest = guest_with(tmp_path, {f"/boot/efi/EFI/{vendor}/{name}": body for name, body in own.items()})
    changes = run(guest)
    there = fallback(guest)
    assert there.pop("BOOTX64.EFI") == (b"shim" if shim else b"grub")
    beside = {grub: b"grub", "grub.cfg": POINTER.encode()} if grub == "grub.efi" else {grub: b"grub"}
    assert there == (beside if shim else {})
    assert not changes.warnings
    assert run(guest).changes == ()


def test_a_pointer_in_the_fallback_folder_is_left_alone(tmp_path: Path) -> None:
    files: Files = {
        "/boot/efi/EFI/opensuse/grub.cfg": POINTER,
        "/boot/efi/EFI/BOOT/BOOTX64.EFI": b"shim",
        "/boot/efi/EFI/BOOT/grub.cfg": "own",
    }
    guest = guest_with(tmp_path, SUSE | files)
    run(guest)
    assert fallback(guest)["grub.cfg"] == b"own"
    assert fallback(guest)["grub.efi"] == b"grub"


def test_a_whole_menu_is_not_copied_for_suse_either(tmp_path: Path) -> None:
    guest = guest_with(tmp_path, SUSE | {"/boot/efi/EFI/opensuse/grub.cfg": MENU})
    run(guest)
    assert "grub.cfg" not in fallback(guest)


def test_names_on_a_fat_have_no_case(tmp_path: Path) -> None:
    files: Files = {"/boot/efi/efi/Fedora/SHIMX64.EFI": b"shim", "/boot/efi/efi/Fedora/GRUBX64.EFI": b"grub"}
    guest = guest_with(tmp_path, files | {"/boot/efi/efi/boot/other.txt": b""})
    run(guest)
    assert {path.name for path in guest.host("/boot/efi/efi/boot").iterdir()} == {
        *("other.txt", "BOOTX64.EFI", "GRUBX64.EFI"),
    }
    assert not guest.exists("/boot/efi/EFI")


def test_of_shim_and_manager_the_one_that_is_started_now_is_taken(tmp_path: Path) -> None:
    files = DEBIAN | {"/boot/efi/EFI/systemd/systemd-bootx64.efi": b"manager"}
    assert fallback(_ran(tmp_path / "a", files, "systemd-boot"))["BOOTX64.EFI"] == b"manager"
    assert fallback(_ran(tmp_path / "b", files, "grub2"))["BOOTX64.EFI"] == b"shim"


def _ran(folder: Path, files: Files, loader: str) -> TreeGuest:
    folder.mkdir()
    guest = guest_with(folder, files)
    run(guest, loader)
    return guest


def test_a_shim_that_repairs_the_entries_itself_is_left_alone(tmp_path: Path) -> None:
    """Fedora: shim in EFI/BOOT starts fbx64.efi, which makes the entries from EFI/fedora/BOOTX64.CSV."""
    there: Files = {"/boot/efi/EFI/BOOT/BOOTX64.EFI": b"shim", "/boot/efi/EFI/BOOT/fbx64.efi": b"repair"}
    guest = guest_with(tmp_path, DEBIAN | there)
    assert run(guest).changes == ()
    assert set(fallback(guest)) == {"BOOTX64.EFI", "fbx64.efi"}


def test_a_lone_shim_gets_what_it_starts(tmp_path: Path) -> None:
    guest = guest_with(tmp_path, DEBIAN | {"/boot/efi/EFI/BOOT/BOOTX64.EFI": b"shim"})
    run(guest)
    assert fallback(guest)["grubx64.efi"] == b"grub"


def test_the_loader_of_another_system_stays_and_is_said(tmp_path: Path) -> None:
    windows: Files = {
        "/boot/efi/EFI/Microsoft/Boot/bootmgfw.efi": b"windows",
        "/boot/efi/EFI/Boot/bootx64.efi": b"windows",
    }
    guest = guest_with(tmp_path, DEBIAN | windows)
    changes = run(guest)
    assert changes.changes == ()
    assert ["another system" in warning for warning in changes.warnings] == [True]


def test_a_shim_without_its_grub_is_not_taken(tmp_path: Path) -> None:
    files: Files = {"/boot/efi/EFI/a/shimx64.efi": b"shim", "/boot/efi/EFI/b/grubx64.efi": b"grub"}
    guest = guest_with(tmp_path, files)
    run(guest)
    assert fallback(guest) == {"BOOTX64.EFI": b"grub"}


def test_a_full_partition_is_an_error_with_numbers(tmp_path: Path) -> None:
    guest = guest_with(tmp_path, DEBIAN | {"/boot/efi/EFI/debian/grubx64.efi": b"g" * 4096}, free=2048)
    with pytest.raises(GuestError, match="2 KiB free, but 4 KiB"):
        run(guest)
    assert fallback(guest) == {}


def test_no_loader_at_all_is_said(tmp_path: Path) -> None:
    changes = run(guest_with(tmp_path, {"/boot/efi/EFI/x/readme.txt": "hello"}))
    assert ["will not start" in warning for warning in changes.warnings] == [True]
