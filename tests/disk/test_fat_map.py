"""The FAT map against dosfstools, mtools and partclone: nothing used is missing, and files survive the
copy.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from p2v.disk.extents import normalise
from p2v.disk.maps import fat
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.model import KiB, MiB
from tests.conftest import need_tools
from tests.disk import volumes
from tests.disk.images import fill_folder, opened, sparse
from tests.disk.volumes import Patched, peek, poke, run

pytestmark = pytest.mark.tools

SHAPES = {
    "12-floppy": (1440 * KiB, ["-F", "12"]),
    "12": (12 * MiB, ["-F", "12", "-s", "8"]),
    "16": (64 * MiB + 3 * 512, ["-F", "16"]),
    "16-one-table": (64 * MiB, ["-F", "16", "-f", "1", "-R", "9"]),
    "32-512": (96 * MiB, ["-F", "32", "-s", "1"]),
    "32-16k": (1200 * MiB, ["-F", "32", "-s", "32"]),
    "32-4k-sectors": (300 * MiB, ["-F", "32", "-S", "4096", "-s", "1"]),
}


@dataclass(frozen=True)
class Made:
    path: Path
    digests: dict[str, str]


Maker = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Volumes are made once and only read; who changes one works on a copy."""
    return cache(lambda shape: _build(shape, tmp_path_factory.mktemp("fat")))


