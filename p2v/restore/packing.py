"""Blocks of a prepared image on their way to the line: read, digested, compressed, by several threads.

    image ──► threads: read, digest, compress ──► in order, a few ahead of the line

Memory is a handful of blocks, whatever the size of the disk.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count

import zstandard

from p2v.disk.device import BlockDevice, BlockRequest, digest_of_parts
from p2v.disk.digests import zero_digest
from p2v.transports.frames import Codec
from p2v.transports.remote_packing import Adaptive, is_zero
from p2v.transports.writer_frames import PackedBlock

WORKERS = min(4, cpu_count() or 1)
AHEAD = 2 * WORKERS
"""Blocks that are made ready before the line takes them."""


class _Zstd:
    codec = Codec.ZSTD

    def __init__(self) -> None:
        # A compressor is for one thread.
        self._local = threading.local()

    def compress(self, raw: memoryview) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=1)
        packed: bytes = self._local.compressor.compress(raw)
        return packed


class _Zlib:
    codec = Codec.ZLIB

    def compress(self, raw: memoryview) -> bytes:
        return zlib.compress(raw, 1)


class Packer:
    """Makes the blocks of one image ready. Compresses where that is faster than the line (as the reader of a
    capture does), with what the other side can unpack.
    """

    def __init__(self, device: BlockDevice, codec: Codec) -> None:
        self._device = device
        packer = _Zstd() if codec is Codec.ZSTD else _Zlib()
        self._adaptive = Adaptive(WORKERS, packer)  # type: ignore[arg-type]  # any that has both members
        self._waited = False

    def wrote(self, size: int, seconds: float) -> None:
        """Told of each block that was sent."""
        self._adaptive.wrote(size, seconds, self._waited)

    def blocks(self, requests: Iterable[BlockRequest]) -> Generator[PackedBlock, None, None]:
        """The blocks in order; to be closed before the image. Raises TransportError."""
        waiting: deque[Future[PackedBlock]] = deque()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="p2v-pack") as pool:
            try:
                for request in requests:
                    waiting.append(pool.submit(self.pack, request))
                    if len(waiting) > AHEAD:
                        yield self._take(waiting)
                while waiting:
                    yield self._take(waiting)
            finally:
                for future in waiting:
                    future.cancel()

    def _take(self, waiting: deque[Future[PackedBlock]]) -> PackedBlock:
        future = waiting.popleft()
        self._waited = not future.done()
        return future.result()

    def pack(self, request: BlockRequest) -> PackedBlock:
        pieces = [self._device.read(request.offset + start, size) for start, size in request.pairs]
        if all(is_zero(memoryview(piece)) for piece in pieces):
            return PackedBlock(request, Codec.ZERO, b"", zero_digest(request.length))
        digest = digest_of_parts(request, pieces)
        raw = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        codec, payload = self._adaptive.pack(raw)
        return PackedBlock(request, Codec(codec), payload, digest)


def digests_of(
    device: BlockDevice, requests: Iterable[BlockRequest]
) -> Generator[tuple[BlockRequest, bytes]]:
    """The digests of blocks of an image, by several threads; to be closed before the image."""

    def digest(request: BlockRequest) -> tuple[BlockRequest, bytes]:
        pieces = [device.read(request.offset + start, size) for start, size in request.pairs]
        if all(is_zero(memoryview(piece)) for piece in pieces):
            return request, zero_digest(request.length)
        return request, digest_of_parts(request, pieces)

    waiting: deque[Future[tuple[BlockRequest, bytes]]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="p2v-digest") as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(digest, request))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
