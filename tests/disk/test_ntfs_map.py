"""The NTFS map against ntfs-3g and partclone: nothing used is missing, files survive the copy."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from p2v.disk.extents import normalise
from p2v.disk.maps import ntfs, ntfs_record
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.ntfs_record import Run
from p2v.disk.superblock import identify
from p2v.model import KiB, MiB
from tests.conftest import need_tools
from tests.disk import volumes
from tests.disk.images import opened, sparse
from tests.disk.mounting import churn, differing
from tests.disk.volumes import Patched, peek, poke, run

pytestmark = pytest.mark.tools

SHAPES = {
    "4k": (160 * MiB + 5 * 4096 + 7 * 512, ["-c", "4096"]),
    "512": (96 * MiB, ["-c", "512"]),
    "64k": (160 * MiB, ["-c", "65536"]),
    "2m": (512 * MiB, ["-c", "2097152"]),
    "4k-sectors": (160 * MiB, ["-s", "4096", "-c", "4096"]),
}
SHAPES_TAIL = {"64k": 64 * KiB + 16 * KiB, "2m": 2 * MiB + 16 * KiB}
"""The last cluster that does not fit, with the backup boot sector in it, and what is rounded."""


@dataclass(frozen=True)
class Made:
    path: Path
    digests: dict[str, str]


Maker = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Volumes are made once and only read; who changes one works on a copy."""
    return cache(lambda shape: _build(shape, tmp_path_factory.mktemp("ntfs")))


def _build(shape: str, folder: Path) -> Made:
    need_tools("mkntfs", "ntfs-3g", "ntfsinfo", "ntfsfix", "partclone.ntfs")
    volumes.need_fuse()
    size, options = SHAPES[shape]
    image = sparse(folder / "fs.img", size)
    run("mkntfs", "-F", "-Q", "-q", "-p", "0", "-H", "16", "-S", "63", *options, image)
    with volumes.fuse_mounted("ntfs-3g", image, folder / "mnt") as top:
        digests = churn(top, seed=len(shape), files=60 if shape == "2m" else 800)
    return Made(image, digests)


def own_copy(made: Maker, shape: str, folder: Path) -> Path:
    return Path(shutil.copy(made(shape).path, folder / "own.img"))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_what_partclone_copies(made: Maker, shape: str) -> None:
    image = made(shape).path
    size = image.stat().st_size
    oracle = volumes.untouched_used("partclone.ntfs", image)
    with opened(image) as device:
        mapped = ntfs.used_extents(device, 0, size)
    assert volumes.outside(oracle, mapped, size) == 0
    # The padding bits behind the last cluster are set, and mean nothing.
    assert mapped[-1].end == size
    # The other direction, or a map that says "everything" would pass: gaps that the copy closes anyway are
    # no surplus. Nothing
    # else is but the first and the last sectors.
    surplus = volumes.outside(mapped, normalise(oracle, size=size), size)
    assert surplus <= SHAPES_TAIL.get(shape, 16 * KiB)
    assert sum(part.length for part in mapped) < size * 3 // 4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_is_clean_and_has_the_same_files(made: Maker, shape: str, tmp_path: Path) -> None:
    volume = made(shape)
    copy, copied = volumes.copied(volume.path, tmp_path)
    assert copied < volume.path.stat().st_size * 3 // 4
    assert volumes.code("ntfsfix", "-n", copy) == 0
    with volumes.fuse_mounted("ntfs-3g", copy, tmp_path / "copy", "ro") as top:
        assert not differing(top, volume.digests)
    # The backup boot sector stands behind the last cluster: no bit stands for it.
    sector = 4096 if shape == "4k-sectors" else 512
    last = copy.stat().st_size // sector * sector - sector
    assert peek(copy, last, 512) == peek(copy, 0, 512) != bytes(512)


