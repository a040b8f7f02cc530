"""The C# of the Windows script, compiled and run: the very reader that Windows gets, against the local end.

Mono compiles it as Windows PowerShell does (C# 5), and kernel32.dll is a small library over files, which is
as strict with its arguments as the documentation is. What is missing for a Windows is PowerShell and the
kernel.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import ReadError, TransportError
from p2v.model import BLOCK_SIZE, Extent, MiB
from p2v.transports import Piece, frames
from p2v.transports.frames import Codec, Op
from p2v.transports.reader_client import ReaderClient
from p2v.transports.windows import WindowsDisk
from tests.transports.mono_host import build_host
from tests.transports.test_reader import REQUESTS, Pipes
from tests.transports.windows_source import NTFS_SIZE, NTFS_START, make_disk

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

DISK, VOLUME, SHADOW = r"\\.\PhysicalDrive0", "C", r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7"
CLUSTER = 4096
SMALL = 64 * 1024


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_host(tmp_path_factory.mktemp("mono"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"compressible " * 102_400 + os.urandom(4 * MiB) + bytes(7 * MiB) + os.urandom(4096))
    return path


def settings(folder: Path, devices: dict[str, Path], **more: str) -> dict[str, str]:
    lines = "\n".join(f"{name}={path}" for name, path in devices.items())
    return {**os.environ, "P2V_DEVICES": lines, "P2V_FLUSHED": str(folder / "flushed"), **more}


@contextmanager
def reader(host: Path, devices: dict[str, Path], **more: str) -> Iterator[ReaderClient]:
    child = subprocess.Popen(
        ["mono", host, "reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=settings(host.parent, devices, **more),
    )
    try:
        client = ReaderClient(Pipes(child))
        assert client.hello()["administrator"] is True
        yield client
        client.quit()
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        Pipes(child).sink.close()
        Pipes(child).source.close()


def ask(host: Path, devices: dict[str, Path], *words: str) -> str:
    said = subprocess.run(
        ["mono", host, *words],
        env=settings(host.parent, devices),
        capture_output=True,
        timeout=30,
        check=True,
    )
    return said.stdout.decode().strip()


def test_the_same_bytes_and_digests_as_a_local_read(host: Path, image: Path) -> None:
    with reader(host, {DISK: image}) as client, open_file_device(image) as local:
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        assert disk.size == image.stat().st_size
        codecs = []
        for ours, theirs in zip(local.fetch(REQUESTS), disk.fetch(REQUESTS), strict=True):
            assert (ours.request, bytes(ours.data), ours.digest) == (
                theirs.request,
                bytes(theirs.data),
                theirs.digest,
            )
            codecs.append(theirs.wire_size < len(theirs.data))
        assert [digest for _, digest in disk.hash_blocks(REQUESTS)] == [
            digest for _, digest in local.hash_blocks(REQUESTS)
        ]
        assert codecs[2], "zeros cost nothing"
        assert disk.read(4097, 100_000) == image.read_bytes()[4097:104_097]


def test_what_is_compressed_there_is_read_here(host: Path, tmp_path: Path) -> None:
    """A block with many zeros is compressed whatever the wire; zlib's checksum must be right for that."""
    path = tmp_path / "sparse.img"
    path.write_bytes(
        (b"text " * 13_000 + bytes(65_536 - 65_000) + bytes(65_536 * 3)) * 15 + bytes(65_536 * 4)
    )
    with reader(host, {DISK: path}) as client:
        disk, _ = client.open(DISK)
        client._line.write(
            frames.pack_request(Op.READ, 9, disk=disk, length=BLOCK_SIZE, pairs=((0, BLOCK_SIZE),))
        )
        head = bytearray(frames.RESPONSE.size)
        client._line.readinto(memoryview(head))
        response = frames.parse_response(bytes(head), limit=BLOCK_SIZE)
        payload = bytearray(response.payload_size)
        client._line.readinto(memoryview(payload))
    assert (response.codec, response.tag) == (Codec.ZLIB, 9)
    assert len(payload) < BLOCK_SIZE // 10
    assert frames.decode(response, bytes(payload), expected=BLOCK_SIZE) == path.read_bytes()[:BLOCK_SIZE]
    assert response.digest == hashlib.sha256(path.read_bytes()[:BLOCK_SIZE]).digest()


def test_any_request_gets_its_bytes(host: Path, image: Path) -> None:
    """Pairs of any place and size, many in flight; the seed is fixed."""
    chance, content = random.Random(6), image.read_bytes()
    requests = []
    for _ in range(100):
        edges = sorted(chance.sample(range(SMALL), 6))
        pairs = tuple((first, last - first) for first, last in zip(edges[::2], edges[1::2], strict=True))
        requests.append(BlockRequest(0, chance.randrange(0, len(content) - SMALL), SMALL, pairs))
    with reader(host, {DISK: image}) as client:
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        for request, block in zip(requests, disk.fetch(requests), strict=True):
            whole = bytearray(SMALL)
            for start, size in request.pairs:
                at = request.offset + start
                whole[start : start + size] = content[at : at + size]
            assert bytes(block.data) == b"".join(bytes(whole[at : at + size]) for at, size in request.pairs)
            assert block.digest == hashlib.sha256(whole).digest()


