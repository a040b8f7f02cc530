"""What p2v puts on NTFS is not everybody's to change, as another program reads the descriptors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.windows.disks import mounted
from p2v.ntfs_security import ATTRIBUTE, FILE, FOLDER
from tests.conftest import need_tools
from tests.disk.volumes import need_fuse

pytestmark = pytest.mark.tools


def test_ntfs_secaudit_reads_what_we_set(tmp_path: Path) -> None:
    need_tools("mkntfs", "ntfs-3g", "ntfssecaudit")
    need_fuse()
    volume = tmp_path / "ntfs"
    with volume.open("wb") as file:
        file.truncate(64 << 20)
    run(["mkntfs", "-F", "-Q", "-q", volume], timeout=60)
    with mounted(volume) as place:
        for name in ("ours", "theirs"):
            (place / name).mkdir()
            (place / name / "run.cmd").write_bytes(b"x")
        os.setxattr(place / "ours", ATTRIBUTE, FOLDER)
        os.setxattr(place / "ours" / "run.cmd", ATTRIBUTE, FILE)
    for name in ("/ours", "/ours/run.cmd"):
        seen = run(["ntfssecaudit", "-v", volume, name], timeout=60)
        assert "mode 0755" in seen
        assert "S-1-5-32-544" in seen
        assert "No errors were found" in seen
        assert "S-1-1-0" not in seen
    # What ntfs-3g does without us, and the reason for all this:
    assert "mode 0777" in run(["ntfssecaudit", volume, "/theirs/run.cmd"], timeout=60)
    assert "processed successfully" in run(["ntfsfix", "-n", volume], timeout=60)
