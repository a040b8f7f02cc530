"""A device of which some bytes are known already and are not read again: metadata of a past moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from p2v.disk.device import BlockData, BlockDevice, BlockRequest, digest_of_parts

Patch = tuple[int, bytes]
"""Where on the disk, and what stands there."""


class PatchedDevice:
    """A `BlockDevice` over another one. Blocks with a patch in them travel whole, even to be hashed."""

    def __init__(self, device: BlockDevice, patches: Sequence[Patch]) -> None:
        self._device = device
        self._patches = tuple(patches)

    @property
    def size(self) -> int:
        return self._device.size

    @property
    def sector_size(self) -> int:
        return self._device.sector_size

    @property
    def live(self) -> bool:
        return self._device.live

    def read(self, offset: int, length: int) -> bytes:
        return self._patched(offset, self._device.read(offset, length))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for (offset, _), data in zip(ranges, self._device.read_many(ranges), strict=True):
            yield self._patched(offset, data)

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for block in self._device.fetch(requests):
            yield self._patched_block(block) if self._touches(block.request) else block

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        """Those with a patch come last."""
        later: list[BlockRequest] = []

        def others() -> Iterator[BlockRequest]:
            for request in requests:
                if self._touches(request):
                    later.append(request)
                else:
                    yield request

        yield from self._device.hash_blocks(others())
        yield from ((block.request, block.digest) for block in self.fetch(later))

    def _touches(self, request: BlockRequest) -> bool:
        end = request.offset + request.length
        return any(at < end and request.offset < at + len(content) for at, content in self._patches)

    def _patched_block(self, block: BlockData) -> BlockData:
        request, done, pieces = block.request, 0, []
        for start, size in request.pairs:
            piece = bytes(block.data[done : done + size])
            pieces.append(self._patched(request.offset + start, piece))
            done += size
        return replace(block, data=b"".join(pieces), digest=digest_of_parts(request, pieces))

    def _patched(self, offset: int, data: bytes) -> bytes:
        for at, content in self._patches:
            first, last = max(at, offset), min(at + len(content), offset + len(data))
            if first < last:
                data = data[: first - offset] + content[first - at : last - at] + data[last - offset :]
        return data
