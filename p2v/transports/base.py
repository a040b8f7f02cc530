"""What the rest asks of a way to reach a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from p2v.disk.device import BlockDevice
from p2v.model import Disk, LogicalVolume, Machine, MountedFilesystem, VolumeGroup

if TYPE_CHECKING:
    from p2v.transports.writer_client import WriterClient

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
    """What the source says of itself, before anybody has looked at its disks.

    `boot_id` is another one after each start of the machine; empty for an image.
    """

    machine: Machine
    mounts: tuple[Mount, ...] = ()
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Whether anything uses a disk; `unknown` are devices on it claimed by neither mount, swap nor volume."""

    path: str
    used: bool
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Who uses the disks of a running source; `mounted` are filesystems that it may write to."""

    disks: tuple[DiskUse, ...]
    mounted: tuple[MountedFilesystem, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a freeze did, and which filesystems could not be frozen and why.

    `fired`: it took so long that the watchdog has thawed them again.
    """

    frozen: tuple[MountedFilesystem, ...]
    failed: tuple[tuple[MountedFilesystem, str], ...]
    fired: bool


@dataclass(frozen=True, slots=True)
class Thawed:
    """How long they were frozen, and which had been thawed before: then nothing read meanwhile counts."""

    seconds: float
    lost: tuple[str, ...]
    fired: bool


class Guard(Protocol):
    """Holds the filesystems of a running source still. Errors are TransportError."""

    def usage(self, disks: Sequence[str]) -> Usage: ...

    def freeze(self, disks: Sequence[str], seconds: float, *, only: Sequence[str] | None = None) -> Frozen:
        """With `only`, what is mounted at these places, and nothing else of the disks."""

    def flush(self) -> None: ...

    def thaw(self) -> Thawed: ...


@dataclass(frozen=True, slots=True)
class Volumes:
    """What the source has of LVM."""

    groups: tuple[VolumeGroup, ...]
    volumes: tuple[LogicalVolume, ...]


@dataclass(frozen=True, slots=True)
class SnapshotSize:
    """A volume to make a snapshot of, and the bytes that may be written to the volume meanwhile."""

    group: str
    volume: str
    size: int


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The devices of the snapshots in the order asked for; `revisions` are those of the groups before.

    `span` is the seconds between the first and the last.
    """

    devices: tuple[str, ...]
    revisions: dict[str, int]
    span: float


@dataclass(frozen=True, slots=True)
class Removed:
    """`overflown` lost their content before, `left` could not be removed; `fill` is in per cent, as said."""

    overflown: tuple[str, ...]
    left: tuple[str, ...]
    fill: tuple[str, ...]


class SnapshotKeeper(Protocol):
    """Makes snapshots on a running source, which go whatever happens. Errors are TransportError."""

    def facts(self) -> Volumes: ...

    def clean(self) -> tuple[str, ...]:
        """Remove what an earlier run had to leave behind; its names."""

    def create(self, sizes: Sequence[SnapshotSize]) -> Snapshots: ...

    def remove(self) -> Removed: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of a disk from `start` which are read from another device, at `offset` of it."""

    start: int
    length: int
    path: str
    offset: int


@runtime_checkable
class Composable(BlockDevice, Protocol):
    """A disk that can be read with parts of it taken from other devices of the source."""

    def composed(self, pieces: Sequence[Piece]) -> BlockDevice: ...


class Transport(Protocol):
    """A reachable machine or image. Errors are TransportError."""

    @property
    def boot_id(self) -> str:
        """That of the last survey; empty where there was none, and for an image."""

    def survey(self) -> Survey: ...

    def open_disk(self, disk: Disk) -> AbstractContextManager[BlockDevice]:
        """The disk for reading; a running source is told to write out its caches first."""

    def open_disks(self, disks: Sequence[Disk]) -> AbstractContextManager[Sequence[BlockDevice]]:
        """Several disks over one line, in the same order: not for two threads at once."""

    def open_guard(self) -> AbstractContextManager[Guard]:
        """Whatever it holds is let go at the end of the block. Raises TransportError for an image."""

    def open_snapshots(self) -> AbstractContextManager[SnapshotKeeper]:
        """Whatever it made is removed at the end of the block. Raises TransportError for an image."""


class Said(Protocol):
    """What a command over there left: its exit code, standard output, and the end of standard error."""

    @property
    def code(self) -> int: ...

    @property
    def stdout(self) -> bytes: ...

    @property
    def stderr(self) -> str: ...


@runtime_checkable
class RescueTransport(Transport, Protocol):
    """A machine whose disks can be written: it runs a rescue system with Python. Errors as in `Transport`."""

    def open_writer(self) -> AbstractContextManager[WriterClient]:
        """Writes onto disks that nobody uses."""

    def devices(self) -> dict[str, object]:
        """What is plugged into the machine; not checked yet."""

    def run(self, command: str, *, timeout: float, input: bytes = b"") -> Said:
        """A command over there, as root; `timeout` is seconds."""
