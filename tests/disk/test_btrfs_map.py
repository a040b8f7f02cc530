"""The Btrfs map against btrfs-progs and the kernel: nothing used is missing, and files survive the copy."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v.disk import extents as arithmetic
from p2v.disk.copy import ImageFiles, capture_disk
from p2v.disk.device import FileDevice
from p2v.disk.maps import btrfs, btrfs_tree, used_map
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map
from p2v.model import Extent, KiB, MiB
from tests.conftest import need_tools
from tests.disk.btrfs_edit import patched_super, with_block_group_tree, with_overlap, with_wrong_counters
from tests.disk.images import disk_of, opened, sparse, tool
from tests.disk.mounting import Altered, churn, differing, mounted, need_mounts, opened_live

pytestmark = pytest.mark.tools

SIZE = 400 * MiB
SHAPES = {
    "default": [],
    "mixed": ["-M"],
    "single-4k-nodes": ["-m", "single", "-n", "4096"],
    "64k-nodes-dup-data": ["-n", "65536", "-d", "dup"],
    "old": ["-O", "^skinny-metadata,^no-holes,^extref", "-R", "^free-space-tree"],
    "sha256": ["--csum", "sha256"],
    "blake2": ["--csum", "blake2"],
    "xxhash": ["--csum", "xxhash"],
    "raid0-of-one": ["-d", "raid0", "-m", "single"],
    "block-group-tree": [],
}


@dataclass(frozen=True)
class Made:
    """An image, and what its files must be; made once, tests work on clones or read only."""

    path: Path
    digests: dict[str, str]


class Shelf(dict[str, Made]):
    """What was made, and the folder it stands in; a test's own folder ends with the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("btrfs")
    yield Shelf(folder)
    shutil.rmtree(folder)


def make(shape: str, made: Shelf) -> Made:
    need_tools("mkfs.btrfs", "btrfs")
    need_mounts("btrfs")
    if shape not in made:
        folder = made.folder / shape
        folder.mkdir()
        image = sparse(folder / "fs.img", SIZE)
        tool("mkfs.btrfs", "-q", *SHAPES[shape], image)
        options = []
        if shape == "block-group-tree":
            with_block_group_tree(image)
            options = ["clear_cache", "space_cache=v2"]
        with mounted(image, folder / "mnt", *options) as top:
            digests = churn(top, seed=len(shape))
            digests |= _shared(top)
        made[shape] = Made(image, digests)
    return made[shape]


def _shared(top: Path) -> dict[str, str]:
    """A snapshot, a clone of a file and a compressed file: extents with several owners and other sizes."""
    tool("btrfs", "subvolume", "snapshot", top, top / "snapshot")
    tool("cp", "--reflink=always", top / "again0", top / "cloned")
    (top / "packed").touch()
    tool("btrfs", "property", "set", top / "packed", "compression", "zstd")
    (top / "packed").write_bytes(b"all the same " * 100_000)
    return {name: _sha256(top / name) for name in ("snapshot/again1", "cloned", "packed")}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clone(image: Path, folder: Path) -> Path:
    tool("cp", "--sparse=always", image, folder / "clone.img")
    return folder / "clone.img"


def mapped(image: Path) -> list[Extent]:
    with opened(image) as device:
        return btrfs.used_extents(device, 0, device.size)


def dump(image: Path, tree: str) -> str:
    return tool("btrfs", "inspect-internal", "dump-tree", "-t", tree, image)


