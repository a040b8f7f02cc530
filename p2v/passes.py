"""Passes over the disks of one machine: all of them, then what has changed since, several disks at once.

Each disk of a pass is mapped anew, because its filesystems may have changed, and then copied by digest: both
sides hash, only what differs travels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from p2v.disk import extents
from p2v.disk.copy import Captured, ImageFiles, Progress, capture_disk
from p2v.disk.device import BlockDevice
from p2v.disk.digests import BlockSet
from p2v.disk.patched import Patch, PatchedDevice
from p2v.disk.salvage import SalvageDevice
from p2v.disk.used import disk_map
from p2v.errors import UsageError
from p2v.house import Source
from p2v.model import CapturePass, Disk, Extent, Machine, MiB, MountedFilesystem, PassKind, PlannedDisk
from p2v.parallel import LANES, Stop, StoppableDevice, all_at_once
from p2v.transports import Guard, SnapshotKeeper, Volumes
from p2v.ui import UI, Phase

T = TypeVar("T")

SMALL_DELTA = 16 * MiB
"""A pass that moves less than this is not worth another one: logs and clocks are never done changing."""

SHRINKS = 0.7
"""A pass that moves as much as this of the one before shows that more passes do not help."""

MAX_DELTAS = 5

TITLES = {
    PassKind.FULL: "Copying {}",
    PassKind.DELTA: "Copying what changed on {}",
    PassKind.FROZEN: "Copying what changed on {}, filesystems frozen",
    PassKind.SNAPSHOT: "Copying {} from snapshots",
}

Within = Mapping[int, BlockSet]
"""Which blocks of a disk a pass looks at, by the index of the disk in the plan."""


class DiskWork:
    """One disk on the way into its image; `captured` is what the last pass left.

    `bad` is what is zeros there because the source cannot read it; `extra` is copied beside what the map of
    the disk calls used.
    """

    def __init__(self, planned: PlannedDisk, files: ImageFiles) -> None:
        self.planned = planned
        self.files = files
        self.captured: Captured | None = None
        self.bad: tuple[Extent, ...] = ()
        self.extra: tuple[Extent, ...] = ()

    @property
    def disk(self) -> Disk:
        return self.planned.disk

    @property
    def data_size(self) -> int:
        """Bytes to look at, as well as they are known."""
        return self.captured.stats.data_size if self.captured else self.planned.data_size

    @property
    def journal_size(self) -> int:
        """Grows with each block that came."""
        return self.files.journal.stat().st_size if self.files.journal.exists() else 0

    def copy(
        self, device: SalvageDevice, stop: Stop, progress: Progress, within: BlockSet | None
    ) -> Captured:
        """Bring the image up to date. Safe to be called again after an error: it goes on where it stood."""
        if device.size != self.disk.size:
            raise UsageError(f"{self.disk.path} has {device.size} bytes now, not {self.disk.size} as planned")
        stoppable = StoppableDevice(device, stop)
        used = extents.normalise([*disk_map(stoppable, self.disk).extents, *self.extra], size=device.size)
        self.captured = capture_disk(
            stoppable, used, self.files, progress=progress, former=self.captured, within=within
        )
        self.bad = device.bad
        return self.captured


@dataclass(frozen=True, slots=True)
class Open:
    """A disk that is open for a pass: `device` as it is read, `raw` as the source gives it."""

    work: DiskWork
    device: SalvageDevice
    raw: BlockDevice


Lanes = Sequence[Sequence[Open]]
"""Open disks by the line over which they are read: those of one line take turns."""


class Passes:
    """Passes over the disks of a machine, one after the other; `done` are those that came to their end."""

    def __init__(self, works: Sequence[DiskWork], source: Source, ui: UI, log: logging.Logger) -> None:
        self.works = works
        self.done: list[CapturePass] = []
        self._source = source
        self._ui = ui
        self._log = log

    @property
    def last(self) -> CapturePass:
        return self.done[-1]

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the disks are now."""
        return tuple(self._source.find(work.disk).path for work in self.works)

    def guard(self) -> AbstractContextManager[Guard]:
        return self._source.transport().open_guard()

    def snapshots(self) -> AbstractContextManager[SnapshotKeeper]:
        return self._source.transport().open_snapshots()

    def blocks_of(self, filesystems: Iterable[MountedFilesystem]) -> Within:
        """The blocks of filesystems that are plain partitions of a disk."""
        found: dict[int, BlockSet] = {}
        for work, path in zip(self.works, self.paths, strict=True):
            for one in filesystems:
                if path in one.disks:
                    blocks = found.setdefault(work.planned.index, BlockSet(work.disk.size))
                    blocks.add_range(one.start, one.length)
        return found

    def all_but(self, within: Within) -> Within:
        """Every block of every disk that is not among these."""
        nothing = {work.planned.index: BlockSet(work.disk.size) for work in self.works}
        return {index: blocks.inverted() for index, blocks in {**nothing, **within}.items()}

    def seen_by(self, guard: Guard, machine: Machine, *, volumes: Volumes | None = None) -> Machine:
        """The machine with the disks of these passes, where they are now and as they are used now."""
        usage = guard.usage(self.paths)
        disks = [
            replace(self._source.find(work.disk), idle=not use.used, unknown_users=use.unknown)
            for work, use in zip(self.works, usage.disks, strict=True)
        ]
        machine = replace(machine, disks=tuple(disks), mounted=usage.mounted)
        return replace(machine, groups=volumes.groups, volumes=volumes.volumes) if volumes else machine

    def retrying(self, machine: Machine, work: Callable[[], T]) -> T:
        """The result of `work`, done again over a new connection as long as blocks come between losses."""

        def came() -> int:
            return sum(one.journal_size for one in self.works)

        return self._source.retrying(machine, work, progress=came)

    def run(self, kind: PassKind, *, then: Callable[[DiskWork], None] | None = None) -> CapturePass:
        """A pass in which each disk has a line of its own. `then` is called for each when it is copied.

        Raises TransportError, TargetError, UsageError for a disk of another size.
        """

        def one(work: DiskWork, stop: Stop, phase: Phase) -> list[Captured]:
            with self._source.open_disk(work.disk) as device, counted_once(phase) as progress:
                captured = work.copy(device, stop, progress, None)
            if then is not None:
                then(work)
            return [captured]

        return self._pass(kind, lambda stop, phase: [partial(one, work, stop, phase) for work in self.works])

    @contextmanager
    def opened(self) -> Iterator[Lanes]:
        """All disks on few lines, before it is too late to start one: a frozen root lets nobody log in."""
        transport = self._source.transport()
        with ExitStack() as stack:
            lanes = []
            for works in (self.works[first::LANES] for first in range(min(LANES, len(self.works)))):
                disks = [self._source.find(work.disk) for work in works]
                devices = stack.enter_context(transport.open_disks(disks))
                lanes.append([self.open(work, raw) for work, raw in zip(works, devices, strict=True)])
            yield lanes

    def open(self, work: DiskWork, raw: BlockDevice, *, patches: Sequence[Patch] = ()) -> Open:
        """A disk as the passes read it: what is known of it already in its place, read errors dealt with."""
        device = PatchedDevice(raw, patches) if patches else raw
        return Open(work, self._source.salvage(device, work.disk), raw)

    def run_on(self, kind: PassKind, lanes: Lanes, *, within: Within | None = None) -> CapturePass:
        """A pass over disks that are open already; with `within`, only over these blocks of these disks."""

        def one(lane: Sequence[Open], stop: Stop, phase: Phase) -> list[Captured]:
            done = []
            for one in lane:
                scope = None if within is None else within.get(one.work.planned.index)
                if within is None or scope is not None:
                    done.append(one.work.copy(one.device, stop, phase.advance, scope))
            return done

        return self._pass(kind, lambda stop, phase: [partial(one, lane, stop, phase) for lane in lanes])

    def settle(self) -> None:
        """Passes over what has changed, until another one would not move less."""
        deltas = 0
        while deltas < MAX_DELTAS:
            former = self.last.moved_size
            moved = self.run(PassKind.DELTA).moved_size
            deltas += 1
            if moved < SMALL_DELTA or moved >= SHRINKS * former:
                return

    def _pass(
        self, kind: PassKind, work: Callable[[Stop, Phase], Sequence[Callable[[], list[Captured]]]]
    ) -> CapturePass:
        started = time.monotonic()
        what = self.works[0].disk.path if len(self.works) == 1 else f"{len(self.works)} disks"
        stop = Stop()
        with self._ui.phase(TITLES[kind].format(what), sum(one.data_size for one in self.works)) as phase:
            answers = all_at_once(work(stop, phase), stop)
        captured = [one for answer in answers for one in answer]
        done = CapturePass(
            kind,
            sum(one.moved_size for one in captured),
            sum(one.stats.wire_size for one in captured),
            time.monotonic() - started,
        )
        self.done.append(done)
        self._log.info("%s", done)
        return done


@contextmanager
def counted_once(phase: Phase) -> Iterator[Progress]:
    """Progress of one try, which does not count when the try fails: the next one begins from the start."""
    counted = 0

    def advance(size: int) -> None:
        nonlocal counted
        counted += size
        phase.advance(size)

    try:
        yield advance
    except BaseException:
        phase.advance(-counted)
        raise
