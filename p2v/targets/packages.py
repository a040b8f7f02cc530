"""Several targets of one machine, written side by side: a disk is read once for all that is written here.

Formats that qemu-img writes are read by a process each, at the same time, so that what one has read is in
memory for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2v.model import Image, VirtualMachine
from p2v.targets.overlay_reader import OverlayReader, open_overlay

Sink = Callable[[int, bytearray], None]
"""Takes (offset, content) of each block that may be other than zero, in order; it must not change it."""


@dataclass(frozen=True, slots=True)
class DiskWriting:
    """A disk that is being written. `finish` is called when the sink, where there is one, has had all."""

    finish: Callable[[], None]
    sink: Sink | None = None


class Package(Protocol):
    """The files of one target as they come to be: disk after disk, then what describes them."""

    def disk(
        self, index: int, overlay: Path, reader: OverlayReader
    ) -> AbstractContextManager[DiskWriting]: ...

    def end(self) -> tuple[Image, ...]: ...


Begin = Callable[[VirtualMachine, Path], AbstractContextManager[Package]]
"""Begins to write the images of a machine into a folder. What is not ended is under no final name."""


def write_packages(packages: Sequence[Package], overlays: Sequence[Path]) -> tuple[tuple[Image, ...], ...]:
    """The images of each package; `overlays` are those of the disks, in order.

    Raises TargetError where something cannot be written, VerifyError where it differs from its overlay.
    """
    for index, overlay in enumerate(overlays):
        with open_overlay(overlay) as reader, ExitStack() as stack:
            disks = [stack.enter_context(package.disk(index, overlay, reader)) for package in packages]
            _feed(reader, [disk.sink for disk in disks if disk.sink is not None])
            for disk in disks:
                disk.finish()
    return tuple(package.end() for package in packages)


def _feed(reader: OverlayReader, sinks: Sequence[Sink]) -> None:
    if not sinks:
        return
    for offset, block in reader.blocks():
        for sink in sinks:
            sink(offset, block)
