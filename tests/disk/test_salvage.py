"""Read errors: others go on, tries end, zeros only where they are allowed, and known afterwards."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from p2v import command
from p2v.disk import salvage
from p2v.disk.copy import ImageFiles, capture_disk, verify_image
from p2v.disk.device import BlockData, BlockDevice, BlockRequest, PlainReads, open_file_device
from p2v.disk.extents import block_requests
from p2v.disk.nbd import open_nbd_device
from p2v.disk.salvage import SalvageDevice
from p2v.disk.used import disk_map, inspect_disk
from p2v.errors import ExitCode, ReadError, TransportError
from p2v.model import BLOCK_SIZE, Disk, Extent, MiB, TableKind
from tests.conftest import need_tools
from tests.disk.bad_disk import bad_loop, bad_nbd, forget

SIZE = 5 * BLOCK_SIZE + MiB
WHOLE = (Extent(0, SIZE),)
CONTENT = os.urandom(SIZE)


class Scratched(PlainReads):
    """Memory as a disk; reads that touch a bad range fail, as often as it says (None: always)."""

    size = SIZE
    sector_size = 512

    def __init__(self, *bad: tuple[int, int], times: int | None = None) -> None:
        self.bad = bad
        self.times = times
        self.reads: list[tuple[int, int]] = []
        self.fetches = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        for start, size in self.bad:
            if offset < start + size and start < offset + length and self.times != 0:
                self.times = None if self.times is None else self.times - 1
                raise ReadError(f"bad at {offset}", offset=offset)
        return CONTENT[offset : offset + length]

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        self.fetches += 1
        return super().fetch(requests)


def salvaged(device: BlockDevice, *, fill: bool = False) -> tuple[SalvageDevice, list[float]]:
    slept: list[float] = []
    return SalvageDevice(device, name="/dev/sdx (serial A1)", fill=fill, sleep=slept.append), slept


def requests() -> list[BlockRequest]:
    return list(block_requests(WHOLE, size=SIZE))


def content_without(*bad: tuple[int, int]) -> bytes:
    content = bytearray(CONTENT)
    for start, size in bad:
        content[start : start + size] = bytes(size)
    return bytes(content)


def assemble(blocks: Iterable[BlockData]) -> bytes:
    content = bytearray(SIZE)
    for block in blocks:
        assert len(block.data) == block.request.length
        content[block.request.offset : block.request.offset + block.request.length] = block.data
    return bytes(content)


def test_a_passing_error_is_tried_again_and_the_others_come_first() -> None:
    device, slept = salvaged(Scratched((BLOCK_SIZE + 5000, 1), times=3))
    blocks = list(device.fetch(requests()))
    assert [block.request.index for block in blocks] == [0, 2, 3, 4, 5, 1]
    assert assemble(blocks) == CONTENT
    assert slept == list(salvage.PAUSES[:2])
    assert device.bad == ()


def test_a_lasting_error_is_refused_with_disk_byte_and_option_after_the_rest_was_copied() -> None:
    bad = 2 * BLOCK_SIZE + 4096 * 7 + 1000
    device, slept = salvaged(Scratched((bad, 1)))
    blocks = device.fetch(requests())
    assert [next(blocks).request.index for _ in range(5)] == [0, 1, 3, 4, 5]
    with pytest.raises(ReadError) as caught:
        next(blocks)
    assert slept == list(salvage.PAUSES)
    sector = bad // 512 * 512
    assert caught.value.offset == sector
    assert caught.value.exit_code == ExitCode.TRANSPORT
    assert f"/dev/sdx (serial A1) cannot be read at byte {sector}" in str(caught.value)
    assert "--allow-bad-sectors" in caught.value.hint


@pytest.mark.parametrize(
    "bad",
    [
        [(0, 1)],
        [(SIZE - 1, 1)],
        [(BLOCK_SIZE + 512, 512)],
        [(BLOCK_SIZE - 512, 1024)],
        [(BLOCK_SIZE, 3 * BLOCK_SIZE)],
        [(n * 65536, 512) for n in range(0, 80, 3)],
    ],
    ids=["first", "last", "one sector", "over a border", "whole blocks", "many"],
)
def test_zeros_stand_in_place_of_what_cannot_be_read_and_only_there(bad: Sequence[tuple[int, int]]) -> None:
    device, _ = salvaged(Scratched(*bad), fill=True)
    sectors = [(start // 512 * 512, -(-(start % 512 + size) // 512) * 512) for start, size in bad]
    wanted = content_without(*sectors)
    blocks = list(device.fetch(requests()))
    assert assemble(blocks) == wanted
    clean, _ = salvaged(Memory(wanted))
    digests = {request.index: digest for request, digest in clean.hash_blocks(requests())}
    assert {block.request.index: block.digest for block in blocks} == digests
    assert [(one.start, one.length) for one in device.bad] == sectors
    # A resumed run hashes: the same digests, and it knows of the same sectors.
    again, _ = salvaged(Scratched(*bad), fill=True)
    assert {request.index: digest for request, digest in again.hash_blocks(requests())} == digests
    assert again.bad == device.bad


class Memory(Scratched):
    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def test_a_sector_that_comes_back_is_bad_no_more() -> None:
    disk = Scratched((BLOCK_SIZE, 512))
    device, _ = salvaged(disk, fill=True)
    list(device.fetch(requests()))
    assert [one.start for one in device.bad] == [BLOCK_SIZE]
    disk.bad = ()
    assert (
        assemble(device.fetch(requests()[1:2]))[BLOCK_SIZE : BLOCK_SIZE + 512]
        == CONTENT[BLOCK_SIZE : BLOCK_SIZE + 512]
    )
    assert not device.bad


def test_parts_of_a_block_are_salvaged_as_parts() -> None:
    bad = (BLOCK_SIZE + 8192, 512)
    request = BlockRequest(1, BLOCK_SIZE, BLOCK_SIZE, ((4096, 8192), (65536, 4096)))
    device, _ = salvaged(Scratched(bad), fill=True)
    (block,) = device.fetch([request])
    content = content_without(bad)[BLOCK_SIZE:]
    assert block.data == content[4096:12288] + content[65536:69632]
    assert device.bad == (Extent(*bad),)
    outside = BlockRequest(1, BLOCK_SIZE, BLOCK_SIZE, ((65536, 4096),))
    device, slept = salvaged(Scratched(bad))
    assert [block.request for block in device.fetch([outside])] == [outside]
    assert slept == []


def test_many_bad_blocks_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salvage, "LATER", 2)
    device, _ = salvaged(Scratched((0, SIZE - MiB)), fill=True)
    order = [block.request.index for block in device.fetch(requests())]
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert order.index(0) < order.index(5)
    assert device.bad == (Extent(0, SIZE - MiB),)


def test_an_error_elsewhere_is_not_ours() -> None:
    class Gone(Scratched):
        def read(self, offset: int, length: int) -> bytes:
            raise TransportError("the disk is gone")

    device, slept = salvaged(Gone(), fill=True)
    for ask in (device.fetch, device.hash_blocks):
        with pytest.raises(TransportError, match="gone"):
            list(ask(requests()))
    assert slept == []


def test_what_a_map_reads_is_never_made_up() -> None:
    """A bitmap of zeros would say that nothing is used."""
    device, slept = salvaged(Scratched((BLOCK_SIZE, 4096)), fill=True)
    with pytest.raises(ReadError):
        device.read(BLOCK_SIZE + 100, 4)
    assert slept == list(salvage.PAUSES)
    with pytest.raises(ReadError):
        list(device.read_many([(0, 10), (BLOCK_SIZE, 4096), (10, 10)]))
    passing, _ = salvaged(Scratched((BLOCK_SIZE, 4096), times=2))
    ranges = [(0, 10), (BLOCK_SIZE, 4096), (10, 10)]
    assert list(passing.read_many(ranges)) == [CONTENT[at : at + size] for at, size in ranges]
    assert device.bad == ()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODATA, errno.EREMOTEIO])
def test_what_linux_says_of_a_bad_sector(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with open_file_device(path) as device:
        monkeypatch.setattr(os, "pread", fails)
        monkeypatch.setattr(os, "preadv", fails)
        with pytest.raises(ReadError):
            device.read(0, 4096)


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 MiB with an ext4 filesystem in a partition."""
    need_tools("sfdisk", "mkfs.ext4")
    folder = tmp_path_factory.mktemp("partitioned")
    content = folder / "content"
    content.mkdir()
    (content / "file").write_bytes(os.urandom(4 * MiB))
    image = folder / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, 13 * MiB)
    table = "label: dos\nstart=2048, type=83\n"
    command.check(["sfdisk", "-q", image], timeout=30, reason="partition", input_text=table)
    make = ["mkfs.ext4", "-q", "-E", f"offset={MiB}", "-d", str(content), str(image), "12M"]
    command.check(make, timeout=30, reason="make a filesystem")
    return image


