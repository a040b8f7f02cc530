"""A disk some pieces of which the reader takes from other devices: bytes and digests as if it were one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import TransportError
from p2v.model import BLOCK_SIZE, MiB
from p2v.transports.base import Composable, Piece
from p2v.transports.reader_client import RemoteDisk
from tests.transports.test_reader import reader


def file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def test_pieces_from_several_devices(tmp_path: Path) -> None:
    """Out of order, next to each other, across a block, up to the end; one device used twice."""
    disk, one, other = (file(tmp_path, name, 12 * MiB) for name in ("disk", "one", "other"))
    pieces = [
        Piece(11 * MiB, MiB, str(one), 4096),
        Piece(3 * MiB, 2 * MiB, str(one), 5 * MiB),
        Piece(5 * MiB, 8192, str(other), 0),
    ]
    content = bytearray(disk.read_bytes())
    for piece in pieces:
        source = Path(piece.path).read_bytes()
        content[piece.start : piece.start + piece.length] = source[piece.offset : piece.offset + piece.length]
    whole = tmp_path / "whole"
    whole.write_bytes(content)
    requests = [BlockRequest(n, n * BLOCK_SIZE, BLOCK_SIZE, ((4096, BLOCK_SIZE - 4096),)) for n in range(3)]
    with reader() as client, open_file_device(whole) as expected:
        plain = RemoteDisk(client, str(disk), sector_size=512, live=True)
        assert isinstance(plain, Composable)
        composed = plain.composed(pieces)
        assert composed.size == 12 * MiB
        assert composed.read(0, 12 * MiB) == bytes(content)
        for ours, theirs in zip(composed.fetch(requests), expected.fetch(requests), strict=True):
            assert (bytes(ours.data), ours.digest) == (bytes(theirs.data), theirs.digest)
        assert list(composed.hash_blocks(requests)) == list(expected.hash_blocks(requests))
        # The disk itself is as it was.
        assert plain.read(3 * MiB, 4096) == disk.read_bytes()[3 * MiB : 3 * MiB + 4096]


def test_a_piece_over_a_hole_is_read_from_its_device(tmp_path: Path) -> None:
    disk, one = tmp_path / "disk", file(tmp_path, "one", BLOCK_SIZE)
    with disk.open("wb") as sparse:
        sparse.truncate(2 * BLOCK_SIZE)
    request = BlockRequest(0, 0, BLOCK_SIZE, ((0, BLOCK_SIZE),))
    with reader() as client:
        plain = RemoteDisk(client, str(disk), sector_size=512, live=True)
        assert next(plain.fetch([request])).empty
        (block,) = plain.composed([Piece(0, BLOCK_SIZE, str(one), 0)]).fetch([request])
        assert bytes(block.data) == one.read_bytes()


def test_a_snapshot_that_is_gone_is_an_error(tmp_path: Path) -> None:
    disk = file(tmp_path, "disk", MiB)
    with reader() as client:
        plain = RemoteDisk(client, str(disk), sector_size=512, live=True)
        with pytest.raises(TransportError, match="No such file"):
            plain.composed([Piece(0, 4096, str(tmp_path / "gone"), 0)])
        short = file(tmp_path, "short", 4096)
        composed = plain.composed([Piece(0, 8192, str(short), 0)])
        with pytest.raises(TransportError, match="ended early"):
            composed.read(4096, 4096)
