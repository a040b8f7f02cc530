"""Members of Linux software RAID: found by whatever version of the superblock, and copied whole.

The superblocks here are written from the kernel's `md_p.h`; mdadm says whether they are right.
"""

from __future__ import annotations

import os
import re
import struct
import uuid
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map, inspect_disk
from p2v.model import Extent, KiB, MiB
from tests.conftest import need_tools
from tests.disk import volumes
from tests.disk.images import disk_of, opened, partitioned, sparse
from tests.disk.volumes import peek, poke, run

pytestmark = pytest.mark.tools

ARRAY = uuid.UUID("01020304-0506-0708-090a-0b0c0d0e0f10")
SIZE = 64 * MiB + 37 * 512
VERSIONS = ["0.90", "0.90-big-endian", "1.0", "1.1", "1.2"]


def superblock_1(minor: int, size: int, level: int = 1) -> tuple[int, bytes]:
    """Where it stands in a member of `size` bytes, and itself."""
    sectors = size // 512
    own = {0: (sectors - 16) & ~7, 1: 0, 2: 8}[minor]
    data = 0 if minor == 0 else 2048
    block = bytearray(256 + 2 * 128)
    struct.pack_into("<III4x16s32s", block, 0, 0xA92B4EFC, 1, 0, ARRAY.bytes, b"host:0")
    struct.pack_into("<QiIQII", block, 64, 1, level, 0, own if minor == 0 else sectors - data, 0, 2)
    struct.pack_into("<QQQ", block, 128, data, own if minor == 0 else sectors - data, own)
    struct.pack_into("<QI4x16s", block, 152, 0, 0, bytes(range(16)))
    struct.pack_into("<QQQII", block, 192, 1, 1, 0xFFFFFFFFFFFFFFFF, 0, 128)
    for role in range(128):
        struct.pack_into("<H", block, 256 + 2 * role, role if role < 2 else 0xFFFF)
    total = sum(struct.unpack("<128I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return own * 512, bytes(block)


def superblock_0(order: str, size: int, member_kib: int) -> tuple[int, bytes]:
    words = [0] * 1024
    words[:12] = [0xA92B4EFC, 0, 90, 0, 0, 0x01020304, 1, 1, member_kib, 2, 2, 0]
    words[13:16] = [0x05060708, 0x090A0B0C, 0x0D0E0F10]
    words[32:42] = [1, 1, 2, 2, 0, 0, 0, 0, 0, 0]  # time, state clean, active, working
    words[39], words[40] = (1, 0) if order == "<" else (0, 1)  # events, in the order of the machine
    for disk in range(2):
        words[128 + 32 * disk : 133 + 32 * disk] = [disk, 8, 1 + disk, disk, 6]
    words[992:997] = [0, 8, 1, 0, 6]
    total = sum(words)
    words[38] = (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
    return size // (64 * KiB) * (64 * KiB) - 64 * KiB, struct.pack(f"{order}1024I", *words)


def superblock(version: str, size: int) -> tuple[int, bytes]:
    match version.split("-", maxsplit=1)[0].split("."):
        case ["0", _]:
            order = ">" if version.endswith("endian") else "<"
            return superblock_0(order, size, size // (64 * KiB) * 64 - 64)
        case [_, minor]:
            return superblock_1(int(minor), size)
        case _:
            raise AssertionError(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_is_known_by_any_superblock(tmp_path: Path, version: str) -> None:
    need_tools("mdadm", "mkfs.ext4")
    image = sparse(tmp_path / "member.img", SIZE)
    # A mirror of version 0.90 or 1.0 shows its filesystem from the first byte on.
    run("mkfs.ext4", "-q", "-F", image, "60m")
    offset, block = superblock(version, SIZE)
    poke(image, offset, block)
    said = examined(image)
    assert re.search(rf"Version : {re.escape(version.split('-', maxsplit=1)[0])}", said), said
    assert "correct" in said
    with opened(image) as device:
        found = identify(device, 0, device.size)
        assert found is not None
        assert (found.kind, found.size, found.uuid) == ("linux_raid_member", SIZE, str(ARRAY))
        assert disk_map(device, disk_of(image)).extents == (Extent(0, SIZE),)


def examined(image: Path) -> str:
    """What mdadm says of it; superblocks of the other byte order are asked for by name."""
    with volumes.attached(image) as loop:
        found = command.need_tool("mdadm", reason="check", package="mdadm")
        result = command.run([found, "--examine", loop], timeout=30)
        if result.code:
            result = command.run([found, "--examine", "--metadata=0.swap", loop], timeout=30)
    return result.stdout + result.stderr


@pytest.mark.parametrize("version", ["0.90", "1.0"])
def test_a_member_in_a_partition_keeps_its_superblock(tmp_path: Path, version: str) -> None:
    """The copy is an array again: the filesystem's smaller size must not cut its end off."""
    need_tools("mdadm", "mkfs.ext4")
    image = partitioned(
        tmp_path / "disk.img", "label: gpt\nstart=2048, size=100000\nstart=104448\n", 96 * MiB
    )
    start, size = 2048 * 512, 100000 * 512
    member = sparse(tmp_path / "member.img", size)
    run("mkfs.ext4", "-q", "-F", member, "40m")
    offset, block = superblock(version, size)
    poke(member, offset, block)
    poke(image, start, member.read_bytes())
    with opened(image) as device:
        first = inspect_disk(device, disk_of(image)).partitions[0].filesystem
        assert first is not None
        assert first.kind == "linux_raid_member"
        extents = disk_map(device, disk_of(image)).extents
    assert any(part.start <= start and part.end >= start + size for part in extents)
    copy, _ = volumes.copied(image, tmp_path)
    assert peek(copy, start, size) == member.read_bytes()


@pytest.mark.parametrize("version", ["0.90", "1.0"])
def test_a_whole_disk_with_a_partition_table_is_known_as_a_member(tmp_path: Path, version: str) -> None:
    """The table is the array's: on other levels than a mirror, what it shows here is in pieces."""
    image = partitioned(tmp_path / "disk.img", "label: dos\nstart=2048, size=80000, type=83\n", 64 * MiB)
    offset, block = superblock(version, 64 * MiB)
    poke(image, offset, block)
    with opened(image) as device:
        found = identify(device, 0, device.size)
        assert found is not None
        assert found.kind == "linux_raid_member"


def test_the_superblock_of_the_whole_disk_is_not_the_last_partitions(tmp_path: Path) -> None:
    """Where the last partition ends with the disk, one superblock stands at the end of both."""
    image = sparse(tmp_path / "disk.img", 64 * MiB)
    run("mkfs.fat", "-F", "16", "--offset", "65536", image, str(32 * 1024))
    for version in ("0.90", "1.0"):
        offset, block = superblock(version, 64 * MiB)
        poke(image, offset, block)
        with opened(image) as device:
            inside = identify(device, 32 * MiB, 32 * MiB)
            assert inside is not None
            assert inside.kind == "vfat"
            whole = identify(device, 0, 64 * MiB)
            assert whole is not None
            assert whole.kind == "linux_raid_member"
        poke(image, offset, bytes(len(block)))


@pytest.mark.parametrize("size", [512, 4096, 64 * KiB, 127 * KiB, 128 * KiB, 129 * KiB])
def test_tiny_and_random_partitions_are_read_within_bounds(tmp_path: Path, size: int) -> None:
    image = tmp_path / "tiny.img"
    image.write_bytes(os.urandom(size))
    with opened(image) as device:
        assert identify(device, 0, size) is None


def test_mutations_are_a_member_or_not(tmp_path: Path) -> None:
    """Whatever is changed, an answer comes; what is called a member is copied whole."""
    image = sparse(tmp_path / "member.img", SIZE)
    old, new = superblock("0.90", SIZE), superblock("1.0", SIZE)
    for offset, block in (old, new):
        poke(image, offset, block)

    def read(device: BlockDevice, start: int, length: int) -> list[Extent]:
        found = identify(device, start, length)
        if found is None:
            raise MapUnknown("nothing known")
        assert (found.kind, found.size) == ("linux_raid_member", length)
        return [Extent(start, found.size)]

    # Both at once, so that some mutations leave neither.
    regions = [(old[0], 64), (new[0], 8), (new[0] + 144, 8)]
    volumes.survive(image, read, regions, rounds=1000)


@pytest.mark.parametrize("minor", [0], ids=["1.0"])
def test_a_whole_disk_in_an_array_is_not_mapped_by_the_table_that_shows_through(
    tmp_path: Path, minor: int
) -> None:
    """The partitions end before the superblock of the array, which would be lost with free space."""
    need_tools("sfdisk")
    image = partitioned(tmp_path / "disk.img", "label: dos\nstart=2048,size=8192,type=83\n", 64 * MiB)
    with opened(image) as device:
        assert disk_map(device, disk_of(image)).data_size < device.size
    at, block = superblock_1(minor, 64 * MiB)
    poke(image, at, block)
    with opened(image) as device:
        disk = inspect_disk(device, disk_of(image))
        assert disk.filesystem is not None
        assert disk.filesystem.kind == "linux_raid_member"
        assert disk_map(device, disk).extents == (Extent(0, device.size),)
