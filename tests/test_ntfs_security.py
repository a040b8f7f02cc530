"""What p2v puts on NTFS is not everybody's to change, as another program reads the descriptors.

`Guest.protect` in the appliance is chown and chmod on a volume that is mounted with `permissions`; here is
what ntfs-3g makes of that, and what it does without.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures.command import run
from p2v.guest_volumes import NTFS_OPTIONS
from tests.conftest import need_tools
from tests.disk.volumes import need_fuse

pytestmark = pytest.mark.tools


@pytest.mark.parametrize(("options", "mode"), [(NTFS_OPTIONS, "0755"), ("rw", "0777")])
def test_ntfs_secaudit_reads_who_may_change_a_file(options: str, mode: str, tmp_path: Path) -> None:
    need_tools("mkntfs", "ntfs-3g", "ntfssecaudit")
    need_fuse()
    volume, place = tmp_path / "ntfs", tmp_path / "c"
    with volume.open("wb") as file:
        file.truncate(64 << 20)
    run(["mkntfs", "-F", "-Q", "-q", volume], timeout=60)
    place.mkdir()
    run(["ntfs-3g", "-o", options, volume, place], timeout=60)
    try:
        (place / "new").mkdir()
        (place / "new" / "run.cmd").write_bytes(b"x")
        for path in (place / "new", place / "new" / "run.cmd"):
            os.chown(path, 0, 0)
            path.chmod(0o755)
    finally:
        run(["umount", place], timeout=60)
    for name in ("/new", "/new/run.cmd"):
        seen = run(["ntfssecaudit", volume, name], timeout=60)
        assert f"mode {mode}" in seen
        assert "No errors were found" in seen
    assert "processed successfully" in run(["ntfsfix", "-n", volume], timeout=60)
