"""An initramfs as data: archives made by the system's own tools, and hostile ones."""

from __future__ import annotations

import contextlib
import gzip
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversions.initramfs import Budget, read_initramfs
from p2v.command import check
from p2v.errors import GuestError
from tests.conftest import need_tools
from tests.conversions.cpio_writer import archive, entry, initramfs

VERSION = "6.1.0-56-amd64"
MODULES = frozenset({"virtio_blk", "crc32c_generic", "nvme"})
PATHS = ("drivers/block/virtio_blk.ko", "crypto/crc32c-generic.ko.xz", "drivers/nvme/nvme.ko.zst")
MAIN = archive(
    {
        "init": b"#!/bin/sh\n" * 1000,
        **{f"lib/modules/{VERSION}/kernel/{path}": b"\x7fELF" * 333 for path in PATHS},
        "conf/conf.d/resume": b"RESUME=/dev/sda2\n",
    }
)
MICROCODE = archive({"kernel/x86/microcode/GenuineIntel.bin": b"\1" * 4097})
COMPRESSORS = {
    "gzip": ["gzip", "-c"],
    "bzip2": ["bzip2", "-c"],
    "xz": ["xz", "--check=crc32", "-c"],
    "lzma": ["lzma", "-c"],
    "zstd": ["zstd", "-q", "-19", "-c"],
    "lz4": ["lz4", "-l", "-c"],
    "plain": ["cat"],
}


def compressed(folder: Path, argv: list[str], content: bytes) -> bytes:
    """What the system's own tool makes of `content`."""
    plain, packed = folder / "plain", folder / "packed"
    plain.write_bytes(content)
    check(["sh", "-c", f"{' '.join(argv)} {plain} > {packed}"], timeout=20, reason="compress")
    return packed.read_bytes()


@pytest.mark.tools
@pytest.mark.parametrize("kind", COMPRESSORS)
@pytest.mark.parametrize("early", [b"", MICROCODE, MICROCODE + bytes(512), bytes(4) + MICROCODE * 2])
def test_modules_are_found_behind_every_compression(tmp_path: Path, kind: str, early: bytes) -> None:
    need_tools(COMPRESSORS[kind][0])
    data = early + compressed(tmp_path, COMPRESSORS[kind], MAIN + bytes(100))
    found = read_initramfs(data)
    assert found.modules(VERSION) == MODULES
    assert found.modules("6.1.0") == frozenset()
    assert [file.content for file in found.configuration] == [b"RESUME=/dev/sda2\n"]


@pytest.mark.tools
def test_the_hosts_own_initramfs_is_read_as_lsinitramfs_reads_it() -> None:
    need_tools("lsinitramfs")
    paths = sorted(Path("/boot").glob("initrd.img-*"))
    if not paths:
        pytest.skip("this host has no initramfs")
    listed = check(["lsinitramfs", paths[-1]], timeout=25, reason="list").splitlines()
    names = {Path(line).name.split(".ko")[0].replace("-", "_") for line in listed if ".ko" in Path(line).name}
    version = paths[-1].name.removeprefix("initrd.img-")
    assert read_initramfs(paths[-1].read_bytes()).modules(version) == names


@pytest.mark.tools
def test_an_archive_of_the_cpio_program_is_read(tmp_path: Path) -> None:
    need_tools("cpio")
    place = tmp_path / f"usr/lib/modules/{VERSION}/kernel/fs"
    place.mkdir(parents=True)
    (place / "xfs.ko.gz").write_bytes(b"x" * 12345)
    (tmp_path / "lib").symlink_to("usr/lib")
    check(["sh", "-c", "find . | cpio -o -H newc > ../out.cpio"], timeout=20, reason="pack", cwd=tmp_path)
    assert read_initramfs((tmp_path.parent / "out.cpio").read_bytes()).modules(VERSION) == {"xfs"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\x89LZO\0\r\n\x1a\n" + b"x" * 99,
        b"MZ" + b"x" * 400,
        archive({"init": b""}),
        gzip.compress(MAIN)[:-200],
        gzip.compress(MAIN[:-300]),
        lzma.compress(MAIN)[:300],
        MAIN[:5000],
        b"070701" + b"-0000001" * 13,
        b"070701" + b"FFFFFFFF" * 13,
        b"\x28\xb5\x2f\xfd" + b"\xff" * 50,
        b"\x02\x21\x4c\x18" + b"\x10\0\0\0" + b"\xff" * 16,
    ],
)
def test_what_is_damaged_or_unknown_is_an_error_of_the_guest(data: bytes) -> None:
    with pytest.raises(GuestError):
        read_initramfs(data)


@settings(max_examples=150)
@given(st.data())
def test_damage_never_is_more_than_an_error_of_the_guest(data: st.DataObject) -> None:
    good = data.draw(
        st.sampled_from([MICROCODE + gzip.compress(MAIN), MAIN, MICROCODE + lzma.compress(MAIN)])
    )
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GuestError):
        read_initramfs(bytes(bad[: data.draw(st.integers(0, len(bad)))]))


@given(
    st.sampled_from([b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x5d\0\0", b"\x28\xb5\x2f\xfd", b"070701"]),
    st.binary(),
)
def test_noise_behind_any_magic_is_an_error_of_the_guest(magic: bytes, noise: bytes) -> None:
    with pytest.raises(GuestError):
        read_initramfs(magic + noise)


def test_a_small_file_cannot_become_a_large_one() -> None:
    budget = Budget(content=1024 * 1024)
    bomb = gzip.compress(entry("usr/bin/large", bytes(64 * 1024 * 1024)))
    with pytest.raises(GuestError, match="too large"):
        read_initramfs(bomb, budget)
    assert budget.content > -1024 * 1024


def test_too_many_entries_are_refused() -> None:
    data = initramfs(VERSION, [f"m{number}" for number in range(20)])
    with pytest.raises(GuestError, match="entries"):
        read_initramfs(data, Budget(entries=10))
