"""Reads a converted disk through its overlay, what is in use only, without a server in between.

`qemu-img map` says which file of the chain holds which bytes, and where: in a qcow2 file that QEMU wrote
while a guest was converted, clusters are plain, so the rest is reading files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from p2v import command
from p2v.disk.digests import BlockSet, DigestTable, read_table
from p2v.errors import TargetError, VerifyError
from p2v.model import BLOCK_SIZE

MAP_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of the disk from `start`, which are those from `offset` of file `depth` of the chain."""

    start: int
    length: int
    depth: int
    offset: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Captured:
    """The digests with which a disk was captured, and the blocks in which its overlay changed anything."""

    digests: DigestTable
    changed: BlockSet


@dataclass(frozen=True, slots=True)
class _Chain:
    """What `qemu-img` says of a file and those that it stands on; `handles` are theirs, the file's first."""

    size: int
    pieces: Sequence[Piece]
    handles: Sequence[int]
    captured: Captured | None


class OverlayReader:
    """A disk that is looked at when the first question comes. Raises TargetError where it cannot be read."""

    def __init__(self, overlay: Path, stack: ExitStack) -> None:
        self._overlay = overlay
        self._stack = stack

    @cached_property
    def _chain(self) -> _Chain:
        return _look(self._overlay, self._stack)

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._chain.size

    def known_digest(self, index: int) -> bytes | None:
        """That of block `index` where the source made it, None where the conversion touched the block."""
        captured = self._chain.captured
        return None if captured is None or index in captured.changed else captured.digests[index]

    @property
    def used(self) -> int:
        """Bytes that may be other than zero."""
        return sum(piece.length for piece in self._chain.pieces)

    def blocks(self) -> Iterator[tuple[int, bytearray]]:
        """(offset, content) of every block of BLOCK_SIZE that may be other than zero, whole and in order."""
        block, index = bytearray(), -1
        for piece in self._chain.pieces:
            at = piece.start
            while at < piece.end:
                if at // BLOCK_SIZE != index:
                    if index >= 0:
                        yield index * BLOCK_SIZE, block
                    index = at // BLOCK_SIZE
                    block = bytearray(min(BLOCK_SIZE, self.size - index * BLOCK_SIZE))
                end = min(piece.end, (index + 1) * BLOCK_SIZE)
                base = index * BLOCK_SIZE
                self._fill(memoryview(block)[at - base : end - base], piece, at)
                at = end
        if index >= 0:
            yield index * BLOCK_SIZE, block

    def _fill(self, view: memoryview, piece: Piece, at: int) -> None:
        offset = piece.offset + at - piece.start
        while view:
            try:
                done = os.preadv(self._chain.handles[piece.depth], [view], offset)
            except OSError as error:
                raise TargetError(f"The converted disk cannot be read at {at}: {error.strerror}") from error
            if not done:
                # A raw capture may end before its last sector is full: the rest reads as zeros.
                return
            view, offset = view[done:], offset + done


@contextmanager
def open_overlay(path: Path) -> Iterator[OverlayReader]:
    """A qcow2 file and what it stands on, for the block."""
    with ExitStack() as stack:
        yield OverlayReader(path.resolve(), stack)


def _look(overlay: Path, stack: ExitStack) -> _Chain:
    """Raises TargetError where it is not as a conversion leaves it."""
    chain = _ask("info", "--backing-chain", "--output=json", overlay)
    files = [overlay, *(Path(layer["full-backing-filename"]) for layer in chain[:-1])]
    size = int(chain[0]["virtual-size"])
    entries = _ask("map", "--output=json", "-f", "qcow2", overlay)
    pieces = [_piece(entry, overlay) for entry in entries if entry["data"] and not entry["zero"]]
    captured = _captured(files, size, entries) if chain[-1]["format"] == "raw" else None
    return _Chain(size, pieces, [_open(file, stack) for file in files], captured)


def _captured(files: Sequence[Path], size: int, entries: Sequence[dict[str, Any]]) -> Captured | None:
    """What a capture has left beside its image, where the chain stands on one."""
    base, table = files[-1], files[-1].with_suffix(".digest")
    if not table.exists() or base.stat().st_size != size:
        return None
    changed = BlockSet(size)
    for entry in entries:
        if entry["depth"] != len(files) - 1:
            changed.add_range(int(entry["start"]), int(entry["length"]))
    try:
        return Captured(read_table(table, size), changed)
    except VerifyError:
        return None


def _piece(entry: dict[str, Any], overlay: Path) -> Piece:
    if "offset" not in entry:
        raise TargetError(f"{overlay} has clusters that are compressed or encrypted")
    return Piece(int(entry["start"]), int(entry["length"]), int(entry["depth"]), int(entry["offset"]))


def _open(file: Path, stack: ExitStack) -> int:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"Cannot open {file}: {error.strerror}") from error
    stack.callback(os.close, handle)
    return handle


def _ask(*words: str | Path) -> list[dict[str, Any]]:
    qemu_img = command.need_tool("qemu-img", reason="read the converted disk", package="qemu-utils")
    said = command.check([qemu_img, *words], timeout=MAP_SECONDS, reason=f"look into {words[-1]}")
    found: list[dict[str, Any]] = json.loads(said)
    return found
