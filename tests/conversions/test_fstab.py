"""fstab and crypttab: names change, nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversions.devices import device_names
from conversions.fstab import mounts, rewrite_crypttab, rewrite_fstab
from tests.conversions.machines import MACHINE, ROOT_UUID, SWAP_UUID

NAMES = device_names(MACHINE)
LINES = st.lists(
    st.one_of(
        st.text(
            alphabet=st.characters(blacklist_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"),
            max_size=60,
        ),
        st.sampled_from(
            [
                "/dev/sda1 / ext4 defaults 0 1",
                "\t/dev/sda2\tnone   swap sw 0 0  # comment ",
                "#/dev/sda1 / ext4 defaults 0 1",
                "UUID=1234-ABCD /boot/efi vfat umask=0077 0 1",
                "/dev/sdz9 /far ext4 nofail 0 0",
                "",
            ]
        ),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/dev/sda1\t/\text4 errors=remount-ro 0 1\n", f"UUID={ROOT_UUID}\t/\text4 errors=remount-ro 0 1\n"),
        ("  /dev/sda2  none swap sw,pri=5 0 0", f"  UUID={SWAP_UUID}  none swap sw,pri=5 0 0"),
        ("/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part1 / auto\n", f"UUID={ROOT_UUID} / auto\n"),
        ("#/dev/sda1 / ext4 defaults 0 1\n", "#/dev/sda1 / ext4 defaults 0 1\n"),
        ("LABEL=root / ext4 defaults 0 1\n", "LABEL=root / ext4 defaults 0 1\n"),
        ("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n",) * 2,
        ("//server/share /mnt cifs ro 0 0\n",) * 2,
    ],
)
def test_only_the_first_field_changes(line: str, expected: str) -> None:
    rewritten = rewrite_fstab(line, NAMES)
    assert rewritten.text == expected
    assert rewritten.warnings == ()


@given(LINES)
def test_lines_that_name_no_disk_of_the_source_stay_as_they_are(lines: list[str]) -> None:
    text = "\n".join(lines)
    rewritten = rewrite_fstab(text, NAMES).text
    for before, after in zip(text.split("\n"), rewritten.split("\n"), strict=True):
        if "/dev/sda" not in before.split("#")[0]:
            assert after == before
        assert after.split()[1:] == before.split()[1:]


@given(LINES)
def test_rewriting_twice_is_rewriting_once(lines: list[str]) -> None:
    once = rewrite_fstab("\n".join(lines), NAMES)
    assert rewrite_fstab(once.text, NAMES) == once


def test_a_disk_that_is_not_there_is_said_with_what_it_means() -> None:
    text = "/dev/sdb1 /data ext4 defaults 0 2\n/dev/sdc1 /backup ext4 noauto 0 0\n"
    rewritten = rewrite_fstab(text, NAMES)
    assert rewritten.text == text
    assert "/dev/sdb1 for /data" in rewritten.warnings[0]
    assert "the boot will stop there" in rewritten.warnings[0]
    assert "it will not be mounted" in rewritten.warnings[1]


def test_a_line_whose_filesystem_is_another_is_left_alone() -> None:
    text = "/dev/sda2 / ext4 defaults 0 1\n"
    rewritten = rewrite_fstab(text, NAMES)
    assert rewritten.text == text
    assert "swap is there" in rewritten.warnings[0]


def test_an_ext4_that_fstab_calls_ext3_is_the_same() -> None:
    assert rewrite_fstab("/dev/sda1 / ext3 defaults 0 1\n", NAMES).text.startswith("UUID=")


def test_crypttab_has_its_device_in_the_second_field() -> None:
    text = "# <target> <source>\nswap_crypt  /dev/sda2  /dev/urandom  swap\nother /dev/sdq1 none luks\n"
    rewritten = rewrite_crypttab(text, NAMES)
    assert f"swap_crypt  UUID={SWAP_UUID}  /dev/urandom  swap\n" in rewritten.text
    assert "other /dev/sdq1 none luks\n" in rewritten.text
    assert len(rewritten.warnings) == 1


def test_blanks_in_names_are_understood() -> None:
    assert mounts("LABEL=a\\040b /mnt\\040x ext4 ro,nofail\n")[0].mountpoint == "/mnt x"


@given(st.text(max_size=300))
def test_any_text_is_survived(text: str) -> None:
    mounts(text)
    rewrite_crypttab(text, NAMES)