def test_a_dirty_volume_is_copied_whole(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    run("ntfsfix", image)  # marks the volume, so that Windows checks it
    assert "dirty" in volumes.warning_of(image)
    with opened(image) as base:
        assert ntfs.used_extents(Patched(base, live=True), 0, base.size)
    run("ntfsfix", "-d", image)
    with opened(image) as device:
        assert ntfs.used_extents(device, 0, device.size)


def log_offset(image: Path) -> int:
    with opened(image) as device:
        volume = ntfs.read_boot(device, 0, device.size)
        table = ntfs.master_table(device, volume)
        log = ntfs.find_attribute(device, volume, table, ntfs.LOG_FILE, ntfs_record.DATA)
        return log.runs[0].lcn * volume.cluster_size


def restart_page(sequence: int, *, client: int, flags: int, major: int = 1) -> bytes:
    """A restart page as Windows writes it, one client "NTFS", with its fixups."""
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, major)
    # The area: sequence, clients, free list, list in use, flags, ...
    area = (
        sequence,
        1,
        0xFFFF if client == 0 else 0,
        client,
        flags,
        67 - 22,
        224,
        64,
        2 * MiB,
        0,
        48,
        64,
        0,
        0,
    )
    struct.pack_into("<QHHHHIHHqIHHII", page, 48, *area)
    struct.pack_into("<QQHHH6xI8s", page, 48 + 64, 1, 1, 0xFFFF, 0xFFFF, 0, 8, "NTFS".encode("utf-16-le"))
    page[30:32] = b"\x07\x00"
    for sector in range(8):
        page[32 + 2 * sector : 34 + 2 * sector] = page[sector * 512 + 510 : sector * 512 + 512]
        page[sector * 512 + 510 : sector * 512 + 512] = b"\x07\x00"
    return bytes(page)


