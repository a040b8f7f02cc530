"""The exFAT map against exfatprogs, exfat-fuse and partclone: nothing used is missing, files survive the
copy.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from p2v.disk.extents import normalise
from p2v.disk.maps import exfat
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.model import KiB, MiB
from tests.conftest import need_tools
from tests.disk import volumes
from tests.disk.images import opened, sparse
from tests.disk.mounting import churn, differing
from tests.disk.volumes import START, Patched, peek, poke, run

pytestmark = pytest.mark.tools

SHAPES = {
    "512": (100 * MiB + 3 * 512, ["-c", "512"]),
    "4k": (200 * MiB, ["-c", "4096"]),
    "128k": (400 * MiB + 3 * 128 * KiB + 9 * 512, ["-c", "131072"]),
}


@dataclass(frozen=True)
class Made:
    path: Path
    digests: dict[str, str]


Maker = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Volumes are made once and only read; who changes one works on a copy."""
    return cache(lambda shape: _build(shape, tmp_path_factory.mktemp("exfat")))


def _build(shape: str, folder: Path) -> Made:
    need_tools("mkfs.exfat", "fsck.exfat", "mount.exfat-fuse", "partclone.exfat")
    volumes.need_fuse()
    size, options = SHAPES[shape]
    image = sparse(folder / "fs.img", size)
    run("mkfs.exfat", *options, image)
    with volumes.fuse_mounted("mount.exfat-fuse", image, folder / "mnt") as top:
        digests = churn(top, seed=len(shape), files=600)
    return Made(image, digests)


def own_copy(made: Maker, shape: str, folder: Path) -> Path:
    return Path(shutil.copy(made(shape).path, folder / "own.img"))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_what_partclone_copies(made: Maker, shape: str) -> None:
    image = made(shape).path
    size = image.stat().st_size
    oracle = volumes.partclone_used("partclone.exfat", image)
    with opened(image) as device:
        mapped = exfat.used_extents(device, 0, size)
    assert volumes.outside(oracle, mapped, size) == 0
    if shape == "128k":
        assert mapped[-1].end == size  # what makes no whole cluster
    # The other direction, or a map that says "everything" would pass: what the copy closes anyway is no
    # surplus, nor is the
    # end of the partition that makes no whole cluster.
    assert volumes.outside(mapped, normalise(oracle, size=size), size) <= 16 * KiB
    assert sum(part.length for part in mapped) < size * 3 // 4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_is_clean_and_has_the_same_files(made: Maker, shape: str, tmp_path: Path) -> None:
    volume = made(shape)
    copy, copied = volumes.copied(volume.path, tmp_path)
    assert copied < volume.path.stat().st_size * 3 // 4
    assert volumes.code("fsck.exfat", "-n", copy) == 0
    with volumes.fuse_mounted("mount.exfat-fuse", copy, tmp_path / "copy", "ro") as top:
        assert not differing(top, volume.digests)


def test_a_volume_that_was_not_unmounted_is_copied_whole(made: Maker, tmp_path: Path) -> None:
    """Without a journal, directories may name clusters that the bitmap does not yet."""
    image = own_copy(made, "4k", tmp_path)
    poke(image, 106, bytes([peek(image, 106, 1)[0] | 0x02]))
    assert "cleanly" in volumes.warning_of(image)
    with opened(image) as base:
        assert exfat.used_extents(Patched(base, live=True), 0, base.size)


def boot_checksum(region: bytes) -> bytes:
    """From the specification, in its own words of C."""
    checksum = 0
    for index, byte in enumerate(region):
        if index in (106, 107, 112):
            continue
        checksum = (0x80000000 if checksum & 1 else 0) + (checksum >> 1) + byte
        checksum &= 0xFFFFFFFF
    return struct.pack("<I", checksum)


def rewrite(image: Path, offset: int, value: bytes) -> None:
    """Change the boot sector and make its checksum right again."""
    poke(image, offset, value)
    poke(image, 11 * 512, boot_checksum(peek(image, 0, 11 * 512)) * 128)


