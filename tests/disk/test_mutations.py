"""At least 1,000 mutations of what the other files do not mutate: ext, swap, and tables behind checksums."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from p2v.disk import layout
from p2v.disk.maps import ext, ext_checksum, used_map
from p2v.disk.superblock import identify
from p2v.disk.used import disk_map, inspect_disk
from p2v.model import Disk, Extent, MiB
from tests.disk import volumes
from tests.disk.images import opened, partitioned, sparse, tool
from tests.disk.test_ext_map import make
from tests.disk.test_layout import GPT, MBR
from tests.disk.volumes import Patched

pytestmark = pytest.mark.tools

ROUNDS = 1000


@pytest.mark.parametrize("shape", ["ext4-1k", "ext4-bigalloc", "ext4-meta-bg", "ext4-no-csum", "ext3"])
def test_ext(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superblock, descriptors, bitmaps and the journal, with checksums that are always right."""
    monkeypatch.setattr(ext_checksum, "intact", lambda raw, size, **_: b"\1" * (len(raw) // size))
    image, _ = make(tmp_path, shape)
    with opened(image) as base:
        watched = Patched(base, shift=volumes.START)
        ext.used_extents(watched, volumes.START, base.size)
    read = sorted({(offset - volumes.START, min(length, 4096)) for offset, length in watched.reads})
    regions = [(1024, 280), (1024 + 96, 12), *read]
    rounds = ROUNDS if shape == "ext4-1k" else 300
    volumes.survive(image, ext.used_extents, regions, rounds=rounds)


def test_swap(tmp_path: Path) -> None:
    """Its header, under the eyes of everything that looks for other filesystems in the same bytes."""
    image = sparse(tmp_path / "swap.img", 4 * MiB)
    tool("mkswap", "-q", "-L", "swappy", image)
    kinds = set()

    def look(device: Patched) -> None:
        found = identify(device, 0, device.size)
        kinds.add(found.kind if found else "")
        used = used_map(device, 0, device.size, found, name="sda2")
        assert all(0 <= part.start < part.end <= device.size for part in used.extents)

    regions = [(0, 64), (1024, 64), (4086, 10), (4086, 10)]
    survive(image, look, regions)
    assert {"swap", ""} <= kinds


@pytest.fixture(params=[("mbr", MBR), ("gpt", GPT)], ids=["mbr-logical", "gpt"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return partitioned(tmp_path / "disk.img", request.param[1], 64 * MiB)


def test_tables(table: Path) -> None:
    """The links of the chain as well as the table; a GPT with its checksums made right again."""
    with opened(table) as base:
        metadata = layout.read_table(base).metadata
    regions = [(446, 66), *((start + 446, 66) for start, _ in metadata[1:] if start < 60 * MiB)]
    regions += [(512, 92)] * 4 + [(1024, 3 * 128)] * 4 if len(metadata) == 2 else []
    counted = {"mapped": 0, "whole": 0}

    def look(device: Patched) -> None:
        right_checksums(device)
        disk = Disk("sda", device.size)
        inspect_disk(device, disk)
        found = disk_map(device, disk)
        assert all(0 <= part.start < part.end <= device.size for part in found.extents)
        assert not found.warnings or found.extents == (Extent(0, device.size),)
        counted["whole" if found.warnings else "mapped"] += 1

    survive(table, look, regions, rounds=2 * ROUNDS)
    assert min(counted.values()) > 50, counted


def right_checksums(device: Patched) -> None:
    """Of the entries and of the header of a GPT, where it stands first and where it stands last."""
    for lba in (1, device.size // 512 - 1):
        raw = bytearray(device.read(lba * 512, 512))
        at, count, size = struct.unpack_from("<QII", raw, 72)
        header = struct.unpack_from("<I", raw, 12)[0]
        if raw[:8] != b"EFI PART" or not 92 <= header <= 512:
            continue
        if count * size <= MiB and (at * 512) + count * size <= device.size:
            struct.pack_into("<I", raw, 88, zlib.crc32(device.read(at * 512, count * size)))
        raw[16:20] = bytes(4)
        struct.pack_into("<I", raw, 16, zlib.crc32(raw[:header]))
        device.patches.append((lba * 512, bytes(raw)))


def survive(
    image: Path, look: Callable[[Patched], None], regions: list[tuple[int, int]], *, rounds: int = ROUNDS
) -> None:
    """Whatever is changed, `look` answers; soon, and without reading for ever."""
    chance = random.Random(6)
    started = time.monotonic()
    with opened(image) as base:
        for _ in range(rounds):
            device = Patched(base)
            device.patches = [volumes.mutation(chance, regions) for _ in range(chance.choice((1, 1, 2, 6)))]
            look(device)
            assert len(device.reads) < 5000
    assert time.monotonic() - started < 20


def test_a_gpt_whose_entries_are_outside_of_the_disk_is_copied_whole(tmp_path: Path) -> None:
    """Its checksum is right, so that it is believed at first."""
    image = partitioned(tmp_path / "disk.img", GPT, 64 * MiB)
    with opened(image) as base:
        device = Patched(base)
        for lba in (1, device.size // 512 - 1):
            device.patches.append((lba * 512 + 72, struct.pack("<Q", 1 << 40)))
        right_checksums(device)
        found = disk_map(device, Disk("sda", device.size))
    assert found.extents == (Extent(0, 64 * MiB),)
    assert found.warnings
