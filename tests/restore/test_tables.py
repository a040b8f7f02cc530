"""Tables of another shape, beside sfdisk and sgdisk; and what moves with its partition."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.device import open_file_device
from p2v.disk.nbd import NbdWriter
from p2v.disk.used import inspect_disk
from p2v.errors import GuestError, TargetError
from p2v.model import Disk, Filesystem, ImageFormat, KiB, MiB, Partition
from p2v.restore.images import make_overlay, open_overlay
from p2v.restore.model import DiskMove, Resize, SourceDisk
from p2v.restore.moving import move_contents
from p2v.restore.relayout import Relayout, relayout
from p2v.restore.tables import new_table
from tests.conftest import need_tools

pytestmark = [pytest.mark.tools, pytest.mark.timeout(240)]

SIZE = 256 * MiB
LARGER, SMALLER = 600 * MiB, 200 * MiB

PRIMARY = "label: dos\nsize=120M,type=83,bootable\nsize=40M,type=82\n"
LOGICAL = (
    "label: dos\nsize=120M,type=83,bootable\nsize=80M,type=f\n"
    "/x5 : size=20M,type=82\n/x6 : size=30M,type=8e\n/x3 : size=10M,type=de\n"
)
INSIDE = (
    "label: dos\nsize=30M,type=7\nsize=170M,type=5\n"
    "/x5 : size=120M,type=83\n/x6 : size=30M,type=82\n/x3 : size=10M,type=83,bootable\n"
)
GPT = (
    "label: gpt\nfirst-lba: 34\n"
    'start=40,size=984,type=21686148-6449-6E6F-744E-656564454649\nsize=20M,type=U,name="EFI System",'
    'attrs="RequiredPartition LegacyBIOSBootable GUID:60"\nsize=120M,type=L,name="root ü"\nsize=40M,type=S\n'
)
UNORDERED = "label: gpt\n/x2 : size=20M,type=U\n/x1 : size=120M,type=L\n/x7 : size=30M,type=S\n"
OLD = (
    "label: dos\nstart=63,size=240912,type=83,bootable\nstart=240975,size=80325,type=5\n"
    "/x5 : start=241038,size=80262,type=82\n"
)
"""As an installer of 2003 made them: cylinders of 255 heads and 63 sectors."""
TABLES = {
    "old": (OLD, 1),
    "primary": (PRIMARY, 1),
    "logical": (LOGICAL, 1),
    "inside": (INSIDE, 5),
    "gpt": (GPT, 3),
    "gpt-unordered": (UNORDERED, 1),
}


@pytest.fixture(autouse=True)
def tools() -> None:
    need_tools("sfdisk", "sgdisk", "qemu-img", "qemu-nbd")


def build(folder: Path, script: str, size: int = SIZE) -> Path:
    image = folder / "disk.raw"
    with image.open("wb") as file:
        file.truncate(size)
        file.seek(62 * 512)
        file.write(b"a boot loader in the gap")
    command.check(["sfdisk", "-q", image], timeout=90, reason="make a table", input_text=script)
    with image.open("r+b") as file:
        file.write(b"\xeb\x63\x90 boot code of somebody")
    return image


def look(image: Path, grown: int, sector: int = 512) -> Disk:
    """The disk; partition `grown` is taken for an almost empty ext4."""
    disk = Disk(str(image), image.stat().st_size, sector_size=sector)
    with open_file_device(image, sector_size=sector) as device:
        disk = inspect_disk(device, disk)
    parts = tuple(
        replace(one, filesystem=Filesystem("ext4", one.length, MiB)) if one.number == grown else one
        for one in disk.partitions
    )
    return replace(disk, partitions=parts)


def plan(disk: Disk, size: int, number: int) -> DiskMove:
    resize = Resize.GROW if size > disk.size else Resize.SHRINK
    target = Disk("/dev/sdz", size, sector_size=disk.sector_size)
    return DiskMove(0, SourceDisk(Path(disk.path), ImageFormat.RAW, disk), target, resize, number)


def dump(image: Path) -> dict[str, object]:
    """What sfdisk sees, without the name of the file."""
    said = json.loads(command.check(["sfdisk", "--json", image], timeout=90, reason="read"))["partitiontable"]
    parts = [{**one, "node": re.findall(r"\d+$", one["node"])[0]} for one in said.pop("partitions")]
    return {**said, "device": "", "partitions": parts}


def reshape(image: Path, move: DiskMove, result: Path) -> Relayout:
    """The image in its new shape, as a raw file of the size of the target."""
    overlay = result.with_suffix(".qcow2")
    make_overlay(move.source, overlay, move.target.size)
    layout = relayout(move)
    with open_overlay(overlay, move.source.disk.sector_size) as device:
        write_all(device, move.source.disk, layout)
    command.check(["qemu-img", "convert", "-O", "raw", overlay, result], timeout=60, reason="flatten")
    os.truncate(result, move.target.size)
    return layout


def write_all(device: NbdWriter, disk: Disk, layout: Relayout) -> None:
    patches = new_table(device, disk, layout)
    move_contents(device, layout)
    for offset, content in patches:
        device.write(offset, content)


def fill(image: Path, disk: Disk) -> dict[int, str]:
    """Random bytes at both ends and in the middle of every partition; their digests."""
    generator = random.Random(7)
    with image.open("r+b") as file:
        for one in disk.partitions:
            for at in (64 * KiB, one.length // 2, one.length - 64 * KiB):
                if 0 <= at <= one.length - 64 * KiB:
                    file.seek(one.start + at)
                    file.write(generator.randbytes(64 * KiB))
    return {one.number: digest(image, one.start, one.length) for one in disk.partitions}


def digest(image: Path, start: int, length: int) -> str:
    with image.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(length)).hexdigest()


@pytest.mark.parametrize("size", [LARGER, SMALLER])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_keeps_all_but_places(tmp_path: Path, name: str, size: int) -> None:
    """Label, signature, types, names, flags, identifiers, numbers: as sfdisk sees them before and after."""
    script, number = TABLES[name]
    image = build(tmp_path, script)
    disk = look(image, number)
    digests, before = fill(image, disk), dump(image)
    result = tmp_path / "result.raw"
    layout = reshape(image, plan(disk, size, number), result)
    after = dump(result)
    places = {str(place.number): (place.start // 512, place.length // 512) for place in layout.places}
    for one, other in zip(before["partitions"], after["partitions"], strict=True):  # type: ignore[call-overload]
        if one["node"] in places:
            assert (other["start"], other["size"]) == places[one["node"]]
        assert {**one, "start": 0, "size": 0} == {**other, "start": 0, "size": 0}
    drop = {"partitions": None, "lastlba": None}
    assert {**before, **drop} == {**after, **drop}
    with image.open("rb") as old, result.open("rb") as new:
        assert old.read(440) == new.read(440)
        old.seek(62 * 512)
        new.seek(62 * 512)
        assert old.read(24) == new.read(24)
    for place in layout.places:
        if place is not layout.changed and place.partition.filesystem is None:
            assert digest(result, place.start, place.length) == digests[place.number]
    assert_verified(result, name)


def assert_verified(image: Path, name: str) -> None:
    said = command.run(["sfdisk", "--verify", image], timeout=90)
    assert said.code == 0, said.stderr
    assert "overlap" not in said.stderr
    if name.startswith("gpt"):
        assert "No problems found" in command.check(["sgdisk", "-v", image], timeout=90, reason="verify")


def test_a_gpt_on_a_larger_disk_has_its_backup_at_the_end(tmp_path: Path) -> None:
    image = build(tmp_path, GPT)
    move = replace(plan(look(image, 3), LARGER, 3), resize=Resize.KEEP)
    result = tmp_path / "result.raw"
    reshape(image, move, result)
    assert_verified(result, "gpt")
    with result.open("rb") as file:
        file.seek(LARGER - 512)
        assert file.read(8) == b"EFI PART"


@pytest.mark.parametrize("size", [LARGER, SMALLER])
def test_sectors_of_4096(tmp_path: Path, size: int) -> None:
    """sfdisk takes a sector size with --sector-size since util-linux 2.41 only, so parted makes and reads
    it.
    """
    need_tools("parted")
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(SIZE)
    words = [
        "mklabel",
        "gpt",
        "mkpart",
        "one",
        "ext4",
        "1MiB",
        "121MiB",
        "mkpart",
        "two",
        "ext4",
        "121MiB",
        "181MiB",
    ]
    environment = {"PARTED_SECTOR_SIZE": "4096"}
    command.check(["parted", "-s", image, *words], timeout=90, reason="make a table", env=environment)
    disk = look(image, 1, 4096)
    assert len(disk.partitions) == 2
    result = tmp_path / "result.raw"
    layout = reshape(image, plan(disk, size, 1), result)
    said = command.check(
        ["parted", "-sm", result, "unit", "B", "print"], timeout=90, reason="read", env=environment
    )
    places = [
        f"{one.number}:{one.start}B:{one.start + one.length - 1}B:{one.length}B" for one in layout.places
    ]
    assert all(place in said for place in places), said


def test_the_boot_sectors_of_ntfs_and_fat_say_where_they_are(tmp_path: Path) -> None:
    """A BIOS reads an NTFS from the sector that its boot sector names."""
    need_tools("mkfs.fat", "mkntfs")
    script = "label: dos\nsize=60M,type=83\nsize=80M,type=7\nsize=80M,type=c\n"
    image = build(tmp_path, script)
    disk = look(image, 1)
    for one, words in zip(
        disk.partitions[1:], (["mkntfs", "-qQF", "-p"], ["mkfs.fat", "-F32", "-h"]), strict=True
    ):
        part = tmp_path / "part"
        with part.open("wb") as file:
            file.truncate(one.length)
        command.check([*words, str(one.start // 512), part], timeout=30, reason="make a filesystem")
        with image.open("r+b") as file:
            file.seek(one.start)
            file.write(part.read_bytes())
    disk = look(image, 1)
    result = tmp_path / "result.raw"
    layout = reshape(image, plan(disk, LARGER, 1), result)
    for place in layout.places[1:]:
        assert place.moved
        for copy in copies(result, place.partition, place.start):
            assert hidden(result, copy) == place.start // 512


def copies(image: Path, one: Partition, start: int) -> Iterator[int]:
    """The boot sector and its copy: NTFS has it in its last sector, FAT32 in its seventh."""
    yield start
    yield start + (6 * 512 if one.type_id == "0c" else one.length - 512)


def hidden(image: Path, at: int) -> int:
    with image.open("rb") as file:
        file.seek(at + 28)
        return int.from_bytes(file.read(4), "little")


def test_a_swap_that_moves_keeps_its_uuid_and_label(tmp_path: Path) -> None:
    need_tools("mkswap", "blkid")
    image = build(tmp_path, PRIMARY)
    swap = look(image, 1).partitions[1]
    part = tmp_path / "swap"
    with part.open("wb") as file:
        file.truncate(swap.length)
    identifier = "b538bb1d-a5f7-502c-b6c8-c9e717dd061a"
    command.check(["mkswap", "-U", identifier, "-L", "pages", part], timeout=90, reason="make a swap")
    with image.open("r+b") as file:
        file.seek(swap.start)
        file.write(part.read_bytes())
        file.seek(swap.start + MiB)
        file.write(b"what was swapped out" * 100)
    result = tmp_path / "result.raw"
    layout = reshape(image, plan(look(image, 1), LARGER, 1), result)
    moved = layout.places[1]
    said = command.check(
        ["blkid", "-p", "-O", str(moved.start), "-S", str(moved.length), "-o", "export", result],
        timeout=90,
        reason="read",
    )
    assert f"UUID={identifier}" in said
    assert "LABEL=pages" in said
    assert "TYPE=swap" in said


@pytest.mark.parametrize("at", [512 + 16, 1024 + 40])
def test_a_damaged_gpt_is_refused(tmp_path: Path, at: int) -> None:
    image = build(tmp_path, GPT)
    disk = look(image, 3)
    with image.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)
    with pytest.raises(GuestError, match="damaged"):
        reshape(image, plan(disk, LARGER, 3), tmp_path / "result.raw")


def test_another_table_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    image = build(tmp_path, PRIMARY)
    disk = look(image, 1)
    build(tmp_path, GPT)
    with pytest.raises((GuestError, TargetError)):
        reshape(image, plan(disk, LARGER, 1), tmp_path / "result.raw")
