"""Bytes that are known already, in reads, blocks and digests of a device."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest, open_file_device
from p2v.disk.patched import PatchedDevice
from p2v.model import BLOCK_SIZE

PATCHES = ((100, b"x" * 50), (BLOCK_SIZE - 10, b"y" * 20), (3 * BLOCK_SIZE + 5000, b"z" * 100_000))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(4 * BLOCK_SIZE))
    return path


def wanted(disk: Path) -> bytes:
    content = bytearray(disk.read_bytes())
    for at, patch in PATCHES:
        content[at : at + len(patch)] = patch
    return bytes(content)


def requests() -> list[BlockRequest]:
    """Whole blocks, and one whose used parts meet a patch with their ends only."""
    whole = [BlockRequest(n, n * BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),)) for n in range(3)]
    return [*whole, BlockRequest(3, 3 * BLOCK_SIZE, BLOCK_SIZE, ((0, 8192), (102_400, 8192)))]


def test_reads(disk: Path) -> None:
    content = wanted(disk)
    ranges = [(0, 4 * BLOCK_SIZE), (90, 20), (120, 10), (140, 20), (BLOCK_SIZE - 1, 2), (200, 4096), (160, 0)]
    with open_file_device(disk) as device:
        patched = PatchedDevice(device, PATCHES)
        for offset, length in ranges:
            assert patched.read(offset, length) == content[offset : offset + length]
        assert list(patched.read_many(ranges)) == [content[at : at + size] for at, size in ranges]


def test_blocks_and_their_digests(disk: Path) -> None:
    content = wanted(disk)
    with open_file_device(disk) as device:
        patched = PatchedDevice(device, PATCHES)
        found = {block.request.index: block for block in patched.fetch(requests())}
        hashed = {request.index: digest for request, digest in patched.hash_blocks(iter(requests()))}
    assert list(found) == [0, 1, 2, 3]
    for request in requests():
        block, used = bytearray(BLOCK_SIZE), b""
        for start, size in request.pairs:
            piece = content[request.offset + start : request.offset + start + size]
            block[start : start + size], used = piece, used + piece
        assert found[request.index].data == used
        assert found[request.index].digest == hashed[request.index] == hashlib.sha256(block).digest()
