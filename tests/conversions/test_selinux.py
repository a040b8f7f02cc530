"""Labels of what a conversion wrote: exactly these files, by the guest's own policy, or all at the next
boot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.selinux import label_files
from p2v.errors import GuestError
from tests.conversions.network.guests import guest, request
from tests.tree_guest import TreeGuest

CONTEXTS = "/etc/selinux/targeted/contexts/files/file_contexts"
TOOL = {"/usr/sbin/setfiles": "", CONTEXTS: "/.* system_u:object_r:default_t:s0\n"}


def labelled(
    folder: Path, config: str, files: Mapping[str, str], *, fails: bool = False
) -> tuple[TreeGuest, Changes]:
    def setfiles(made: TreeGuest, argv: Sequence[str]) -> str:
        if fails:
            raise GuestError("out of memory")
        return ""

    files = {"/etc/selinux/config": config, "/etc/old": "x", "/etc/gone": "x", **files}
    made = guest(folder, files, commands={"setfiles": setfiles})
    changes = Changes(made)
    changes.write_text("/etc/new.d/file", "x", "test")
    changes.write_text("/etc/old", "y", "test")
    changes.write_text("/boot/efi/EFI/BOOT/BOOTX64.EFI", "x", "test")
    changes.remove("/etc/gone", "test")
    label_files(changes, request(()))
    return made, changes


def test_what_was_written_is_labelled_with_its_new_folder_and_nothing_else(tmp_path: Path) -> None:
    made, changes = labelled(tmp_path, "SELINUX=enforcing\nSELINUXTYPE=targeted\n", TOOL)
    assert made.ran == [("/usr/sbin/setfiles", CONTEXTS, "/etc/new.d", "/etc/new.d/file", "/etc/old")]
    assert not made.exists("/.autorelabel")
    assert not changes.warnings


@pytest.mark.parametrize("config", ["", "SELINUX=disabled\nSELINUXTYPE=targeted\n", "#SELINUX=enforcing\n"])
def test_without_selinux_nothing_is_labelled(tmp_path: Path, config: str) -> None:
    made, _ = labelled(tmp_path, config, TOOL)
    assert made.ran == []


@pytest.mark.parametrize(
    ("files", "fails", "config"),
    [
        ({}, False, "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
        (TOOL, True, "SELINUX=permissive\nSELINUXTYPE=targeted\n"),
        (TOOL, False, "SELINUX=enforcing\nSELINUXTYPE=mls\n"),
    ],
)
def test_what_cannot_be_labelled_now_is_labelled_at_the_next_boot(
    tmp_path: Path, files: Mapping[str, str], config: str, *, fails: bool
) -> None:
    made, changes = labelled(tmp_path, config, files, fails=fails)
    assert made.exists("/.autorelabel")
    assert changes.warnings
