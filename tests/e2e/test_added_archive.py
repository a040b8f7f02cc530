"""What is added behind an initramfs, unpacked by the one whose opinion counts: the Linux kernel."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from conversions.cpio import archive
from conversions.initramfs import read_initramfs
from conversions.supplement import fitting
from p2v.accelerator import newest_kernel
from p2v.command import check, run
from tests.conftest import need_tools

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

PACKERS = {
    "gzip": "gzip -c",
    "xz": "xz --check=crc32 -c",
    "zstd": "zstd -q -3 -c",
    "lz4": "lz4 -l -c",
    "bzip2": "bzip2 -c",
    "lzma": "lzma -c",
    "plain": "cat",
}
KLIBC = Path("/usr/lib/klibc/bin")
INIT = "#!/bin/sh\necho; cat /conf/replaced /conf/added /conf/kept\npoweroff\n"
MICROCODE = archive({"kernel/x86/microcode/none.bin": b"\0" * 4099})
SECONDS = 200


def tree(folder: Path) -> Path:
    """A shell, cat and poweroff of klibc, which need one library."""
    for program in ("sh", "cat", "poweroff"):
        place = folder / "bin" / program
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(KLIBC / program, place)
    for library in (*Path("/lib").glob("klibc-*.so"), *Path("/usr/lib").glob("klibc-*.so")):
        (folder / "lib").mkdir(exist_ok=True)
        shutil.copy(library, folder / "lib")
    (folder / "conf").mkdir()
    (folder / "conf/replaced").write_text("OLD-REPLACED\n")
    (folder / "conf/kept").write_text("OLD-KEPT\n")
    (folder / "init").write_text(INIT)
    (folder / "init").chmod(0o755)
    return folder


@pytest.mark.parametrize("packer", PACKERS)
def test_the_kernel_unpacks_what_was_added_over_what_was_there(tmp_path: Path, packer: str) -> None:
    need_tools("cpio", "qemu-system-x86_64", PACKERS[packer].split()[0])
    kernel = newest_kernel(Path("/boot"))
    if kernel is None or not (KLIBC / "sh").exists():
        pytest.skip("no kernel or no klibc-utils on this host")
    script = f"find . | cpio -o -H newc --quiet | {PACKERS[packer]} > ../packed"
    check(["sh", "-c", script], timeout=60, reason="pack", cwd=tree(tmp_path / "tree"))
    old = MICROCODE + (tmp_path / "packed").read_bytes()
    added = archive({"conf/replaced": b"NEW-REPLACED\n", "conf/added": b"NEW-ADDED\n"})
    image = tmp_path / "initrd"
    image.write_bytes(old + fitting(added, read_initramfs(old).end, len(old)))
    accelerator = os.environ.get("P2V_ACCEL", "tcg")
    argv: list[str | Path] = ["qemu-system-x86_64", "-accel", accelerator, "-nodefaults", "-display", "none"]
    argv += ["-no-reboot", "-m", "512", "-serial", "stdio", "-monitor", "none", "-kernel", kernel]
    said = run([*argv, "-initrd", image, "-append", "console=ttyS0 panic=-1 quiet"], timeout=SECONDS)
    lines = re.findall(r"(?:OLD|NEW)-[A-Z]+", said.stdout)
    assert lines == ["NEW-REPLACED", "NEW-ADDED", "OLD-KEPT"], said.stdout[-2000:]
