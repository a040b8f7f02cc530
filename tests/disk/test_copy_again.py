"""A disk copied again by the process that copied it before: nothing is read twice, nothing old stays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from p2v.disk.copy import Captured, ImageFiles, capture_disk, verify_image
from p2v.disk.device import open_file_device
from p2v.disk.digests import BlockSet
from p2v.disk.image_digests import ImageDigests
from p2v.model import BLOCK_SIZE, Extent

SIZE = 6 * BLOCK_SIZE
EVERYTHING = (Extent(0, SIZE),)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest")


def copy(
    source: Path,
    files: ImageFiles,
    used: Iterable[Extent] = EVERYTHING,
    *,
    former: Captured | None = None,
    within: BlockSet | None = None,
) -> Captured:
    with open_file_device(source) as device:
        return capture_disk(device, tuple(used), files, progress=lambda _: None, former=former, within=within)


def change(source: Path, *blocks: int) -> None:
    with source.open("r+b") as handle:
        for block in blocks:
            handle.seek(block * BLOCK_SIZE + 5000)
            handle.write(os.urandom(5000))


def blocks(*numbers: int) -> BlockSet:
    found = BlockSet(SIZE)
    for number in numbers:
        found.add(number)
    return found


def check(files: ImageFiles, captured: Captured, content: bytes) -> None:
    verify_image(files.partial_image, captured.table, progress=lambda _: None, right=captured.right)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    assert files.partial_image.read_bytes() == content


def test_only_what_changed_moves_and_the_image_is_not_read(
    source: Path, files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = copy(source, files)
    assert first.moved_size == SIZE
    change(source, 1, 4)
    hashed: list[int] = []
    real = ImageDigests.of_block

    def of_block(self: ImageDigests, index: int) -> bytes:
        hashed.append(index)
        return real(self, index)

    monkeypatch.setattr(ImageDigests, "of_block", of_block)
    again = copy(source, files, former=first)
    # What was written is read back beside the copy; nothing else is.
    assert sorted(hashed) == [1, 4]
    assert again.moved_size == 2 * BLOCK_SIZE
    check(files, again, source.read_bytes())


def test_a_block_that_was_freed_and_comes_back_is_copied_again(source: Path, files: ImageFiles) -> None:
    """The journal still knows its digest, but the image has zeros there since."""
    first = copy(source, files)
    freed = copy(source, files, (Extent(0, 3 * BLOCK_SIZE),), former=first)
    content = source.read_bytes()
    check(files, freed, content[: 3 * BLOCK_SIZE] + bytes(3 * BLOCK_SIZE))
    back = copy(source, files, former=freed)
    assert back.moved_size == 3 * BLOCK_SIZE
    check(files, back, content)


def test_blocks_out_of_scope_stay_as_they_were(source: Path, files: ImageFiles) -> None:
    first = copy(source, files)
    before = source.read_bytes()
    change(source, 0, 2, 5)
    part = copy(source, files, former=first, within=blocks(2, 3))
    assert part.moved_size == BLOCK_SIZE
    after = source.read_bytes()
    mixed = before[: 2 * BLOCK_SIZE] + after[2 * BLOCK_SIZE : 3 * BLOCK_SIZE] + before[3 * BLOCK_SIZE :]
    check(files, part, mixed)


def test_two_parts_make_a_whole_also_after_an_earlier_try(source: Path, files: ImageFiles) -> None:
    """What a killed process left is believed after it was read, in whichever part it is."""
    copy(source, files)
    change(source, 0, 4)
    one = copy(source, files, within=blocks(0, 1))
    assert one.moved_size == BLOCK_SIZE
    rest = copy(source, files, former=one, within=blocks(0, 1).inverted())
    assert rest.moved_size == BLOCK_SIZE
    check(files, rest, source.read_bytes())


def test_what_an_earlier_try_damaged_is_found_in_both_parts(source: Path, files: ImageFiles) -> None:
    copy(source, files)
    change(files.partial_image, 1, 3)
    one = copy(source, files, within=blocks(0, 1))
    rest = copy(source, files, former=one, within=blocks(0, 1).inverted())
    assert one.moved_size == rest.moved_size == BLOCK_SIZE
    check(files, rest, source.read_bytes())


def test_the_blocks_of_a_range() -> None:
    some = BlockSet(SIZE)
    some.add_range(BLOCK_SIZE - 1, 2)
    some.add_range(5 * BLOCK_SIZE, 100 * BLOCK_SIZE)
    assert [number for number in range(6) if number in some] == [0, 1, 5]
    assert [number for number in range(6) if number in some.inverted()] == [2, 3, 4]
