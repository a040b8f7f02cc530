"""The XFS map against xfsprogs and the kernel: nothing used is missing, and files survive the copy."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v import command
from p2v.disk import extents as arithmetic
from p2v.disk.copy import ImageFiles, capture_disk
from p2v.disk.device import FileDevice
from p2v.disk.maps import used_map, xfs
from p2v.disk.maps.crc32c import crc32c
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map
from p2v.model import Extent, KiB, MiB
from tests.conftest import need_tools
from tests.disk.images import disk_of, fill_folder, opened, sparse, tool
from tests.disk.mounting import Altered, churn, differing, mounted, need_mounts, opened_live

pytestmark = pytest.mark.tools

SIZE = 320 * MiB
MOUNTED = {
    "default": [],
    "1k-8-groups-rmap": ["-b", "size=1024", "-d", "agcount=8", "-m", "rmapbt=1,reflink=1"],
    "4k-sectors-bigtime-nrext64": ["-s", "size=4096", "-m", "bigtime=1", "-i", "nrext64=1"],
    "old-5": ["-b", "size=2048", "-m", "finobt=0,reflink=0,inobtcount=0,bigtime=0", "-i", "sparse=0"],
    "full": ["-b", "size=2048", "-d", "agcount=3"],
    "1k-one-large-group": ["-b", "size=1024", "-d", "agcount=2", "-n", "size=8192"],
}
# The kernel here may be built without version 4: these are filled by mkfs and fragmented by xfs_repair.
FOURTH = {
    "4-512": ["-m", "crc=0", "-b", "size=512", "-d", "agcount=2"],
    "4-no-lazy": ["-m", "crc=0", "-l", "lazy-count=0", "-b", "size=1024"],
    "4-log-1": ["-m", "crc=0", "-l", "version=1", "-b", "size=4096"],
}


@dataclass(frozen=True)
class Made:
    """An image, and what its files must be; made once, tests work on copies or read only."""

    path: Path
    digests: dict[str, str]


class Shelf(dict[str, Made]):
    """What was made, and the folder it stands in; a test's own folder ends with the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("xfs")
    yield Shelf(folder)
    shutil.rmtree(folder)


def make(shape: str, made: Shelf) -> Made:
    need_tools("mkfs.xfs", "xfs_db", "xfs_repair")
    if shape not in made:
        folder = made.folder / shape
        folder.mkdir()
        made[shape] = _mounted(shape, folder) if shape in MOUNTED else _fourth(shape, folder)
    return made[shape]


def _mounted(shape: str, folder: Path) -> Made:
    need_mounts("xfs")
    # A log may not be smaller than 64 MiB, nor a group smaller than its log.
    image = sparse(folder / "fs.img", 2 * SIZE if "8-groups" in shape else SIZE)
    tool("mkfs.xfs", "-q", *MOUNTED[shape], image)
    with mounted(image, folder / "mnt") as top:
        digests = churn(top, seed=len(shape))
        if shape == "full":
            _fill(top, digests)
        return Made(image, digests)


def _fill(top: Path, digests: dict[str, str]) -> None:
    """To the last block, then holes again: the ends of the groups are in use."""
    with (top / "large").open("wb", buffering=0) as handle, suppress(OSError):
        while handle.write(b"\5" * MiB):
            pass
    digests["large"] = hashlib.sha256((top / "large").read_bytes()).hexdigest()
    for name in [name for name in digests if name.startswith("d")][::3]:
        (top / name).unlink()
        del digests[name]


def _fourth(shape: str, folder: Path) -> Made:
    digests = fill_folder(folder / "source", seed=3, files=400, largest=200_000)
    lines = [f"{name} ---644 0 0 {folder}/source/{name}" for name in sorted(digests)]
    (folder / "proto").write_text("\n".join(["/", "0 0", "d--755 0 0", *lines, "$", ""]))
    image = sparse(folder / "fs.img", SIZE)
    tool("mkfs.xfs", "-q", *FOURTH[shape], "-p", folder / "proto", image)
    gone = sorted(digests)[::2]
    inodes = _inodes(image, digests)
    clear = [arg for name in gone for arg in ("-c", f"inode {inodes[name]}", "-c", "write core.mode 0")]
    tool("xfs_db", "-x", *clear, image)
    found = command.need_tool("xfs_repair", reason="repair", package="xfsprogs")
    command.run([found, image], timeout=60)
    return Made(image, {name: digest for name, digest in digests.items() if name not in gone})


def _inodes(image: Path, names: dict[str, str]) -> dict[str, int]:
    said = tool("xfs_db", "-r", "-c", "ls /", image)
    return {
        words[5]: int(words[1])
        for line in said.splitlines()
        if (words := line.split())[5:] and words[5] in names
    }


