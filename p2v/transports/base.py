"""What the rest asks of a way to reach a machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from p2v.disk.device import BlockDevice
from p2v.model import Disk, Machine

Took = Callable[[int], None]
"""Told of the bytes that came over the wire; may wait, and the source with it."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a running source has a partition: `place` is a folder, or `[swap]`."""

    disk: str
    partition: int
    place: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What the source says of itself, before anybody has looked at its disks."""

    machine: Machine
    mounts: tuple[Mount, ...] = ()


class Transport(Protocol):
    """A reachable machine or image. Errors are TransportError."""

    def survey(self) -> Survey: ...

    def open_disk(self, disk: Disk) -> AbstractContextManager[BlockDevice]:
        """The disk for reading; a running source is told to write out its caches first."""