def capture(device: BlockDevice, folder: Path) -> tuple[bytes, tuple[str, ...]]:
    disk = inspect_disk(device, Disk("/dev/sdx", device.size))
    used = disk_map(device, disk)
    files = ImageFiles(folder / "disk0.raw", folder / "disk0.digest")
    captured = capture_disk(device, used.extents, files, progress=lambda _: None)
    verify_image(files.partial_image, captured.table, progress=lambda _: None)
    return files.partial_image.read_bytes(), used.warnings


@pytest.mark.tools
@pytest.mark.timeout(60)
def test_a_disk_whose_sectors_the_kernel_cannot_read(partitioned: Path, tmp_path: Path) -> None:
    """Refused; then the same run with zeros allowed; then the disk works again and the zeros go."""
    content = partitioned.read_bytes()
    bad = next(at for at in range(6 * MiB, 13 * MiB, 4096) if any(content[at : at + 4096]))
    with bad_loop(partitioned, tmp_path) as (loop, sectors), open_file_device(loop) as device:
        whole, warnings = capture(salvaged(device)[0], tmp_path)
        assert warnings == ()
        sectors.set((bad, 4096))
        forget(loop)
        with pytest.raises(ReadError, match=f"cannot be read at byte {bad}"):
            capture(salvaged(device)[0], tmp_path)
        allowed = salvaged(device, fill=True)[0]
        filled, _ = capture(allowed, tmp_path)
        assert allowed.bad == (Extent(bad, 4096),)
        assert filled == whole[:bad] + bytes(4096) + whole[bad + 4096 :]
        sectors.set()
        mended = salvaged(device, fill=True)[0]
        assert capture(mended, tmp_path)[0] == whole
        assert mended.bad == ()