def mapped(image: Path) -> list[Extent]:
    with opened(image) as device:
        return xfs.used_extents(device, 0, device.size)


def geometry(image: Path) -> dict[str, int]:
    said = tool("xfs_db", "-r", "-c", "sb 0", "-c", "p", image)
    return {name: int(value) for name, value in re.findall(r"^(\w+) = (\d+)$", said, re.M)}


def free_extents(image: Path) -> list[Extent]:
    """What xfs_db lists as free, the reserves of the groups included, in bytes."""
    sb = geometry(image)
    rows = re.findall(r"^\s+(\d+)\s+(\d+)\s+(\d+)$", tool("xfs_db", "-r", "-c", "freesp -d", image), re.M)
    size = sb["blocksize"]
    return [
        Extent((int(group) * sb["agblocks"] + int(block)) * size, int(count) * size)
        for group, block, count in rows
    ]


@pytest.mark.parametrize("shape", [*MOUNTED, *FOURTH])
def test_all_but_what_xfs_db_calls_free_is_in_the_map(shape: str, made: Shelf, tmp_path: Path) -> None:
    image = make(shape, made).path
    sb = geometry(image)
    unit = sb["blocksize"]
    used = bytearray(b"\1" * sb["dblocks"])
    free = free_extents(image)
    assert len(free) > 100, "the image is not fragmented: this would test little"
    for extent in free:
        used[extent.start // unit : extent.end // unit] = bytes(extent.length // unit)
    covered = bytearray(sb["dblocks"])
    for extent in mapped(image):
        assert (extent.start % unit, extent.length % unit) == (0, 0)
        covered[extent.start // unit : extent.end // unit] = b"\1" * (extent.length // unit)
    missing = [block for block in range(len(used)) if used[block] and not covered[block]]
    assert not missing, f"{len(missing)} used blocks are not in the map, first {missing[:5]}"
    # The other direction, or a map that says "everything" would pass: large free extents are not read.
    for extent in free:
        if extent.length > 16 * KiB:
            assert not any(covered[extent.start // unit : extent.end // unit])


@pytest.mark.parametrize("shape", [*MOUNTED, *FOURTH])
def test_the_copy_is_clean_and_has_the_same_files(shape: str, made: Shelf, tmp_path: Path) -> None:
    source = make(shape, made)
    copy = copied(source.path, tmp_path)
    check(copy)
    if shape in FOURTH:
        assert not _differing_blocks(source, copy)
        return
    with mounted(copy, tmp_path / "copy", "ro") as top:
        assert not differing(top, source.digests)


def copied(image: Path, folder: Path) -> Path:
    files = ImageFiles(folder / "copy.raw", folder / "copy.digest")
    with opened(image) as device:
        used = disk_map(device, disk_of(image))
        assert not used.warnings
        assert used.data_size < device.size
        capture_disk(device, used.extents, files, progress=lambda _: None)
    return files.partial_image


def check(image: Path) -> None:
    found = command.need_tool("xfs_repair", reason="check", package="xfsprogs")
    result = command.run([found, "-n", image], timeout=60)
    assert result.code == 0, result.stdout + result.stderr


def _differing_blocks(source: Made, copy: Path) -> list[str]:
    """Files of which a block that xfs_db names differs between source and copy."""
    inodes = _inodes(source.path, source.digests)
    assert len(inodes) == len(source.digests)
    sb = geometry(source.path)
    orders = [arg for name in inodes for arg in ("-c", f"inode {inodes[name]}", "-c", "bmap")]
    said = tool("xfs_db", "-r", *orders, source.path)
    rows = re.findall(r"startblock \d+ \((\d+)/(\d+)\) count (\d+)", said)
    assert len(rows) >= len(inodes)
    one, other = source.path.read_bytes(), copy.read_bytes()
    places = [(int(group) * sb["agblocks"] + int(block), int(count)) for group, block, count in rows]
    cuts = [slice(at * sb["blocksize"], (at + count) * sb["blocksize"]) for at, count in places]
    return [str(cut) for cut in cuts if one[cut] != other[cut] or not any(one[cut])]


def test_a_mounted_one_survives_with_what_was_synced(tmp_path: Path) -> None:
    """Right after `sync` the free-space trees on the disk are older than the log: the log must be heard."""
    need_mounts("xfs")
    need_tools("mkfs.xfs", "xfs_repair")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.xfs", "-q", image)
    with mounted(image, tmp_path / "mnt") as top:
        digests = churn(top, seed=5, files=400)
        tool("sync", "-f", top)
        with opened(image) as device, pytest.raises(MapUnknown, match="log"):
            xfs.used_extents(device, 0, device.size)
        files = ImageFiles(tmp_path / "copy.raw", tmp_path / "copy.digest")
        with opened_live(image) as device:
            used = disk_map(device, disk_of(image))
            assert not used.warnings
            capture_disk(device, used.extents, files, progress=lambda _: None)
    with mounted(files.partial_image, tmp_path / "copy") as top:
        assert not differing(top, digests)
    check(files.partial_image)


def test_a_frozen_one_is_mapped_finely(tmp_path: Path) -> None:
    """A freeze writes everything back but leaves the log open: no group may be copied whole for it."""
    need_mounts("xfs")
    need_tools("mkfs.xfs", "fsfreeze")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.xfs", "-q", image)
    with mounted(image, tmp_path / "mnt") as top:
        digests = churn(top, seed=6, files=400)
        tool("fsfreeze", "-f", top)
        try:
            with opened_live(image) as device:
                used = xfs.used_extents(device, 0, device.size)
                files = ImageFiles(tmp_path / "copy.raw", tmp_path / "copy.digest")
                whole = arithmetic.normalise(used, size=device.size)
                capture_disk(device, whole, files, progress=lambda _: None)
        finally:
            tool("fsfreeze", "-u", top)
    assert arithmetic.total(used) < SIZE // 2
    with mounted(files.partial_image, tmp_path / "copy") as top:
        assert not differing(top, digests)


def test_only_groups_that_changed_since_they_were_written_back_are_copied_whole(tmp_path: Path) -> None:
    need_mounts("xfs")
    need_tools("mkfs.xfs", "fsfreeze")
    image = sparse(tmp_path / "fs.img", SIZE)
    tool("mkfs.xfs", "-q", image)
    with mounted(image, tmp_path / "mnt") as top:
        churn(top, seed=7, files=400)
        tool("fsfreeze", "-f", top)
        tool("fsfreeze", "-u", top)
        (top / "one").write_bytes(b"1" * 5000)
        for folder in (top / "d0", top / "d1"):  # changes a folder, and so a buffer, but no free space
            name = next(folder.iterdir())
            name.rename(folder / name.name[::-1])
        tool("sync", "-f", top)
        with opened_live(image) as device:
            found = xfs.used_extents(device, 0, device.size)
    group = geometry(image)["agblocks"] * 4096
    starts = range(0, SIZE, group)
    whole = [at for at in starts if any(extent.start <= at and extent.end >= at + group for extent in found)]
    assert len(whole) == 1


def test_small_batches_give_the_same_map(
    made: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make("1k-one-large-group", made).path
    before = mapped(image)
    monkeypatch.setattr(xfs, "NODE_BATCH", 1)
    monkeypatch.setattr(xfs, "AG_BATCH", 1)
    assert mapped(image) == before


@pytest.mark.parametrize("shape", ["default", "4-no-lazy"])
def test_a_log_that_was_not_closed_copies_everything(shape: str, made: Shelf, tmp_path: Path) -> None:
    image = clone(make(shape, made).path, tmp_path)
    said = tool("xfs_logprint", "-t", image)
    head = int(re.search(r"head:\s*(\d+)", said)[1])  # type: ignore[index]
    sb = geometry(image)
    assert head >= 2
    log = log_start(sb)
    with image.open("r+b") as handle:
        handle.seek(log + (head - 1) * 512 + 9)
        flags = handle.read(1)[0]
        assert flags & 0x20
        handle.seek(log + (head - 1) * 512 + 9)
        handle.write(bytes([flags & ~0x20]))
    with opened(image) as device:
        found = used_map(device, 0, device.size, identify(device, 0, device.size), name="sda1")
    assert found.extents == (Extent(0, SIZE),)
    assert "log" in found.warnings[0]


def test_a_log_that_was_overtaken_is_not_closed(made: Shelf, tmp_path: Path) -> None:
    """Writes of a log may overtake each other: an unmount record with newer blocks behind a gap is no end."""
    image = clone(make("default", made).path, tmp_path)
    head = int(re.search(r"head:\s*(\d+)", tool("xfs_logprint", "-t", image))[1])  # type: ignore[index]
    start = log_start(geometry(image))
    with image.open("r+b") as handle:
        handle.seek(start + (head - 1) * 512)
        cycle = handle.read(4)
        handle.seek(start + (head + 1000) * 512)
        handle.write(cycle)
    with opened(image) as device, pytest.raises(MapUnknown, match="log"):
        xfs.used_extents(device, 0, device.size)


def log_start(sb: dict[str, int]) -> int:
    shift = sb["agblklog"]
    group, block = sb["logstart"] >> shift, sb["logstart"] & ((1 << shift) - 1)
    return (group * sb["agblocks"] + block) * sb["blocksize"]


def clone(image: Path, folder: Path) -> Path:
    tool("cp", "--sparse=always", image, folder / "clone.img")
    return folder / "clone.img"


def damaged(image: Path, folder: Path, *orders: str) -> Path:
    """A clone that xfs_db has written into; it keeps checksums right."""
    path = clone(image, folder)
    tool("xfs_db", "-x", *[arg for order in orders for arg in ("-c", order)], path)
    return path


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        (("sb 0", "write -d fdblocks 7"), "count"),
        (("agf 1", "write -d freeblks 7"), "contradicts"),
        (("agf 0", "write -d bnolevel 3"), "contradicts"),
        (("agf 2", "write -d length 99"), "contradicts"),
        (("agf 0", "addr bnoroot", "write -d numrecs 0"), "contradicts"),
        (("sb 0", "write -d rblocks 7"), "real-time"),
        (("sb 0", "write -d logstart 0"), "log"),
        (("sb 0", "write -d features_incompat 0x100"), "features"),
        (("sb 0", "write -d features_ro_compat 0x80000000"), "features"),
        (("sb 0", "write -d agcount 3"), "superblock"),
    ],
)
def test_what_contradicts_itself_is_unknown(
    orders: tuple[str, ...], reason: str, made: Shelf, tmp_path: Path
) -> None:
    image = damaged(make("default", made).path, tmp_path, *orders)
    with opened(image) as device, pytest.raises(MapUnknown, match=reason):
        xfs.used_extents(device, 0, device.size)


def test_a_tree_that_points_out_of_its_group_is_unknown(made: Shelf, tmp_path: Path) -> None:
    source = make("1k-one-large-group", made).path
    image = damaged(source, tmp_path, "agf 0", "addr bnoroot", "write -d ptrs[2] 0x7fffffff")
    with opened(image) as device, pytest.raises(MapUnknown, match="points outside"):
        xfs.used_extents(device, 0, device.size)


def test_on_a_live_device_a_group_that_contradicts_itself_is_copied_whole(
    made: Shelf, tmp_path: Path
) -> None:
    source = make("default", made).path
    group = geometry(source)["agblocks"] * 4096
    image = damaged(source, tmp_path, "agf 1", "write -d freeblks 7")
    with opened_live(image) as device:
        found = xfs.used_extents(device, 0, device.size)
    before = mapped(source)
    assert not any(extent.start <= group and extent.end >= 2 * group for extent in before)
    assert any(extent.start <= group and extent.end >= 2 * group for extent in found)
    assert arithmetic.total(found) < arithmetic.total(before) + group


def test_a_wrong_checksum_is_unknown(made: Shelf, tmp_path: Path) -> None:
    """xfs_db repairs checksums as it writes; this is a bit that flipped on the disk."""
    image = clone(make("default", made).path, tmp_path)
    with image.open("r+b") as handle:
        handle.seek(512 + 100)  # a spare byte of the header of the first group
        handle.write(b"\1")
    with opened(image) as device, pytest.raises(MapUnknown, match="header"):
        xfs.used_extents(device, 0, device.size)


def test_crc32c_has_its_check_value() -> None:
    # The check value is that of RFC 3720, appendix B.4, and of every catalogue of CRCs.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"") == 0


@pytest.mark.parametrize("shape", ["default", "4-512"])
def test_whatever_the_bytes_are_the_map_stays_inside_and_ends(
    shape: str, made: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make(shape, made).path
    sb = geometry(image)
    # Otherwise nearly every change ends at a checksum, and nothing behind it is tested.
    monkeypatch.setattr(xfs, "_intact", lambda raw, at: True)
    group = sb["agblocks"] * sb["blocksize"]
    places = [(0, 280)] + [(number * group + sb["sectsize"], 64) for number in range(sb["agcount"])]
    places += [(number * group + block * sb["blocksize"], 300) for number in range(2) for block in (1, 2, 3)]
    places += [(log_start(sb), 2048)]
    chance = random.Random(11)
    outcomes = {"mapped": 0, "unknown": 0}
    began = time.monotonic()
    with image.open("rb") as handle:
        device = Altered(handle.fileno(), image.stat().st_size, live=False)
        for turn in range(600):
            device.live = turn % 2 == 0
            start, size = chance.choice(places)
            at = start + chance.randrange(size)
            count = chance.choice((1, 1, 1, 4, 8))
            device.changes = {
                at + step: chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
                for step in range(count)
            }
            outcomes[_outcome(device)] += 1
    assert time.monotonic() - began < 15
    assert min(outcomes.values()) > 50, outcomes


def _outcome(device: FileDevice) -> str:
    try:
        found = xfs.used_extents(device, 0, device.size)
    except MapUnknown:
        return "unknown"
    assert all(extent.start >= 0 and extent.length > 0 and extent.end <= device.size for extent in found)
    return "mapped"
