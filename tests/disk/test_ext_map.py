"""The ext map against e2fsprogs, which wrote the filesystems: nothing used is missing, and files survive the
copy.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.device import open_file_device
from p2v.disk.maps import ext, used_map
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map
from p2v.model import Extent, MiB
from tests.conftest import need_tools
from tests.disk.images import disk_of, fill_folder, opened, sparse, tool

pytestmark = pytest.mark.tools

SHAPES = {
    "ext4-default": ("mkfs.ext4", 200, ["-b", "4096"]),
    "ext4-1k": ("mkfs.ext4", 48, ["-b", "1024"]),
    "ext4-2k-no-flex": ("mkfs.ext4", 64, ["-b", "2048", "-O", "^flex_bg"]),
    "ext4-no-csum": ("mkfs.ext4", 200, ["-b", "4096", "-O", "^metadata_csum,uninit_bg,^64bit"]),
    "ext4-meta-bg": ("mkfs.ext4", 300, ["-b", "1024", "-O", "meta_bg,^resize_inode"]),
    "ext4-bigalloc": ("mkfs.ext4", 96, ["-O", "bigalloc", "-C", "65536"]),
    "ext4-sparse-super2": ("mkfs.ext4", 300, ["-b", "1024", "-O", "sparse_super2,^resize_inode"]),
    "ext3": ("mkfs.ext3", 64, []),
    "ext2-1k": ("mkfs.ext2", 48, ["-b", "1024"]),
}


def make(tmp_path: Path, shape: str) -> tuple[Path, dict[str, str]]:
    """A filesystem with files written, some deleted again, and more written into the holes."""
    need_tools("mkfs.ext4", "debugfs", "e2fsck", "dumpe2fs")
    program, size, options = SHAPES[shape]
    source = tmp_path / "source"
    names = fill_folder(source, seed=len(shape))
    image = sparse(tmp_path / "fs.img", size * MiB)
    tool(program, "-q", "-F", *options, "-d", source, image)
    gone = sorted(names)[::3]
    more = fill_folder(tmp_path / "more", seed=7, files=12)
    script = "".join(f"rm file{name[4:]}\n" for name in gone)
    script += "".join(f"write {tmp_path}/more/{name} again-{name}\n" for name in more)
    found = command.need_tool("debugfs", reason="edit", package="e2fsprogs")
    command.check([found, "-w", "-f", "-", image], timeout=60, reason="edit", input_text=script)
    kept = {name: digest for name, digest in names.items() if name not in gone}
    return image, kept | {f"again-{name}": digest for name, digest in more.items()}


def free_ranges(image: Path) -> tuple[int, list[tuple[int, int]]]:
    """What dumpe2fs says is free: block size, and (first, last) block ranges."""
    said = tool("dumpe2fs", image)
    size = int(re.search(r"^Block size:\s+(\d+)", said, re.M)[1])  # type: ignore[index]
    # On bigalloc it prints the first block of the first and of the last cluster of a range.
    cluster = re.search(r"^Cluster size:\s+(\d+)", said, re.M)
    per_cluster = int(cluster[1]) // size if cluster else 1
    free = []
    for line in re.findall(r"^\s+Free blocks: (.*)$", said, re.M):
        for word in filter(None, line.replace(" ", "").split(",")):
            first, _, last = word.partition("-")
            free.append((int(first), int(last or first) + per_cluster - 1))
    counter = int(re.search(r"^Free blocks:\s+(\d+)", said, re.M)[1])  # type: ignore[index]
    assert sum(last - first + 1 for first, last in free) == counter
    return size, free


def untouched_blocks(image: Path) -> set[int]:
    """What dumpe2fs says was never touched: bitmaps marked so, and the ends of inode tables."""
    said = tool("dumpe2fs", image)
    size = int(re.search(r"^Block size:\s+(\d+)", said, re.M)[1])  # type: ignore[index]
    inode_size = int(re.search(r"^Inode size:\s+(\d+)", said, re.M)[1])  # type: ignore[index]
    blocks: set[int] = set()
    for group in re.split(r"^Group \d+:", said, flags=re.M)[1:]:
        places = dict(re.findall(r"(Block bitmap|Inode bitmap|Inode table) at (\S+)", group))
        number = {name: [int(one) for one in re.findall(r"\d+", place)] for name, place in places.items()}
        if "BLOCK_UNINIT" in group:
            blocks.add(number["Block bitmap"][0])
        if "INODE_UNINIT" in group:
            blocks.add(number["Inode bitmap"][0])
        unused = re.search(r"(\d+) unused inodes", group)
        last = number["Inode table"][1]
        blocks |= set(range(last + 1 - int(unused[1] if unused else 0) * inode_size // size, last + 1))
    return blocks


def covered_blocks(mapped: list[Extent], block_size: int) -> set[int]:
    return {
        block
        for extent in mapped
        for block in range(extent.start // block_size, -(-extent.end // block_size))
    }


WITH_CHECKSUMS = {shape for shape in SHAPES if shape.startswith("ext4-")}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_used_block_is_in_the_map(tmp_path: Path, shape: str) -> None:
    image, _ = make(tmp_path, shape)
    block_size, free = free_ranges(image)
    with opened(image) as device:
        mapped = ext.used_extents(device, 0, device.size)
    count = image.stat().st_size // block_size
    used = bytearray(b"\1" * count)
    for first, last in free:
        used[first : last + 1] = bytes(last + 1 - first)
    untouched = untouched_blocks(image)
    assert bool(untouched) == (shape in WITH_CHECKSUMS)
    for block in untouched:
        used[block] = 0
    covered = bytearray(count)
    for extent in mapped:
        first, end = extent.start // block_size, -(-extent.end // block_size)
        covered[first:end] = b"\1" * (end - first)
    missing = [block for block in range(count) if used[block] and not covered[block]]
    assert not missing, f"{len(missing)} used blocks are not in the map, first {missing[:5]}"
    # The other direction, or a map that says "everything" would pass.
    surplus = sum(1 for block in range(count) if covered[block] and not used[block])
    assert surplus * block_size <= 2 * MiB
    assert not untouched & covered_blocks(mapped, block_size)


@pytest.mark.parametrize("shape", ["ext4-default", "ext4-no-csum"])
def test_a_descriptor_with_a_wrong_checksum_is_not_believed(tmp_path: Path, shape: str) -> None:
    """The kernel and e2fsck then look at every inode of the group, so every one must be in the copy."""
    image, _ = make(tmp_path, shape)
    untouched = untouched_blocks(image)
    with image.open("r+b") as handle:
        handle.seek(4096 + 30)
        checksum = handle.read(1)
        handle.seek(4096 + 30)
        handle.write(bytes([checksum[0] ^ 1]))
    with opened(image) as device:
        mapped = ext.used_extents(device, 0, device.size)
    assert untouched <= covered_blocks(mapped, 4096)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_is_clean_and_has_the_same_files(tmp_path: Path, shape: str) -> None:
    image, digests = make(tmp_path, shape)
    files = ImageFiles(tmp_path / "copy.raw", tmp_path / "copy.digest")
    with opened(image) as device:
        used = disk_map(device, disk_of(image))
        assert not used.warnings
        assert used.data_size < device.size
        captured = capture_disk(device, used.extents, files, progress=lambda _: None)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    result = command.run(
        [command.need_tool("e2fsck", reason="check", package="e2fsprogs"), "-fn", files.partial_image],
        timeout=60,
    )
    assert result.code == 0, result.stdout
    tool("debugfs", "-R", f"rdump / {_folder(tmp_path / 'out')}", files.partial_image)
    for name, digest in digests.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert digest == _sha256(content), name


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_unclean_journal_copies_everything(tmp_path: Path) -> None:
    """The bitmaps may be older than the files then; believing them would lose data."""
    image, _ = make(tmp_path, "ext4-default")
    with image.open("r+b") as handle:
        handle.seek(1024 + 96)
        incompat = int.from_bytes(handle.read(4), "little")
        handle.seek(1024 + 96)
        handle.write((incompat | 0x4).to_bytes(4, "little"))
    with opened(image) as device:
        found = used_map(device, 0, device.size, identify(device, 0, device.size), name="sda1")
        assert found.extents == (Extent(0, device.size),)
        assert "journal" in found.warnings[0]


def test_a_group_whose_counter_disagrees_is_copied_whole(tmp_path: Path) -> None:
    image, _ = make(tmp_path, "ext4-no-csum")
    with opened(image) as device:
        before = ext.used_extents(device, 0, device.size)
    with image.open("r+b") as handle:
        handle.seek(4096 + 12)
        handle.write(b"\x01\x00")
    with opened(image) as device:
        after = ext.used_extents(device, 0, device.size)
    group = 32768 * 4096
    assert not any(extent.length >= group for extent in before)
    assert Extent(0, group) in after


@pytest.mark.parametrize(
    ("offset", "value"), [(24, 40), (32, 0), (36, 0), (4, 0xFFFFFFFF), (20, 9), (96, 0x80000000)]
)
def test_a_damaged_superblock_is_unknown(tmp_path: Path, offset: int, value: int) -> None:
    image, _ = make(tmp_path, "ext4-bigalloc" if offset == 36 else "ext2-1k")
    with image.open("r+b") as handle:
        handle.seek(1024 + offset)
        handle.write(value.to_bytes(4, "little"))
    with open_file_device(image) as device, pytest.raises(MapUnknown):
        ext.used_extents(device, 0, device.size)
