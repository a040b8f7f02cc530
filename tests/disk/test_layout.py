"""Partition tables written by sfdisk, read back and compared with what sfdisk itself says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from p2v import command
from p2v.disk import layout
from p2v.disk.used import disk_map, inspect_disk
from p2v.errors import TransportError
from p2v.model import MiB, TableKind
from tests.conftest import need_tools
from tests.disk.images import disk_of, opened, partitioned, sparse, tool

MBR = "label: dos\n,10M,83\n,5M,82\n,,5\n,6M,83\n,7M,83\n,,83\n"
GPT = "label: gpt\n,10M,U\n,20M,L\n,,L\n"

pytestmark = pytest.mark.tools


@pytest.mark.parametrize("script", [MBR, GPT], ids=["mbr-logical", "gpt"])
def test_same_partitions_as_sfdisk(tmp_path: Path, script: str) -> None:
    need_tools("sfdisk")
    image = partitioned(tmp_path / "disk.img", script, 64 * MiB)
    said = json.loads(tool("sfdisk", "--json", image))["partitiontable"]
    wanted = [
        (int(part["node"].removeprefix(str(image))), part["start"] * 512, part["size"] * 512)
        for part in said["partitions"]
        if part["type"] != "5"
    ]
    with opened(image) as device:
        table = layout.read_table(device)
    assert [(part.number, part.start, part.length) for part in table.partitions] == wanted
    assert table.id == said["id"].lower().removeprefix("0x")
    if table.kind is TableKind.GPT:
        uuids = [part["uuid"].lower() for part in said["partitions"]]
        assert [part.uuid for part in table.partitions] == uuids


def test_gpt_with_4k_sectors(tmp_path: Path) -> None:
    need_tools("sfdisk", "losetup")
    image = sparse(tmp_path / "disk.img", 64 * MiB)
    # Only a device has sectors of 4 KiB for sfdisk.
    loop = tool("losetup", "--find", "--show", "--sector-size", "4096", image).strip()
    try:
        command.check(["/sbin/sfdisk", "-q", loop], timeout=20, reason="partition", input_text=GPT)
    finally:
        tool("losetup", "--detach", loop)
    with opened(image) as plain:
        assert layout.guess_sector_size(plain) == 4096
    with opened(image, 4096) as device:
        table = layout.read_table(device)
    assert [part.length for part in table.partitions][:2] == [10 * MiB, 20 * MiB]


def test_the_backup_header_serves_when_the_first_is_gone(tmp_path: Path) -> None:
    need_tools("sfdisk")
    image = partitioned(tmp_path / "disk.img", GPT, 64 * MiB)
    with image.open("r+b") as handle:
        handle.seek(512 + 40)
        handle.write(b"\xff")
    with opened(image) as device:
        assert len(layout.read_table(device).partitions) == 3


def test_a_broken_table_copies_the_whole_disk(tmp_path: Path) -> None:
    need_tools("sfdisk")
    image = partitioned(tmp_path / "disk.img", GPT, 64 * MiB)
    with image.open("r+b") as handle:
        for at in (512, 64 * MiB - 512):
            handle.seek(at)
            handle.write(bytes(512))
    with opened(image) as device:
        found = disk_map(device, disk_of(image))
        assert found.data_size == device.size
        assert "GPT" in found.warnings[0]


def test_boot_gap_and_disk_tail_are_always_copied(tmp_path: Path) -> None:
    need_tools("sfdisk", "mkswap")
    image = partitioned(tmp_path / "disk.img", "label: dos\nstart=2048,size=8192,type=82\n", 64 * MiB)
    swap = sparse(tmp_path / "swap.img", 4 * MiB)
    tool("mkswap", "-q", "-L", "swappy", swap)
    with image.open("r+b") as handle:
        handle.seek(MiB)
        handle.write(swap.read_bytes())
    with opened(image) as device:
        disk = inspect_disk(device, disk_of(image))
        found = disk_map(device, disk)
    filesystem = disk.partitions[0].filesystem
    assert filesystem is not None
    assert (filesystem.kind, filesystem.label) == ("swap", "swappy")
    assert found.extents[0].start == 0
    assert found.extents[0].end >= MiB
    assert found.extents[-1].end == 64 * MiB
    assert found.data_size < 4 * MiB


@pytest.mark.parametrize("script", [MBR, GPT], ids=["mbr-logical", "gpt"])
def test_mutated_tables_never_crash(tmp_path: Path, script: str) -> None:
    """1,000 mutations: the answer is a map inside the disk or a clear error, nothing else."""
    need_tools("sfdisk")
    image = partitioned(tmp_path / "disk.img", script, 64 * MiB)
    original = image.read_bytes()[: 64 * 1024]
    chance = random.Random(1)
    with image.open("r+b") as handle, opened(image) as device:
        for _ in range(1000):
            mutated = bytearray(original)
            for _ in range(chance.randrange(1, 6)):
                mutated[chance.randrange(440, 2048)] = chance.randrange(256)
            handle.seek(0)
            handle.write(mutated)
            handle.flush()
            try:
                found = disk_map(device, disk_of(image))
            except TransportError:
                continue
            assert all(0 <= extent.start < extent.end <= device.size for extent in found.extents)
