"""What is read back beside the copy counts as verified; what differs there is found at the end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2v.disk.copy import Captured, ImageFiles, capture_disk, verify_image
from p2v.disk.device import open_file_device
from p2v.disk.digests import BlockSet
from p2v.disk.image_digests import ImageDigests
from p2v.disk.image_file import ImageFile, PagePool
from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE, Extent, KiB, MiB

SIZE = 4 * BLOCK_SIZE + 300 * KiB
BLOCKS = 5


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    (tmp_path / "source.img").write_bytes(random.Random(7).randbytes(SIZE))
    return ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest")


def captured(files: ImageFiles) -> Captured:
    with open_file_device(files.image.with_name("source.img")) as device:
        return capture_disk(device, [Extent(0, SIZE)], files, progress=lambda _: None)


def test_what_was_read_back_is_not_read_again(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = captured(files)
    assert all(index in copied.right for index in range(BLOCKS))
    read: list[int] = []
    real = ImageDigests.of_block

    def counting(self: ImageDigests, index: int) -> bytes:
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(ImageDigests, "of_block", counting)
    copied.right.discard(2)
    verify_image(files.partial_image, copied.table, progress=lambda _: None, right=copied.right)
    assert read == [2]


def test_blocks_of_an_earlier_try_were_read_back_too(files: ImageFiles) -> None:
    captured(files)
    again = captured(files)
    assert again.stats.reused_size == SIZE
    assert all(index in again.right for index in range(BLOCKS))


def test_a_byte_that_the_disk_changed_is_found(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stores another byte than it was given."""
    real = ImageFile.write

    def flips(self: ImageFile, piece: memoryview, offset: int) -> int:
        if offset <= 2 * BLOCK_SIZE < offset + len(piece):
            wrong = bytearray(piece)
            wrong[2 * BLOCK_SIZE - offset] ^= 1
            return real(self, memoryview(wrong), offset)
        return real(self, piece, offset)

    monkeypatch.setattr(ImageFile, "write", flips)
    copied = captured(files)
    assert [index for index in range(BLOCKS) if index not in copied.right] == [2]
    with pytest.raises(VerifyError, match="Block 2 "):
        verify_image(files.partial_image, copied.table, progress=lambda _: None, right=copied.right)


def test_data_where_a_hole_should_be_is_found_whatever_is_right(files: ImageFiles) -> None:
    copied = captured(files)
    everything = BlockSet(SIZE)
    for index in range(BLOCKS):
        everything.add(index)
    # A block that is in no set at all: one hole too many.
    with files.partial_image.open("r+b") as handle:
        handle.truncate(3 * BLOCK_SIZE)
        handle.truncate(SIZE)
    with pytest.raises(VerifyError, match="Block 3 "):
        verify_image(files.partial_image, copied.table, progress=lambda _: None, right=everything)


def test_a_page_buffer_goes_round_only_when_nobody_holds_it() -> None:
    pool = PagePool(MiB)
    first = pool.take(1000)
    first[:3] = b"one"
    part = first[1:3]
    del first
    second = pool.take(MiB)
    second[:3] = b"two"
    assert bytes(part) == b"ne"
    del part
    third = pool.take(10)
    assert bytes(third[:3]) == b"one"
    assert len(pool.take(2 * MiB)) == 2 * MiB
