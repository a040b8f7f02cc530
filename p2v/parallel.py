"""Several pieces of work at once; the first error stops the others, and nobody is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from p2v.disk.device import BlockData, BlockDevice, BlockRequest

LANES = 4
"""Pieces of work at once: more disks of one machine than this only wait for the same wire."""

WAKE_SECONDS = 0.5
"""How often the main thread looks up from waiting, so that a signal is never kept waiting itself."""

T = TypeVar("T")


class Stopped(Exception):
    """The work ends because another piece of it failed, whose error is the one to be shown."""


class Stop:
    """Says to all pieces of work that they should end; each can be gone on with later."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raises Stopped."""
        if self._event.is_set():
            raise Stopped


class StoppableDevice:
    """A `BlockDevice` over another one that ends between two blocks when it is told to."""

    def __init__(self, device: BlockDevice, stop: Stop) -> None:
        self._device = device
        self._stop = stop

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
        self._stop.check()
        return self._device.read(offset, length)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        return self._checked(self._device.read_many(ranges))

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        return self._checked(self._device.fetch(requests))

    def hash_blocks(self, requests: Iterable[BlockRequest]) -> Iterator[tuple[BlockRequest, bytes]]:
        return self._checked(self._device.hash_blocks(requests))

    def _checked(self, answers: Iterator[T]) -> Iterator[T]:
        for answer in answers:
            self._stop.check()
            yield answer


def all_at_once(work: Sequence[Callable[[], T]], stop: Stop) -> list[T]:
    """Do all of it, at most `LANES` at a time, and return what came of each, in order.

    The first error stops the others, each of which should look at `stop`, and is raised once they have ended;
    so is an interruption of the caller. One piece alone is done by the caller itself.
    """
    if len(work) == 1:
        return [work[0]()]
    errors: list[BaseException] = []

    def attempt(call: Callable[[], T]) -> T:
        try:
            stop.check()
            return call()
        except BaseException as error:
            if not isinstance(error, Stopped):
                errors.append(error)
            stop.set()
            raise

    with ThreadPoolExecutor(LANES, thread_name_prefix="p2v-disk") as pool:
        futures = [pool.submit(attempt, call) for call in work]
        _wait_for_all(futures, stop)
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def _wait_for_all(futures: Sequence[Future[T]], stop: Stop) -> None:
    try:
        while wait(futures, timeout=WAKE_SECONDS).not_done:
            pass
    except BaseException:
        stop.set()
        raise
