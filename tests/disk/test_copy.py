"""The copy engine: sparse, resumable at the block, and nothing wrong passes the read-back."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.disk import digests
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.device import BlockData, BlockRequest, FileDevice, open_file_device
from p2v.disk.extents import block_requests, normalise, total
from p2v.errors import ConnectionLost, TargetError, VerifyError
from p2v.model import BLOCK_SIZE, Extent, KiB, MiB

SIZE = 5 * BLOCK_SIZE + 300 * KiB
USED = (
    Extent(0, MiB),
    Extent(BLOCK_SIZE - 8192, 3 * MiB),
    Extent(4 * BLOCK_SIZE + 4096, SIZE - 4 * BLOCK_SIZE - 4096),
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.img"
    path.write_bytes(random.Random(5).randbytes(SIZE))
    return path


def copy(
    source: Path, folder: Path, device_type: type[FileDevice] = FileDevice
) -> tuple[ImageFiles, list[int]]:
    files = ImageFiles(folder / "disk0.raw", folder / "disk0.digest")
    steps: list[int] = []
    with open_file_device(source) as plain:
        device = device_type(os.dup(plain._handle), size=plain.size, sector_size=512, name="source")
        captured = capture_disk(device, USED, files, progress=steps.append)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    return files, steps


def test_used_parts_arrive_and_the_rest_is_zero(source: Path, tmp_path: Path) -> None:
    files, steps = copy(source, tmp_path)
    wanted = bytearray(SIZE)
    content = source.read_bytes()
    for extent in USED:
        wanted[extent.start : extent.end] = content[extent.start : extent.end]
    assert files.partial_image.read_bytes() == bytes(wanted)
    assert sum(steps) == total(normalise(USED, size=SIZE))
    assert files.partial_image.stat().st_blocks * 512 < SIZE - 2 * BLOCK_SIZE


class Breaks(FileDevice):
    """A line that breaks after two blocks."""

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for number, block in enumerate(super().fetch(requests)):
            if number == 2:
                raise ConnectionLost("gone")
            yield block


class Counts(FileDevice):
    fetched = 0

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for block in super().fetch(requests):
            type(self).fetched += 1
            yield block


def test_a_broken_copy_goes_on_where_it_stood(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost):
        copy(source, tmp_path, Breaks)
    Counts.fetched = 0
    files, _ = copy(source, tmp_path, Counts)
    assert Counts.fetched == len(list(block_requests(normalise(USED, size=SIZE), size=SIZE))) - 2
    whole, _ = copy(source, _folder(tmp_path / "whole"))
    assert files.partial_image.read_bytes() == whole.partial_image.read_bytes()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_resume_takes_what_changed_at_the_source(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path)
    with source.open("r+b") as handle:
        handle.seek(100)
        handle.write(b"changed while nobody looked")
    Counts.fetched = 0
    files, _ = copy(source, tmp_path, Counts)
    assert Counts.fetched == 1
    assert files.partial_image.read_bytes()[:MiB] == source.read_bytes()[:MiB]


def test_resume_repairs_what_was_damaged_here(source: Path, tmp_path: Path) -> None:
    files, _ = copy(source, tmp_path)
    with files.partial_image.open("r+b") as handle:
        handle.seek(BLOCK_SIZE + 10)
        handle.write(b"rot")
    Counts.fetched = 0
    copy(source, tmp_path, Counts)
    assert Counts.fetched == 1


def test_a_journal_cut_short_costs_one_block(source: Path, tmp_path: Path) -> None:
    files, _ = copy(source, tmp_path)
    with files.journal.open("r+b") as handle:
        handle.truncate(files.journal.stat().st_size - 5)
    Counts.fetched = 0
    copy(source, tmp_path, Counts)
    assert Counts.fetched == 1


def test_resume_zeroes_what_the_source_has_freed(source: Path, tmp_path: Path) -> None:
    files, _ = copy(source, tmp_path)
    some = (Extent(0, 8192), Extent(BLOCK_SIZE + 65536, 8192))
    with open_file_device(source) as device:
        captured = capture_disk(device, some, files, progress=lambda _: None)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    wanted, content = bytearray(SIZE), source.read_bytes()
    for extent in some:
        wanted[extent.start : extent.end] = content[extent.start : extent.end]
    assert files.partial_image.read_bytes() == bytes(wanted)


def test_zeros_at_the_source_overwrite_what_was_there(source: Path, tmp_path: Path) -> None:
    files, _ = copy(source, tmp_path)
    with source.open("r+b") as handle:
        handle.seek(4096)
        handle.write(bytes(MiB))
    copy(source, tmp_path)
    assert files.partial_image.read_bytes()[: 2 * MiB] == source.read_bytes()[:MiB] + bytes(MiB)


@pytest.mark.parametrize("refused_at", ["open", "write"])
def test_a_filesystem_without_direct_io_goes_through_the_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_at: str
) -> None:
    """As tmpfs and some network filesystems say it."""
    plain_open, plain_write = os.open, os.pwrite
    direct: set[int] = set()

    def open_(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and refused_at == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        handle = plain_open(path, flags, mode)
        direct.update({handle} if flags & os.O_DIRECT else ())
        direct.difference_update(() if flags & os.O_DIRECT else {handle})
        return handle

    def pwrite(handle: int, piece: bytes, offset: int) -> int:
        if handle in direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return plain_write(handle, piece, offset)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pwrite", pwrite)
    files, _ = copy(source, tmp_path)
    assert files.partial_image.read_bytes()[:MiB] == source.read_bytes()[:MiB]


def test_a_failed_flush_is_the_targets_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports lost writes once: to the flush that asked first."""

    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("p2v.disk.readback.FLUSH_BYTES", MiB)
    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(TargetError, match="Input/output error"):
        copy(source, tmp_path)


