"""Filesystems as a crash leaves them, in the appliance: what is mended in the overlay and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.accelerator import Accelerator
from p2v.command import check, run
from p2v.errors import GuestError
from p2v.guest import Access, Guest, GuestDisk, open_guest
from p2v.model import ImageFormat, KiB, MiB
from tests.conftest import need_tools
from tests.test_guest import need_guestfs

OLD, NEW = b"from before the crash".ljust(4096), b"from the journal".ljust(4096)
LATIN = b"/etc/B\xfcro.conf"


def make_filesystem(image: Path, size: int, *features: str, filler: int = 0) -> None:
    """An ext4 with a file, a name in Latin-1, and `filler` bytes of nothing."""
    tree = image.parent / f"{image.stem}-tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/data").write_bytes(OLD)
    (tree / "filler").write_bytes(b"x" * filler)
    (tree / "etc/fstab").write_text("\n")
    (tree / "etc/loop").symlink_to("loop")
    (tree / "etc/away").symlink_to("../../../../../../../../tmp")
    with open(os.fsencode(tree) + LATIN, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    with image.open("wb") as file:
        file.truncate(size)
    argv: list[str | Path] = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", *features, "-d", tree, image]
    check(argv, timeout=20, reason="format")


def debugfs(image: Path, *commands: str) -> str:
    script = image.with_suffix(".commands")
    script.write_text("".join(f"{command}\n" for command in commands))
    return run(["debugfs", "-w", "-f", script, image], timeout=20).stdout


def leave_in_journal(image: Path) -> None:
    """A committed transaction that never reached its block, as after a loss of power."""
    block = debugfs(image, "blocks /etc/data").split()[-1]
    content = image.with_suffix(".block")
    content.write_bytes(NEW)
    debugfs(image, "journal_open", f"journal_write -b {block} {content}", "journal_close")
    assert "needs_recovery" in check(["dumpe2fs", "-h", image], timeout=20, reason="look")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    need_guestfs()
    need_tools("qemu-img", "mke2fs", "debugfs", "dumpe2fs", "tune2fs")
    folder = tmp_path_factory.mktemp("damage")
    unclean, locked, full = (folder / f"{name}.raw" for name in ("unclean", "locked", "full"))
    make_filesystem(unclean, 16 * MiB, "-J", "size=4")
    leave_in_journal(unclean)
    make_filesystem(locked, 16 * MiB)
    debugfs(locked, "feature read-only")
    make_filesystem(full, 2 * MiB, "-O", "^has_journal", "-m", "0", filler=MiB)
    return unclean, locked, full


@pytest.fixture(scope="module")
def guest(images: tuple[Path, ...]) -> Iterator[Guest]:
    """Read and write, on overlays of its own, as a conversion has them."""
    overlays = [image.with_suffix(".qcow2") for image in images]
    for image, overlay in zip(images, overlays, strict=True):
        argv: list[str | Path] = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            image,
            overlay,
        ]
        check(argv, timeout=20, reason="overlay")
    disks = [GuestDisk(overlay, ImageFormat.QCOW2) for overlay in overlays]
    with open_guest(disks, access=Access.READ_WRITE, accelerator=Accelerator.TCG) as opened:
        yield opened


@pytest.fixture
def unmounted(guest: Guest) -> Iterator[Guest]:
    yield guest
    guest.unmount_all()


@pytest.mark.guestfs
@pytest.mark.timeout(300)
class TestDamage:
    def test_a_journal_is_replayed_and_the_capture_is_not_touched(
        self, unmounted: Guest, images: tuple[Path, ...]
    ) -> None:
        before = images[0].read_bytes()
        unmounted.mount("/dev/sda", "/")
        assert unmounted.read("/etc/data") == NEW
        unmounted.write("/etc/data", b"converted")
        assert images[0].read_bytes() == before
        assert OLD in before

    def test_a_filesystem_that_may_only_be_read_is_refused_where_it_must_be_written(
        self, unmounted: Guest
    ) -> None:
        unmounted.mount("/dev/sdb", "/")
        with pytest.raises(GuestError, match=r"(?i)read-only"):
            unmounted.write("/etc/data", b"converted")

    def test_a_full_filesystem_keeps_the_old_content(self, unmounted: Guest) -> None:
        unmounted.mount("/dev/sdc", "/")
        before = unmounted.free_space("/")
        for size, said in ((4 * MiB, "KiB free"), (MiB, "No space left")):
            with pytest.raises(GuestError, match=said):
                unmounted.write("/etc/data", os.urandom(size))
        assert unmounted.read("/etc/data") == OLD
        assert unmounted.free_space("/") == before
        assert before < MiB

    def test_a_name_of_another_encoding_hides_no_other(self, unmounted: Guest) -> None:
        unmounted.mount("/dev/sda", "/")
        assert unmounted.glob("/etc/[df]*") == ["/etc/data", "/etc/fstab"]
        assert unmounted.glob("/etc/*") == ["/etc/away", "/etc/data", "/etc/fstab", "/etc/loop"]

    def test_links_in_circles_and_out_of_the_guest_lead_nowhere(self, unmounted: Guest) -> None:
        unmounted.mount("/dev/sda", "/")
        assert not unmounted.exists("/etc/loop")
        assert not unmounted.exists("/etc/away/fstab")
        with pytest.raises(GuestError, match="symbolic links"):
            unmounted.read("/etc/loop")
        with pytest.raises(GuestError):
            unmounted.write("/etc/away/p2v-escaped", b"x" * KiB)
        assert not Path("/tmp/p2v-escaped").exists()
