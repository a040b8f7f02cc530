"""Guests whose files are not as they should be: a clear error or a warning, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversions.changes import TEXT_LIMIT
from p2v.errors import GuestError
from p2v.model import Firmware, MiB
from tests.conversions.machines import ROOT_UUID, convert, tree
from tests.tree_guest import TreeGuest

HUGE = 300 * MiB
READ = ("/etc/fstab", "/etc/default/grub", "/boot/grub/grub.cfg", "/etc/network/interfaces")
"""Files that a conversion must understand: where it cannot, it says so."""
LOOKED_AT = ("/etc/smartd.conf", "/etc/udev/rules.d/99-local.rules")
"""Files that are looked at only to warn about them."""


def grow(guest: TreeGuest, path: str) -> None:
    """A sparse file: whoever reads all of it takes its memory."""
    guest.mkdir(path.rsplit("/", 1)[0])
    with guest.host(path).open("ab") as file:
        file.truncate(HUGE)


@pytest.mark.parametrize("path", READ[:3])
def test_a_setting_of_hundreds_of_megabytes_is_refused_by_name(tmp_path: Path, path: str) -> None:
    guest = tree(tmp_path)
    grow(guest, path)
    with pytest.raises(GuestError, match=path):
        convert(guest)


@pytest.mark.parametrize("path", LOOKED_AT)
def test_a_huge_file_that_only_warns_costs_a_warning(tmp_path: Path, path: str) -> None:
    guest = tree(tmp_path)
    grow(guest, path)
    assert any(f"{path} was not looked at" in warning for warning in convert(guest).warnings)


def test_a_text_just_below_the_limit_is_read(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    comment = b"# " + b"x" * 97 + b"\n"
    guest.write("/etc/fstab", guest.read("/etc/fstab") + comment * ((TEXT_LIMIT - 4096) // 100))
    convert(guest)
    assert b"/dev/sda1" not in guest.read("/etc/fstab").split(b"# xx", 1)[0].split(b"\nUUID", 1)[1]


def test_a_text_of_another_encoding_keeps_its_bytes(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    latin = "# Größe: früher\n".encode("latin-1")
    for path in READ:
        guest.write(path, latin + guest.read(path))
    convert(guest)
    for path in READ:
        assert guest.read(path).startswith(latin), path
    assert f"UUID={ROOT_UUID}".encode() in guest.read("/etc/fstab")


def test_a_text_in_utf_16_changes_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    content = "/dev/sda1 / ext4 defaults 0 1\n".encode("utf-16")
    guest.write("/etc/fstab", content)
    convert(guest)
    assert guest.read("/etc/fstab") == content


def test_a_warning_about_bytes_that_are_no_text_can_be_written_down(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    line = b"/dev/disk/by-id/ata-Gr\xf6\xdfe-part1 /data ext4 defaults 0 2\n"
    guest.write("/etc/fstab", guest.read("/etc/fstab") + line)
    warnings = convert(guest).warnings
    assert any("by-id/ata-Gr" in warning and "/data" in warning for warning in warnings)
    assert json.dumps(warnings, ensure_ascii=False).encode()
    assert line in guest.read("/etc/fstab")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400), path=st.sampled_from((*READ, *LOOKED_AT)))
def test_any_bytes_in_a_setting_are_survived(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, path: str
) -> None:
    guest = tree(tmp_path_factory.mktemp("noise"))
    guest.mkdir(path.rsplit("/", 1)[0])
    before = guest.read(path) if guest.exists(path) else b""
    guest.write(path, before + b"\n" + noise)
    assert convert(guest).family == "debian"


OUTSIDE = "/../../../../../../../../etc/p2v-outside"


@pytest.mark.parametrize("path", ["/etc/fstab", "/etc/default/grub", "/boot/grub/grub.cfg"])
def test_a_link_that_leads_out_of_the_guest_stays_inside(tmp_path: Path, path: str) -> None:
    guest = tree(tmp_path)
    content = guest.read(path)
    guest.host(path).unlink()
    guest.write("/etc/p2v-outside", content)
    guest.host(path).symlink_to(OUTSIDE)
    convert(guest)
    assert not Path("/etc/p2v-outside").exists()
    assert guest.read("/etc/p2v-outside") != content


class Full(TreeGuest):
    """Every filesystem is full."""

    def write(self, path: str, content: bytes) -> None:
        raise GuestError(f"Cannot write {path}: No space left on device")


def test_a_full_filesystem_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    made = tree(tmp_path)
    with pytest.raises(GuestError, match=r"/etc/\S+: No space left"):
        convert(Full(made.root, free=0))


def test_a_full_boot_is_said_with_numbers_and_its_initramfs_stays(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.spaces["/boot"] = 0
    old = {path: guest.read(path) for path in guest.glob("/boot/initrd*")}
    with pytest.raises(GuestError, match="0 MiB free") as error:
        convert(guest)
    assert "remov" in error.value.hint
    assert {path: guest.read(path) for path in guest.glob("/boot/initrd*")} == old


def test_an_esp_without_a_loader_warns_before_nothing_boots(tmp_path: Path) -> None:
    warnings = convert(tree(tmp_path), firmware=Firmware.UEFI).warnings
    assert any("will not start" in warning for warning in warnings)