def test_a_disk_composed_of_snapshots(host: Path, image: Path, tmp_path: Path) -> None:
    """Names with a backslash and another alphabet come through the words of the request."""
    shadow, other = tmp_path / "shadow", tmp_path / "other"
    shadow.write_bytes(os.urandom(2 * MiB))
    other.write_bytes(os.urandom(MiB))
    expected = bytearray(image.read_bytes())
    expected[MiB : 3 * MiB] = shadow.read_bytes()
    expected[3 * MiB : 3 * MiB + 65536] = other.read_bytes()[4096 : 4096 + 65536]
    with reader(host, {DISK: image, SHADOW: shadow, 'D"\\': other}) as client:
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        composed = disk.composed([Piece(3 * MiB, 65536, 'D"\\', 4096), Piece(MiB, 5 * MiB, SHADOW, 0)])
        assert composed.size == len(expected)
        assert composed.read(0, len(expected)) == bytes(expected)
        assert disk.read(MiB, 4096) == image.read_bytes()[MiB : MiB + 4096]


def test_faults_are_told_and_the_reader_goes_on(host: Path, image: Path) -> None:
    with reader(host, {DISK: image}, P2V_BAD="1") as client:
        with pytest.raises(TransportError):
            client.open("nowhere")
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        request = BlockRequest(0, 0, BLOCK_SIZE, ((0, BLOCK_SIZE),))
        with pytest.raises(ReadError) as caught:
            list(disk.fetch([request]))
        assert caught.value.offset == 0
        outside = BlockRequest(0, 12 * MiB, BLOCK_SIZE, ((0, BLOCK_SIZE),))
        for wrong in (
            outside,
            BlockRequest(0, 0, 4096, ((0, 8192),)),
            BlockRequest(0, 0, 99, ((5, 4), (2, 4))),
        ):
            with pytest.raises(TransportError, match="outside"):
                list(disk.fetch([wrong]))
        with pytest.raises(TransportError):
            client.read_many(99, [(0, 512)]).__next__()
        assert disk.read(0, 512) == image.read_bytes()[:512]


def test_volumes_are_flushed_as_far_as_they_are_there(host: Path, image: Path) -> None:
    with reader(host, {DISK: image, VOLUME: image}) as client:
        client.sync()
    assert (host.parent / "flushed").read_text() == f"{image}\n"


def test_what_windows_says_of_devices(host: Path, image: Path) -> None:
    devices = {DISK: image, VOLUME: image}
    assert ask(host, devices, "extents", VOLUME) == "0 1048576 4194304 3 8388608 16777216"
    assert ask(host, devices, "size", DISK) == str(image.stat().st_size)
    assert ask(host, devices, "firmware") == "2"


def test_the_bitmap_of_a_volume(host: Path, tmp_path: Path) -> None:
    """It comes in pieces, and only its clusters count; the size of the volume is that of its sectors."""
    volume = tmp_path / "volume"
    volume.write_bytes(make_disk(tmp_path).read_bytes()[NTFS_START : NTFS_START + NTFS_SIZE])
    clusters = struct.unpack_from("<Q", volume.read_bytes()[:512], 40)[0] * 512 // CLUSTER
    bits = bytearray(-(-clusters // 8))
    bits[0], bits[3], bits[100], bits[-1] = 0b00000011, 0x80, 0xFF, 0xFF
    Path(f"{volume}.bits").write_bytes(bits)
    with reader(host, {DISK: volume, SHADOW: volume}) as client:
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        assert disk.size == NTFS_SIZE - 512
        found = disk.used_of(Piece(MiB, NTFS_SIZE, SHADOW, 0))
    assert Extent(MiB, 2 * CLUSTER) in found
    assert Extent(MiB + 31 * CLUSTER, CLUSTER) in found
    assert Extent(MiB + 800 * CLUSTER, 8 * CLUSTER) in found
    last = (clusters - 1) // 8 * 8
    assert found[-1] == Extent(MiB + last * CLUSTER, (clusters - last) * CLUSTER)


def test_the_bitmap_of_a_large_volume_comes_in_pieces(host: Path, tmp_path: Path) -> None:
    """40 GiB: more clusters than one question is answered for. Only the boot sector is there."""
    volume, clusters = tmp_path / "volume", 10 * MiB
    boot = bytearray(512)
    boot[3:11] = b"NTFS    "
    struct.pack_into("<HB", boot, 11, 512, CLUSTER // 512)
    struct.pack_into("<Q", boot, 40, clusters * CLUSTER // 512)
    volume.write_bytes(boot)
    os.truncate(volume, clusters * CLUSTER)
    bits = bytearray(clusters // 8)
    bits[0], bits[MiB - 1], bits[MiB], bits[-1] = 1, 0x80, 0x01, 0x80
    Path(f"{volume}.bits").write_bytes(bits)
    with reader(host, {DISK: volume, SHADOW: volume}) as client:
        disk = WindowsDisk(client, DISK, sector_size=512, live=True)
        found = disk.used_of(Piece(0, clusters * CLUSTER, SHADOW, 0))
    middle = 8 * MiB * CLUSTER
    assert [(one.start, one.end) for one in found] == [
        (0, CLUSTER),
        (middle - CLUSTER, middle),
        (middle, middle + CLUSTER),
        ((clusters - 1) * CLUSTER, clusters * CLUSTER),
    ]


def test_a_line_that_ends_ends_the_reader(host: Path, image: Path) -> None:
    child = subprocess.Popen(
        ["mono", host, "reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=settings(host.parent, {DISK: image}),
    )
    assert child.communicate(b"", timeout=20)[0].startswith(frames.MAGIC)
    assert child.returncode == 0