def test_like_blocks_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Blocks with little in them are remembered by content: the same bytes elsewhere are another block."""
    content = bytearray(6 * BLOCK_SIZE)
    for block, at in enumerate((0, 0, 65536, 65536, 0, 0)):
        content[block * BLOCK_SIZE + at : block * BLOCK_SIZE + at + 4096] = b"same" * 1024
    content[4 * BLOCK_SIZE] = 0x7A
    path = tmp_path / "source.img"
    path.write_bytes(content)
    used = (Extent(0, len(content)),)
    files = ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest")
    with open_file_device(path) as device:
        captured = capture_disk(device, used, files, progress=lambda _: None)
    for block in range(6):
        part = content[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
        assert captured.table[block] == hashlib.sha256(part).digest()
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    with files.partial_image.open("r+b") as handle:
        handle.seek(5 * BLOCK_SIZE)
        handle.write(b"z")
    with pytest.raises(VerifyError, match="Block 5 "):
        verify_image(files.partial_image, captured.table, progress=lambda _: None)


@pytest.mark.parametrize(
    "where", [0, BLOCK_SIZE + 5, 3 * BLOCK_SIZE + 7, SIZE - 1], ids=["first", "used", "hole", "last"]
)
def test_one_wrong_byte_never_passes(source: Path, tmp_path: Path, where: int) -> None:
    files = ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest")
    with open_file_device(source) as device:
        captured = capture_disk(device, USED, files, progress=lambda _: None)
    with files.partial_image.open("r+b") as handle:
        handle.seek(where)
        byte = handle.read(1)
        handle.seek(where)
        handle.write(bytes([byte[0] ^ 1]))
    with pytest.raises(VerifyError, match=f"Block {where // BLOCK_SIZE} "):
        verify_image(files.partial_image, captured.table, progress=lambda _: None)


def test_a_full_disk_is_the_targets_error(source: Path, tmp_path: Path) -> None:
    # The image may not grow past one block: the kernel refuses the write, as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK_SIZE, before[1]))
    try:
        with pytest.raises(TargetError, match="Cannot write"):
            copy(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


extents_of = st.lists(
    st.builds(Extent, st.integers(0, 40 * MiB), st.integers(1, 9 * MiB)), min_size=1, max_size=12
)


@given(extents_of)
@settings(max_examples=200, deadline=None)
def test_requests_cover_exactly_the_normalised_extents(extents: list[Extent]) -> None:
    size = 48 * MiB
    normal = normalise(extents, size=size)
    requests = list(block_requests(normal, size=size))
    assert [request.index for request in requests] == sorted({request.index for request in requests})
    pieces = [Extent(r.offset + start, length) for r in requests for start, length in r.pairs]
    assert total(pieces) == total(normal)
    for extent in extents:
        end = min(extent.end, size)
        assert any(one.start <= extent.start and end <= one.end for one in normal)


def test_the_digest_of_a_free_block_is_that_of_zeros() -> None:
    table = digests.DigestTable(BLOCK_SIZE + 512)
    assert table[0] == hashlib.sha256(bytes(BLOCK_SIZE)).digest()
    assert table[1] == hashlib.sha256(bytes(512)).digest()