def used_by_tools(image: Path) -> set[int]:
    """4 KiB blocks of the device that hold an extent, by the dump of btrfs-progs, both copies of a DUP."""
    said = tool("btrfs", "inspect-internal", "dump-super", image)
    node = int(re.search(r"^nodesize\s+(\d+)", said, re.M)[1])  # type: ignore[index]
    chunks = [
        (int(logical), int(length), [int(place) for place in re.findall(r"devid 1 offset (\d+)", rest)])
        for logical, length, rest in re.findall(
            r"CHUNK_ITEM (\d+)\).*?length (\d+) owner(.*?)(?=\titem|\Z)", dump(image, "chunk"), re.S
        )
    ]
    blocks: set[int] = set()
    # Only in leaves: a key of an inner node may be that of an extent that is gone.
    rows = re.findall(r"key \((\d+) (EXTENT_ITEM|METADATA_ITEM) (\d+)\) itemoff", dump(image, "extent"))
    for start, kind, size in rows:
        logical, length = int(start), node if kind == "METADATA_ITEM" else int(size)
        first, _, places = next(chunk for chunk in chunks if chunk[0] <= logical < chunk[0] + chunk[1])
        assert places
        for place in places:
            at = place + logical - first
            blocks.update(range(at // 4096, (at + length) // 4096))
    return blocks


@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_btrfs_progs_call_used_is_in_the_map(shape: str, made: Shelf, tmp_path: Path) -> None:
    image = make(shape, made).path
    used = used_by_tools(image)
    covered: set[int] = set()
    for extent in mapped(image):
        covered.update(range(extent.start // 4096, extent.end // 4096))
    used |= set(range(256)) | {16 * MiB // 1024}  # the reserved MiB, and the second superblock at 64 MiB
    assert not used - covered
    # The other direction, or a map that says "everything" would pass: only small gaps are filled.
    longest = length = 0
    before = -2
    for block in sorted(covered - used):
        length = length + 1 if block == before + 1 else 1
        longest = max(longest, length)
        before = block
    assert longest * 4096 <= 16 * KiB


@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_is_clean_and_has_the_same_files(shape: str, made: Shelf, tmp_path: Path) -> None:
    source = make(shape, made)
    copy = captured(source.path, tmp_path)
    tool("btrfs", "check", "--readonly", "--check-data-csum", copy)
    with mounted(copy, tmp_path / "copy", "ro") as top:
        assert not differing(top, source.digests)


def captured(image: Path, folder: Path) -> Path:
    files = ImageFiles(folder / "copy.raw", folder / "copy.digest")
    with opened(image) as device:
        used = disk_map(device, disk_of(image))
        assert not used.warnings
        assert used.data_size < device.size * 3 // 4
        capture_disk(device, used.extents, files, progress=lambda _: None)
    return files.partial_image


def test_what_only_the_log_tree_knows_survives(tmp_path: Path) -> None:
    """The power goes after an fsync: the file is in no extent tree, the map must have it all the same."""
    need_mounts("btrfs")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.btrfs", "-q", image)
    with mounted(image, tmp_path / "mnt") as top:
        digests = churn(top, seed=8, files=200)
        os.sync()
        content = random.Random(4).randbytes(1_000_000)
        with (top / "fsynced").open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        crashed = clone(image, tmp_path)
    said = tool("btrfs", "inspect-internal", "dump-super", crashed)
    assert not re.search(r"^log_root\s+0$", said, re.M), "there is no log tree: this would test nothing"
    copy = captured(crashed, tmp_path)
    digests["fsynced"] = hashlib.sha256(content).hexdigest()
    with mounted(copy, tmp_path / "copy") as top:
        assert not differing(top, digests)
    tool("btrfs", "check", "--readonly", "--check-data-csum", copy)


def test_a_live_one_is_mapped_with_the_metadata_of_its_next_commits(tmp_path: Path) -> None:
    need_mounts("btrfs")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.btrfs", "-q", image)
    with mounted(image, tmp_path / "mnt") as top:
        digests = churn(top, seed=9, files=400)
        tool("btrfs", "filesystem", "sync", top)
        with opened_live(image) as device:
            used = disk_map(device, disk_of(image))
            assert not used.warnings
            assert used.data_size < device.size * 3 // 4
            for number in range(50):
                (top / f"again{number % 20}").rename(top / f"moved{number}")
                (top / f"moved{number}").rename(top / f"again{number % 20}")
            tool("btrfs", "filesystem", "sync", top)
            files = ImageFiles(tmp_path / "copy.raw", tmp_path / "copy.digest")
            capture_disk(device, used.extents, files, progress=lambda _: None)
    with mounted(files.partial_image, tmp_path / "copy") as top:
        assert not differing(top, digests)


def test_a_damaged_first_copy_of_a_node_is_replaced_by_the_second(made: Shelf, tmp_path: Path) -> None:
    source = make("default", made).path
    image = clone(source, tmp_path)
    said = tool("btrfs", "inspect-internal", "dump-tree", "-t", "root", image)
    root = int(re.search(r"EXTENT_TREE ROOT_ITEM 0\).*?bytenr (\d+)", said, re.S)[1])  # type: ignore[index]
    places = re.findall(r"physical (\d+)", tool("btrfs-map-logical", "-l", str(root), image))
    assert len(places) == 2
    spoil(image, int(places[0]) + 200)
    assert mapped(image) == mapped(source)
    spoil(image, int(places[1]) + 200)
    with pytest.raises(MapUnknown, match="damaged"):
        mapped(image)


def spoil(image: Path, at: int) -> None:
    with image.open("r+b") as handle:
        handle.seek(at)
        value = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([value ^ 0x55]))


def test_small_batches_give_the_same_map(
    made: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make("single-4k-nodes", made).path
    before = mapped(image)
    monkeypatch.setattr(btrfs_tree, "NODE_BATCH", 1)
    assert mapped(image) == before


def test_every_root_is_found_in_a_tree_of_several_levels(tmp_path: Path) -> None:
    need_mounts("btrfs")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.btrfs", "-q", "-m", "single", "-n", "4096", image)
    with mounted(image, tmp_path / "mnt") as top:
        for number in range(60):
            tool("btrfs", "subvolume", "create", top / f"volume{number}")
    said = dump(image, "root")
    assert re.search(r"^node \d+ level [1-9]", said, re.M), "one leaf holds all: this would test nothing"
    roots = re.findall(r"key \((\d+) ROOT_ITEM \d+\) itemoff.*?bytenr (\d+)", said, re.S)
    assert len(roots) >= 60
    with opened(image) as device:
        found = btrfs._Map(device, 0, device.size)
        for number, logical in roots:
            assert found._root_of(int(number)).logical == int(logical)


def test_block_groups_that_miscount(tmp_path: Path) -> None:
    """Not mounted: nothing is believed. Live: just those groups are copied whole."""
    need_tools("mkfs.btrfs")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.btrfs", "-q", image)
    before = mapped(image)
    data = with_wrong_counters(image)
    with pytest.raises(MapUnknown, match="contradicts itself"):
        mapped(image)
    with opened_live(image) as device:
        found = btrfs.used_extents(device, 0, device.size)
    assert any(extent.start <= data.start and extent.end >= data.end for extent in found)
    assert not any(extent.start <= data.start and extent.end >= data.end for extent in before)
    assert arithmetic.total(found) < SIZE // 2


def test_extents_that_overlap_are_unknown(tmp_path: Path) -> None:
    need_tools("mkfs.btrfs")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.btrfs", "-q", image)
    with_overlap(image)
    with pytest.raises(MapUnknown, match="overlap"):
        mapped(image)


@pytest.mark.parametrize(
    "second",
    [
        btrfs_tree.Chunk(15, 10, 1, (300,)),  # the same addresses twice
        btrfs_tree.Chunk(50, 10, 1, (105,)),  # the same place twice
        btrfs_tree.Chunk(50, 10, 1, (995,)),  # behind the end
        btrfs_tree.Chunk(50, 10, 1, (95,)),  # before the start
    ],
)
def test_chunks_that_cannot_be_are_unknown(second: btrfs_tree.Chunk) -> None:
    first = btrfs_tree.Chunk(10, 10, 1, (110,))
    btrfs_tree.Chunks([first, btrfs_tree.Chunk(20, 10, 1, (120,))], start=100, size=900)
    with pytest.raises(MapUnknown):
        btrfs_tree.Chunks([first, second], start=100, size=900)


def test_two_devices_are_unknown(tmp_path: Path) -> None:
    need_tools("mkfs.btrfs")
    one, other = (sparse(tmp_path / name, 200 * MiB) for name in ("one", "other"))
    tool("mkfs.btrfs", "-q", "-d", "single", one, other)
    with opened(one) as device:
        found = used_map(device, 0, device.size, identify(device, 0, device.size), name="sda1")
    assert found.extents == (Extent(0, 200 * MiB),)
    assert "2 devices" in found.warnings[0]


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (188, 0x1361, "features"),  # zoned
        (188, 0x4361, "features"),  # raid stripe tree
        (180, 0x13, "features"),
        (56, 1 << 32 | 1, "features"),  # a seed of another filesystem
        (120, 4096, "count"),
        (148, 12345, "superblock"),
        (209, 1 << 60, "superblock"),
        (201, 2, "another device"),
        (80, 1 << 50, "no chunk"),
        (72, 1, "damaged"),
    ],
)
def test_what_contradicts_itself_is_unknown(
    offset: int, value: int, reason: str, made: Shelf, tmp_path: Path
) -> None:
    image = clone(make("default", made).path, tmp_path)
    patched_super(image, offset, value.to_bytes(4 if offset == 148 else 8, "little"))
    with opened(image) as device, pytest.raises(MapUnknown, match=reason):
        btrfs.used_extents(device, 0, device.size)


def test_a_wrong_checksum_of_the_superblock_is_unknown(made: Shelf, tmp_path: Path) -> None:
    image = clone(make("default", made).path, tmp_path)
    spoil(image, 64 * KiB + 300)
    with pytest.raises(MapUnknown, match="superblock"):
        mapped(image)


@pytest.mark.parametrize("shape", ["default", "single-4k-nodes"])
def test_whatever_the_bytes_are_the_map_stays_inside_and_ends(
    shape: str, made: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make(shape, made).path
    # Otherwise nearly every change ends at a checksum, and nothing behind it is tested.
    monkeypatch.setattr(btrfs_tree, "intact", lambda raw, checksum: True)
    monkeypatch.setattr(btrfs, "intact", lambda raw, checksum: True)
    with opened(image) as device:
        reads = Watched(device)
        btrfs.used_extents(reads, 0, device.size)
    places = [(64 * KiB, 300), (64 * KiB + 811, 200)]
    places += [(at, 101 + 300) for at in reads.nodes] + [
        (at + size - 500, 500) for at, size in reads.nodes.items()
    ]
    chance = random.Random(12)
    outcomes = {"mapped": 0, "unknown": 0}
    began = time.monotonic()
    with image.open("rb") as handle:
        altered = Altered(handle.fileno(), image.stat().st_size, live=False)
        for turn in range(600):
            altered.live = turn % 3 == 0
            start, size = chance.choice(places)
            at = start + chance.randrange(size)
            altered.changes = {
                at + step: chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
                for step in range(chance.choice((1, 1, 4, 8)))
            }
            outcomes[_outcome(altered)] += 1
    assert time.monotonic() - began < 15
    assert min(outcomes.values()) > 50, outcomes


class Watched(FileDevice):
    """Notes where it was read."""

    def __init__(self, inner: FileDevice) -> None:
        super().__init__(inner._handle, size=inner.size, sector_size=512, name="watched")
        self.nodes: dict[int, int] = {}

    def read(self, offset: int, length: int) -> bytes:
        self.nodes[offset] = length
        return super().read(offset, length)


def _outcome(device: FileDevice) -> str:
    try:
        found = btrfs.used_extents(device, 0, device.size)
    except MapUnknown:
        return "unknown"
    assert all(extent.start >= 0 and extent.length > 0 and extent.end <= device.size for extent in found)
    assert arithmetic.total(found) <= device.size
    return "mapped"