def _build(shape: str, folder: Path) -> Made:
    """Files written, every second deleted, larger ones written into the holes."""
    need_tools("mkfs.fat", "fsck.fat", "mcopy", "mdel", "partclone.fat", "blkls")
    size, options = SHAPES[shape]
    image = sparse(folder / "fs.img", size)
    run("mkfs.fat", *options, image)
    largest = min(2 * MiB, size // 24)
    first = fill_folder(folder / "first", seed=1, files=30 if size < 2 * MiB else 120, largest=largest)
    again = fill_folder(folder / "again", seed=2, files=8, largest=largest // 4)
    run("mcopy", "-i", image, *sorted((folder / "first").iterdir()), "::")
    gone = sorted(first)[::2]
    run("mdel", "-i", image, *(f"::{name}" for name in gone))
    run("mmd", "-i", image, "::again")
    run("mcopy", "-i", image, *sorted((folder / "again").iterdir()), "::again")
    kept = {name: digest for name, digest in first.items() if name not in gone}
    return Made(image, kept | {f"again/{name}": digest for name, digest in again.items()})


def own_copy(made: Maker, shape: str, folder: Path) -> Path:
    return Path(shutil.copy(made(shape).path, folder / "own.img"))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_what_others_call_used(made: Maker, shape: str) -> None:
    image = made(shape).path
    size = image.stat().st_size
    if shape.startswith("12"):
        # partclone 0.3.23 unpacks entries of 12 bits wrongly: it would lose a third of this one's data.
        oracle = volumes.sleuthkit_used("fat12", image)
    else:
        oracle = volumes.partclone_used("partclone.fat", image)
    with opened(image) as device:
        mapped = fat.used_extents(device, 0, size)
    assert volumes.outside(oracle, mapped, size) == 0
    # The other direction, or a map that says "everything" would pass.
    assert volumes.outside(mapped, normalise(oracle, size=size), size) <= 16 * KiB
    assert sum(part.length for part in mapped) < size * 3 // 4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_is_clean_and_has_the_same_files(made: Maker, shape: str, tmp_path: Path) -> None:
    volume = made(shape)
    copy, copied = volumes.copied(volume.path, tmp_path)
    assert copied < volume.path.stat().st_size * 3 // 4
    assert volumes.code("fsck.fat", "-n", copy) == 0
    out = tmp_path / "out"
    out.mkdir()
    run("mcopy", "-s", "-n", "-i", copy, "::", out)
    found = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }
    assert found == volume.digests


def test_fat32_with_few_clusters_is_fat32(tmp_path: Path) -> None:
    """As EFI system partitions are: by the counts of the specification it would be FAT16."""
    need_tools("mkfs.fat", "fsck.fat")
    image = sparse(tmp_path / "esp.img", 48 * MiB)
    run("mkfs.fat", "-F", "32", "-s", "8", image)
    first, length = tables(image)
    data = first + 2 * length
    chain = [10, 2000, 9000]
    for cluster, following in zip(chain, [*chain[1:], 0x0FFFFFFF], strict=True):
        poke(image, data + (cluster - 2) * 4096, bytes([cluster & 0xFF]) * 4096)
        for table in range(2):
            poke(image, first + table * length + 4 * cluster, struct.pack("<I", following))
    entry = struct.pack("<11sB8xHHHHI", b"LOADER  EFI", 0x20, 0, 0, 0x5821, chain[0], 3 * 4096)
    poke(image, data, entry)
    poke(image, 512 + 488, struct.pack("<I", struct.unpack("<I", peek(image, 512 + 488, 4))[0] - 3))
    assert volumes.code("fsck.fat", "-n", image) == 0
    copy, copied = volumes.copied(image, tmp_path)
    assert volumes.code("fsck.fat", "-n", copy) == 0
    assert copied <= MiB + 16 * KiB + data
    for cluster in chain:
        assert peek(copy, data + (cluster - 2) * 4096, 4096) == bytes([cluster & 0xFF]) * 4096


def test_bad_clusters_count_as_used(tmp_path: Path) -> None:
    need_tools("mkfs.fat")
    image = sparse(tmp_path / "bad.img", 64 * MiB)
    (tmp_path / "bad.txt").write_text("40000\n")  # in KiB
    run("mkfs.fat", "-F", "32", "-s", "1", "-l", tmp_path / "bad.txt", image)
    with opened(image) as device:
        mapped = fat.used_extents(device, 0, device.size)
    assert any(part.start <= 40000 * KiB < part.end for part in mapped)
    assert sum(part.length for part in mapped) < 8 * MiB


def tables(image: Path) -> tuple[int, int]:
    """Where the first table stands, and the length of each."""
    boot = peek(image, 0, 512)
    sector, reserved = struct.unpack_from("<HxH", boot, 11)
    return sector * reserved, sector * struct.unpack_from("<I", boot, 36)[0]


def test_without_mirroring_the_active_table_alone_counts(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "32-512", tmp_path)
    with opened(image) as device:
        before = fat.used_extents(device, 0, device.size)
    first, length = tables(image)
    poke(image, first + 8, b"\x11" * (length - 8))  # stale: everything is used
    with opened(image) as device:
        assert fat.used_extents(device, 0, device.size) != before  # mirrored: used in one is used
    poke(image, 40, b"\x81\x00")
    with opened(image) as device:
        assert fat.used_extents(device, 0, device.size) == before
    poke(image, 40, b"\x85\x00")  # there is no sixth table
    with opened(image) as device, pytest.raises(MapUnknown):
        fat.used_extents(device, 0, device.size)


@pytest.mark.parametrize("table", [0, 1])
def test_a_cluster_that_one_of_two_tables_knows_is_copied(made: Maker, table: int, tmp_path: Path) -> None:
    """A checker may be told to believe the second."""
    image = own_copy(made, "32-512", tmp_path)
    first, length = tables(image)
    poke(image, first + table * length + 4 * 150_000, b"\x01\x00\x00\x00")
    data = first + 2 * length
    with opened(image) as device:
        mapped = fat.used_extents(device, 0, device.size)
    assert any(part.start <= data + 149_998 * 512 < part.end for part in mapped)


@pytest.mark.parametrize(
    ("shape", "offset", "mask"),
    [("16", 0x25, 0x01), ("32-512", 0x41, 0x01), ("12", 0x25, 0x01), ("16", -1, 0x80), ("32-512", -1, 0x08)],
)
def test_a_volume_that_was_not_unmounted_is_copied_whole(
    made: Maker, shape: str, offset: int, mask: int, tmp_path: Path
) -> None:
    """Both marks: the one in the boot sector (Windows NT, Linux), and the one in the table (Windows 9x)."""
    image = own_copy(made, shape, tmp_path)
    if offset < 0:
        sector, reserved = struct.unpack_from("<HxH", peek(image, 0, 512), 11)
        offset = sector * reserved + (3 if shape == "16" else 7)
    poke(image, offset, bytes([peek(image, offset, 1)[0] ^ mask]))
    assert "cleanly" in volumes.warning_of(image)
    with opened(image) as base:
        assert fat.used_extents(Patched(base, live=True), 0, base.size)


def test_the_counters_of_fsinfo_are_hints(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "32-512", tmp_path)
    with opened(image) as device:
        before = fat.used_extents(device, 0, device.size)
        found = identify(device, 0, device.size)
        used = sum(part.length for part in volumes.partclone_used("partclone.fat", image))
    assert found is not None
    assert found.used is not None
    assert abs(found.used - used) <= MiB
    poke(image, 512 + 488, b"\x01\x00\x00\x00")
    with opened(image) as device:
        assert fat.used_extents(device, 0, device.size) == before
    poke(image, 512 + 488, b"\xff\xff\xff\xff")
    with opened(image) as device:
        unknown = identify(device, 0, device.size)
        assert unknown is not None
        assert unknown.used is None


def test_every_bit_of_an_entry_counts(made: Maker, tmp_path: Path) -> None:
    """Three bits of 12; and of 32 the lower 28, the others are reserved."""
    assert fat._digits_12(b"\0\0\x10\x01\0\0\0\x08", 5) == "01101"
    image = own_copy(made, "32-512", tmp_path)
    first, _ = tables(image)
    with opened(image) as device:
        before = fat.used_extents(device, 0, device.size)
    poke(image, first + 4 * 150_000, b"\0\0\0\xf0")
    with opened(image) as device:
        assert fat.used_extents(device, 0, device.size) == before
    poke(image, first + 4 * 150_000, b"\0\0\0\xf1")
    with opened(image) as device:
        after = fat.used_extents(device, 0, device.size)
    assert volumes.outside(after, before, image.stat().st_size) == 512


def test_an_erased_table_is_unknown(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "32-512", tmp_path)
    first, length = tables(image)
    media = peek(image, first, 8)
    poke(image, first, bytes(2 * length))
    assert "media" in volumes.warning_of(image)
    poke(image, first, media)
    assert "root" in volumes.warning_of(image)


@pytest.mark.parametrize(
    ("shape", "offset", "value"),
    [
        ("12", 11, b"\0\0"),
        ("12", 13, b"\0"),
        ("12", 13, b"\x03"),
        ("12", 14, b"\0\0"),
        ("12", 16, b"\0"),
        ("12", 16, b"\xff"),
        ("12", 22, b"\x01\0"),  # too small for the clusters
        ("16", 32, b"\xff\xff\xff\xff"),
        ("16", 32, struct.pack("<I", 64 * 2048 + 3 + 8)),  # longer than the partition
        ("32-512", 36, b"\xff\xff\xff\x7f"),
        ("32-512", 42, b"\x01\0"),
        ("32-512", 44, b"\0\0\0\0"),
        ("32-512", 44, b"\xff\xff\xff\x0f"),
    ],
)
def test_a_damaged_boot_sector_is_unknown(made: Maker, shape: str, offset: int, value: bytes) -> None:
    with opened(made(shape).path) as base:
        device = Patched(base)
        device.patches = [(offset, value)]
        with pytest.raises(MapUnknown):
            fat.used_extents(device, 0, device.size)


@pytest.mark.parametrize("shape", ["12-floppy", "16", "32-512"])
def test_mutations_never_leave_the_partition(made: Maker, shape: str) -> None:
    image = made(shape).path
    sector, reserved = struct.unpack_from("<HxH", peek(image, 0, 512), 11)
    regions = [(0, 96), (11, 40), (sector * reserved, 16), (sector * reserved, 4096)]
    volumes.survive(image, fat.used_extents, regions, rounds=1000, seconds=10)
