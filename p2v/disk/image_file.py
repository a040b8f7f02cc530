"""An open image: large aligned pieces go past the page cache, the rest through it.

A captured disk fills the page cache with pages that nobody asks for soon, and to copy them there costs more
than to send them to the disk; and a read-back that goes past it sees what the disk really holds. Where the
filesystem cannot (O_DIRECT is refused: some network filesystems, tmpfs before Linux 6.6), everything goes
through the cache.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2v.disk.device import ALIGNMENT
from p2v.errors import VerifyError
from p2v.model import KiB

DIRECT_SIZE = 256 * KiB
"""Smaller pieces are not worth waiting for the disk."""

UNUSED = 3
"""What `sys.getrefcount` says of a buffer without views: the list, the variable, its own argument."""


class ImageFile:
    """Reads and writes raise OSError as the kernel says it."""

    def __init__(self, handle: int, direct: int | None) -> None:
        self.handle = handle
        self._direct = direct

    def write(self, piece: memoryview, offset: int) -> int:
        """All of the piece; returns its size."""
        size = len(piece)
        while piece:
            done = self._write_once(piece, offset)
            piece, offset = piece[done:], offset + done
        return size

    def _write_once(self, piece: memoryview, offset: int) -> int:
        direct = self._direct_for(len(piece), offset)
        if direct is not None:
            # EINVAL: memory that the device cannot take it from (not aligned); a copy in the cache then.
            with _unless_invalid():
                return os.pwrite(direct, piece[: len(piece) // ALIGNMENT * ALIGNMENT], offset)
        return os.pwrite(self.handle, piece, offset)

    def read(self, view: memoryview, offset: int) -> None:
        """Fill the view; a page-aligned one (of a `mmap`) can be filled past the cache."""
        while view:
            done = self._read_once(view, offset)
            if not done:
                raise VerifyError(f"The image ends at byte {offset}")
            view, offset = view[done:], offset + done

    def _read_once(self, view: memoryview, offset: int) -> int:
        direct = self._direct_for(len(view), offset)
        if direct is not None:
            with _unless_invalid():
                return os.preadv(direct, [view[: len(view) // ALIGNMENT * ALIGNMENT]], offset)
        return os.preadv(self.handle, [view], offset)

    def _direct_for(self, size: int, offset: int) -> int | None:
        return self._direct if size >= DIRECT_SIZE and offset % ALIGNMENT == 0 else None

    def next_data(self, offset: int, end: int) -> int | None:
        """The first byte from `offset` on, before `end`, that is no hole; None where there is none."""
        if offset >= end:
            return None
        try:
            at = os.lseek(self.handle, offset, os.SEEK_DATA)
        except OSError:
            return None  # ENXIO: nothing but a hole from here to the end
        return at if at < end else None

    def next_hole(self, offset: int) -> int:
        return os.lseek(self.handle, offset, os.SEEK_HOLE)


@contextmanager
def open_image_file(path: Path, flags: int) -> Iterator[ImageFile]:
    """`flags` as for os.open. Raises OSError."""
    with contextlib.ExitStack() as stack:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, handle)
        direct = None
        with _unless_invalid():
            direct = os.open(path, (flags & ~os.O_CREAT) | os.O_DIRECT | os.O_CLOEXEC)
            stack.callback(os.close, direct)
        yield ImageFile(handle, direct)


@contextmanager
def _unless_invalid() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def page_buffer(size: int) -> memoryview:
    """Memory that starts on a page, in huge pages where the kernel has them; freed with the last view."""
    return memoryview(_pages(size))[:size]


def _pages(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


class PagePool:
    """Buffers of one size that go round: fresh memory is zeroed by the kernel each time, which is work.

    For one thread that takes; a buffer is free again once nobody holds a view of it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """`size` bytes that start on a page, with whatever is in them; a larger size is not kept."""
        if size > self._size:
            return page_buffer(size)
        free = next((one for one in self._buffers if sys.getrefcount(one) == UNUSED), None)
        if free is None:
            free = _pages(self._size)
            self._buffers.append(free)
        return memoryview(free)[:size]