LOGS = {
    "closed": (restart_page(100, client=0xFFFF, flags=0), restart_page(90, client=0xFFFF, flags=0), True),
    "clean": (restart_page(100, client=0, flags=2), restart_page(90, client=0, flags=2), True),
    "in use": (restart_page(100, client=0, flags=0), restart_page(90, client=0, flags=0), False),
    "the newer first page counts": (
        restart_page(100, client=0, flags=0),
        restart_page(90, client=0, flags=2),
        False,
    ),
    "the newer second page counts": (
        restart_page(90, client=0, flags=2),
        restart_page(100, client=0, flags=0),
        False,
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_an_unclean_log_is_copied_whole(made: Maker, name: str, tmp_path: Path) -> None:
    """The driver that others wrote says which log is clean: it mounts only those for writing."""
    first, second, clean = LOGS[name]
    image = own_copy(made, "4k", tmp_path)
    poke(image, log_offset(image), first + second)
    with volumes.fuse_mounted("ntfs-3g", image, tmp_path / "mnt", "norecover") as top:
        writable = os.statvfs(top).f_flag & os.ST_RDONLY == 0
    assert writable == clean
    poke(image, log_offset(image), first + second)  # the driver empties a clean log
    if clean:
        with opened(image) as device:
            assert ntfs.used_extents(device, 0, device.size)
    else:
        assert "log" in volumes.warning_of(image)


def test_a_log_without_a_sound_page_is_copied_whole(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    torn = bytearray(LOGS["clean"][0])
    torn[1022] ^= 1
    poke(image, log_offset(image), bytes(torn) + bytes(torn))
    assert "log" in volumes.warning_of(image)


class Editor:
    """Moves the content of a system file into extension records, as Windows does where runs are too many."""

    def __init__(self, image: Path) -> None:
        self.image = image
        with opened(image) as device:
            self.volume = ntfs.read_boot(device, 0, device.size)
            self.table = ntfs.master_table(device, self.volume)

    def place(self, number: int) -> int:
        with opened(self.image) as device:
            size = self.volume.record_size
            [(offset, _)] = ntfs.places(self.volume, self.table, number * size, size)
        assert device.size > offset
        return offset

    def read(self, number: int) -> bytearray:
        raw = peek(self.image, self.place(number), self.volume.record_size)
        return bytearray(ntfs_record.with_fixups(raw, b"FILE"))

    def is_free(self, number: int) -> bool:
        raw = peek(self.image, self.place(number), 24)
        return raw[:4] == b"FILE" and not raw[22] & 1

    def write(self, number: int, record: bytearray) -> None:
        at, count = struct.unpack_from("<HH", record, 4)
        raw = bytearray(record)
        raw[at : at + 2] = b"\x05\x00"
        for sector in range(count - 1):
            tail = sector * 512 + 510
            raw[at + 2 + 2 * sector : at + 4 + 2 * sector] = record[tail : tail + 2]
            raw[tail : tail + 2] = b"\x05\x00"
        poke(self.image, self.place(number), bytes(raw))
        if number == 0:
            poke(self.image, self.volume.mirror * self.volume.cluster_size, bytes(raw))

    def parts(self, record: bytearray) -> list[bytes]:
        at, parts = struct.unpack_from("<H", record, 20)[0], []
        while struct.unpack_from("<I", record, at)[0] != 0xFFFFFFFF:
            size = struct.unpack_from("<I", record, at + 4)[0]
            parts.append(bytes(record[at : at + size]))
            at += size
        return parts

    def fill(self, record: bytearray, parts: list[bytes]) -> bytearray:
        at = struct.unpack_from("<H", record, 20)[0]
        body = b"".join(parts) + b"\xff\xff\xff\xff" + bytes(4)
        assert at + len(body) <= len(record)
        record[at:] = body + bytes(len(record) - at - len(body))
        struct.pack_into("<I", record, 24, at + len(body))
        return record

    def spread(self, number: int, extensions: list[int], *, keep_first: bool) -> None:
        """Cut the unnamed content into as many pieces as there are extension records (and the base)."""
        record = self.read(number)
        parts = self.parts(record)
        [content] = [part for part in parts if part[:4] == b"\x80\0\0\0" and not part[9]]
        pieces = self.cut(content, len(extensions) + keep_first)
        homes = [number, *extensions] if keep_first else extensions
        entries = b""
        for part in parts:
            if part is not content:
                entries += self.entry(part, number, record)
            else:
                for piece, home in zip(pieces, homes, strict=True):
                    entries += self.entry(piece, home, record)
        size = -(-len(entries) // 8) * 8
        listed = struct.pack("<IIBBHHHIHBB", 0x20, 24 + size, 0, 0, 24, 0, 40, len(entries), 24, 0, 0)
        kept = [part for part in parts if part is not content]
        mine = [piece for piece, home in zip(pieces, homes, strict=True) if home == number]
        after = [part for part in kept if part[0] <= 0x80]
        body = [kept[0], listed + entries.ljust(size, b"\0"), *after[1:], *mine, *kept[len(after) :]]
        for piece, home in zip(pieces, homes, strict=True):
            if home != number:
                extension = bytearray(record)
                struct.pack_into("<Q", extension, 32, number | struct.unpack_from("<H", record, 16)[0] << 48)
                struct.pack_into("<HH", extension, 16, 1, 0)
                struct.pack_into("<H", extension, 22, 1)
                struct.pack_into("<I", extension, 44, home)
                self.write(home, self.fill(extension, [piece]))
        self.write(number, self.fill(record, body))

    def entry(self, part: bytes, home: int, record: bytearray) -> bytes:
        sequence = struct.unpack_from("<H", record, 16)[0] if home < 16 else 1
        first = struct.unpack_from("<Q", part, 16)[0] if part[8] else 0
        name_at = struct.unpack_from("<H", part, 10)[0]
        name = part[name_at : name_at + 2 * part[9]]
        kind, number = struct.unpack_from("<I", part)[0], struct.unpack_from("<H", part, 14)[0]
        size = -(-(26 + len(name)) // 8) * 8
        reference = home | sequence << 48
        return (struct.pack("<IHBBQQH", kind, size, part[9], 26, first, reference, number) + name).ljust(
            size, b"\0"
        )

    def cut(self, content: bytes, count: int) -> list[bytes]:
        [attribute] = [ntfs_record._attribute(content)]
        clusters = [(run.vcn + step, run.lcn + step) for run in attribute.runs for step in range(run.count)]
        share = len(clusters) // count
        pieces = []
        for number in range(count):
            mine = clusters[number * share : (number + 1) * share if number + 1 < count else None]
            pairs = (
                b"\x44" + struct.pack("<iI", len(mine), mine[0][1]) if contiguous(mine) else pairs_of(mine)
            )
            head = bytearray(content[:64])
            struct.pack_into("<IIBBH", head, 0, 0x80, 64 + -(-(len(pairs) + 1) // 8) * 8, 1, 0, 64)
            struct.pack_into("<QQHH", head, 16, mine[0][0], mine[-1][0], 64, 0)
            if number:
                head[40:64] = bytes(24)
            pieces.append(bytes(head) + (pairs + b"\0").ljust(-(-(len(pairs) + 1) // 8) * 8, b"\0"))
        return pieces


def contiguous(clusters: list[tuple[int, int]]) -> bool:
    return clusters[-1][1] - clusters[0][1] == len(clusters) - 1


def pairs_of(clusters: list[tuple[int, int]]) -> bytes:
    pairs, last = b"", 0
    for _, lcn in clusters:
        pairs += b"\x41\x01" + struct.pack("<i", lcn - last)
        last = lcn
    return pairs


@pytest.mark.parametrize(
    ("number", "keep_first"), [(ntfs.BITMAP, False), (ntfs.BITMAP, True), (ntfs.MFT, True)]
)
def test_content_in_extension_records_is_followed(
    made: Maker, number: int, tmp_path: Path, *, keep_first: bool
) -> None:
    image = own_copy(made, "512", tmp_path)
    with opened(image) as device:
        before = ntfs.used_extents(device, 0, device.size)
    oracle = volumes.untouched_used("partclone.ntfs", made("512").path)
    Editor(image).spread(number, [16, 17, 18], keep_first=keep_first)
    # The same volume in the eyes of those who wrote the format's other implementation.
    assert volumes.partclone_used("partclone.ntfs", image) == oracle
    with opened(image) as device:
        assert ntfs.used_extents(device, 0, device.size) == before
    # And it is these records that are followed.
    poke(image, Editor(image).place(17), b"BAAD")
    with opened(image) as device, pytest.raises(MapUnknown):
        ntfs.used_extents(device, 0, device.size)


def test_a_table_whose_pieces_lead_to_one_another(made: Maker, tmp_path: Path) -> None:
    """The record of a later piece of the table stands in an earlier one that is not in its first record."""
    image = own_copy(made, "512", tmp_path)
    with opened(image) as device:
        before = ntfs.used_extents(device, 0, device.size)
    editor = Editor(image)
    clusters = sum(run.count for run in editor.table)
    records = clusters * editor.volume.cluster_size // editor.volume.record_size
    free = next(number for number in range(records // 4 + 8, records // 2 - 8) if editor.is_free(number))
    editor.spread(ntfs.MFT, [16, free, 18], keep_first=True)
    oracle = volumes.untouched_used("partclone.ntfs", made("512").path)
    assert volumes.partclone_used("partclone.ntfs", image) == oracle
    with opened(image) as device:
        assert ntfs.used_extents(device, 0, device.size) == before


def test_runs_outside_the_volume_are_unknown(made: Maker) -> None:
    with opened(made("4k").path) as device:
        volume = ntfs.read_boot(device, 0, device.size)
    ntfs._check_runs(volume, [Run(0, volume.clusters - 2, 2)])
    for runs in ([Run(0, volume.clusters - 1, 2)], [Run(1, 5, 2)], [Run(0, 5, 2), Run(3, 9, 1)]):
        with pytest.raises(MapUnknown):
            ntfs._check_runs(volume, runs)


def test_the_bitmap_must_know_of_itself(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "4k", tmp_path)
    with opened(image) as device:
        volume = ntfs.read_boot(device, 0, device.size)
        bitmap = ntfs.find_attribute(
            device, volume, ntfs.master_table(device, volume), ntfs.BITMAP, ntfs_record.DATA
        )
    poke(image, bitmap.runs[0].lcn * 4096, bytes(2000))
    assert "free" in volumes.warning_of(image)


def test_the_identity_has_the_size_of_the_volume(made: Maker) -> None:
    with opened(made("4k").path) as device:
        found = identify(device, 0, device.size)
        assert found is not None
        assert (found.kind, found.size) == ("ntfs", device.size // 512 * 512)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (3, b"NTFT"),
        (11, b"\0\0"),
        (13, b"\0"),
        (13, b"\xe0"),
        (13, b"\x03"),
        (40, b"\xff" * 8),
        (40, bytes(8)),
        (48, b"\xff" * 8),
        (56, b"\xff" * 8),
        (64, b"\0"),
        (64, b"\x80"),
    ],
)
def test_a_damaged_boot_sector_is_unknown(made: Maker, offset: int, value: bytes) -> None:
    with opened(made("4k").path) as base:
        device = Patched(base)
        device.patches = [(offset, value)]
        with pytest.raises(MapUnknown):
            ntfs.used_extents(device, 0, device.size)


def test_runs_with_holes_and_nonsense_are_unknown() -> None:
    assert list(ntfs_record._runs(b"\x21\x03\x00\x10\x11\x02\xfe\0", 0)) == [
        Run(0, 0x1000, 3),
        Run(3, 0xFFE, 2),
    ]
    for pairs in (b"\x01\x05\0", b"\x11\x00\x05\0", b"\x11\x01\xfe\0", b"\x88\x01", b"\x9f" + bytes(30)):
        with pytest.raises(MapUnknown):
            list(ntfs_record._runs(pairs, 0))


def test_mutations_never_leave_the_partition(made: Maker, tmp_path: Path) -> None:
    image = own_copy(made, "512", tmp_path)
    Editor(image).spread(ntfs.BITMAP, [16, 17, 18], keep_first=True)
    editor = Editor(image)
    record = editor.volume.record_size
    regions = [(0, 128)] + [(editor.place(number), record) for number in (0, 2, 3, 6, 16, 17)]
    regions += [(editor.volume.mirror * editor.volume.cluster_size, record), (log_offset(image), 64)]
    volumes.survive(image, ntfs.used_extents, regions, rounds=1500)