@pytest.mark.tools
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("table", "the whole disk is copied"),
        ("superblock", "all of it is copied"),
        ("bitmap", "its map cannot be read"),
    ],
)
def test_where_the_map_cannot_be_read_everything_is_copied(
    partitioned: Path, tmp_path: Path, where: str, word: str
) -> None:
    with bad_nbd(partitioned, tmp_path) as (socket, sectors), open_nbd_device(socket, 512) as device:
        at = {"table": 0, "superblock": MiB + 1024, "bitmap": MiB + block_bitmap(partitioned)}[where]
        sectors.set((at, 512))
        allowed = salvaged(device, fill=True)[0]
        image, warnings = capture(allowed, tmp_path)
        table = inspect_disk(allowed, Disk("x", allowed.size)).table
    content = bytearray(partitioned.read_bytes())
    content[at : at + 512] = bytes(512)
    start = MiB if at else 0
    assert image[start:] == content[start:]
    assert image[:512] == content[:512]
    assert allowed.bad == (Extent(at, 512),)
    assert word in " ".join(warnings)
    assert table is (TableKind.MBR if at else TableKind.NONE)


def block_bitmap(image: Path) -> int:
    """Where the first block bitmap of the filesystem is, bytes from its start."""
    shown = command.check(["dumpe2fs", f"{image}?offset={MiB}"], timeout=30, reason="look at the filesystem")
    size = re.search(r"Block size: +([0-9]+)", shown)
    block = re.search(r"Block bitmap at ([0-9]+)", shown)
    assert size
    assert block
    return int(size[1]) * int(block[1])