def test_texfat_is_unknown(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    rewrite(image, 110, b"\x02")
    assert "TexFAT" in volumes.warning_of(image)


@dataclass(frozen=True)
class Layout:
    table: int
    heap: int
    cluster: int
    root: int

    def offset(self, cluster: int) -> int:
        return self.heap + (cluster - 2) * self.cluster

    def entry(self, cluster: int) -> int:
        return self.table + 4 * cluster


def layout_of(image: Path) -> Layout:
    boot = peek(image, 0, 512)
    table, _, heap, _, root = struct.unpack_from("<IIIII", boot, 80)
    return Layout(table * 512, heap * 512, 512 << boot[109], root)


def bitmap_entry(image: Path, layout: Layout) -> int:
    """Where the root directory names the bitmap."""
    root = peek(image, layout.offset(layout.root), layout.cluster)
    return layout.offset(layout.root) + next(at for at in range(0, len(root), 32) if root[at] == 0x81)


def test_a_bitmap_in_pieces_is_followed_through_the_table(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "512", tmp_path)
    layout = layout_of(image)
    with opened(image) as device:
        before = exfat.used_extents(device, 0, device.size)
    first, size = struct.unpack("<IQ", peek(image, bitmap_entry(image, layout) + 20, 12))
    count = -(-size // layout.cluster)
    last, spare = first + count - 1, 180_000
    assert count > 20
    poke(image, layout.offset(spare), peek(image, layout.offset(last), layout.cluster))
    poke(image, layout.offset(last), b"\xff" * layout.cluster)
    poke(image, layout.entry(last - 1), struct.pack("<I", spare))
    poke(image, layout.entry(spare), b"\xff\xff\xff\xff")
    with opened(image) as device, pytest.raises(MapUnknown, match="itself"):
        exfat.used_extents(device, 0, device.size)
    where = (spare - 2) // 8
    home = layout.offset(first) + where
    poke(image, home, bytes([peek(image, home, 1)[0] | 1 << (spare - 2) % 8]))
    with opened(image) as device:
        after = exfat.used_extents(device, 0, device.size)
    assert volumes.outside(after, before, image.stat().st_size) == layout.cluster
    # A chain that ends too early, or returns to where it was, is damaged.
    for following in (0xFFFFFFFF, 0, 1, 0xFFFFFFF7):
        poke(image, layout.entry(last - 1), struct.pack("<I", following))
        with opened(image) as device, pytest.raises(MapUnknown):
            exfat.used_extents(device, 0, device.size)


def test_a_root_directory_that_begins_with_other_entries(made: Maker, tmp_path: Path) -> None:
    """The bitmap's entry may stand in a later cluster of the root directory."""
    image = own_copy(made, "512", tmp_path)
    layout = layout_of(image)
    with opened(image) as device:
        before = exfat.used_extents(device, 0, device.size)
    entry = bitmap_entry(image, layout)
    content = peek(image, entry, 32)
    second = struct.unpack("<I", peek(image, layout.entry(layout.root), 4))[0]
    poke(image, entry, b"\x05" + content[1:])  # an entry that is not in use
    poke(image, layout.offset(second), content)
    with opened(image) as device:
        assert exfat.used_extents(device, 0, device.size) == before
    poke(image, layout.entry(layout.root), struct.pack("<I", layout.root))  # a loop
    poke(image, layout.offset(layout.root), b"\x05" * layout.cluster)
    with opened(image) as base:
        counted = Patched(base)
        with pytest.raises(MapUnknown):
            exfat.used_extents(counted, 0, counted.size)
        assert len(counted.reads) < 20_000


def test_padding_bits_of_the_bitmap_mean_nothing(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "128k", tmp_path)
    layout = layout_of(image)
    with opened(image) as device:
        before = exfat.used_extents(device, 0, device.size)
    clusters = struct.unpack("<I", peek(image, 92, 4))[0]
    first = struct.unpack("<I", peek(image, bitmap_entry(image, layout) + 20, 4))[0]
    last = layout.offset(first) + clusters // 8
    assert clusters % 8
    poke(image, last, bytes([peek(image, last, 1)[0] | 0xFF << clusters % 8 & 0xFF]))
    with opened(image) as device:
        assert exfat.used_extents(device, 0, device.size) == before


def test_an_erased_bitmap_is_unknown(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    layout = layout_of(image)
    first, size = struct.unpack("<IQ", peek(image, bitmap_entry(image, layout) + 20, 12))
    poke(image, layout.offset(first), bytes(size))
    assert "itself" in volumes.warning_of(image)


def test_the_identity_has_the_size_of_the_volume(made: Maker) -> None:
    with opened(made("512").path) as device:
        found = identify(device, 0, device.size)
        assert found is not None
        assert (found.kind, found.size) == ("exfat", device.size)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (72, b"\xff" * 8),
        (72, bytes(8)),
        (80, b"\x01\0\0\0"),
        (84, b"\x01\0\0\0"),
        (88, b"\xff\xff\xff\x7f"),
        (92, b"\xff\xff\xff\xff"),
        (92, bytes(4)),
        (96, b"\x01\0\0\0"),
        (96, b"\xff\xff\xff\x7f"),
        (105, b"\x02"),
        (108, b"\x0d"),
        (108, b"\x08"),
        (109, b"\x1d"),
    ],
)
def test_a_damaged_boot_sector_is_unknown(made: Maker, offset: int, value: bytes, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    poke(image, offset, value)
    with opened(image) as device, pytest.raises(MapUnknown):
        exfat.used_extents(device, 0, device.size)
    rewrite(image, offset, value)
    with opened(image) as device, pytest.raises(MapUnknown, match=r"^(?!the checksum)"):
        exfat.used_extents(device, 0, device.size)


def test_mutations_never_leave_the_partition(made: Maker) -> None:
    image = made("4k").path
    layout = layout_of(image)
    entry = bitmap_entry(image, layout)
    regions = [(64, 56), (layout.table, 64), (layout.offset(layout.root), 96), (entry, 32), (entry + 20, 12)]
    sums: dict[bytes, bytes] = {}

    def repair(device: Patched) -> None:
        region = device.read(START, 11 * 512)
        if region not in sums:
            sums[region] = boot_checksum(region) * 128
        device.patches.append((START + 11 * 512, sums[region]))

    volumes.survive(image, exfat.used_extents, regions, rounds=1200, repair=repair)
