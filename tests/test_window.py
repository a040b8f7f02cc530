"""The last pass, with a guard and a disk that are played: what does not count as one moment."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.disk.copy import ImageFiles
from p2v.errors import TransportError
from p2v.house import House
from p2v.live import copy_live
from p2v.model import (
    BLOCK_SIZE,
    CapturePass,
    Consistency,
    ConsistencyWish,
    Disk,
    MountedFilesystem,
    PassKind,
    Plan,
    PlannedDisk,
    Reached,
)
from p2v.passes import MAX_DELTAS, SMALL_DELTA, DiskWork, Passes
from p2v.transports import Frozen, Guard, Thawed, Usage
from p2v.transports.base import DiskUse
from p2v.ui import UI, ProgressStyle
from p2v.window import STABLE_TRIES
from tests.plans import make_plan
from tests.sources import Files, Given

SIZE = 4 * BLOCK_SIZE


class PlayedGuard:
    """A guard of a machine with an ESP in the second block; `on_flush` is called before each of its reads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.esp = MountedFilesystem("/boot/efi", "vfat", (path,), start=BLOCK_SIZE, length=BLOCK_SIZE)
        self.failed: tuple[tuple[MountedFilesystem, str], ...] = ((self.esp, "Operation not supported"),)
        self.lost: tuple[str, ...] = ()
        self.unknown: tuple[str, ...] = ()
        self.flushes = 0
        self.thawed = 0
        self.on_flush: Callable[[], None] = lambda: None

    def usage(self, disks: Sequence[str]) -> Usage:
        return Usage(tuple(DiskUse(path, used=True, unknown=self.unknown) for path in disks), ())

    def freeze(self, disks: Sequence[str], seconds: float, *, only: Sequence[str] | None = None) -> Frozen:
        return Frozen((), self.failed, fired=False)

    def flush(self) -> None:
        self.flushes += 1
        self.on_flush()

    def thaw(self) -> Thawed:
        self.thawed += 1
        return Thawed(1.5, self.lost, fired=False)


class Guarded(Files):
    def __init__(self, guard: PlayedGuard) -> None:
        super().__init__()
        self.guard = guard

    def open_guard(self) -> nullcontext[Guard]:
        return nullcontext(self.guard)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def guard(source: Path) -> PlayedGuard:
    return PlayedGuard(str(source))


def copied(guard: PlayedGuard, tmp_path: Path, *, wish: str = "auto") -> tuple[Reached, DiskWork]:
    planned = PlannedDisk(0, Disk(guard.path, SIZE), SIZE)
    plan: Plan = replace(
        make_plan(),
        disks=(planned,),
        consistency=Consistency.FROZEN,
        consistency_wish=ConsistencyWish(wish),
    )
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path)
    work = DiskWork(planned, ImageFiles(tmp_path / "disk0.raw", tmp_path / "disk0.digest"))
    passes = Passes([work], Given(Guarded(guard), house), house.ui, logging.getLogger("test"))
    return copy_live(plan, passes), work


def scribble(source: Path, block: int) -> None:
    with source.open("r+b") as handle:
        handle.seek(block * BLOCK_SIZE + 100)
        handle.write(os.urandom(100))


def test_an_esp_is_read_until_nothing_changes(guard: PlayedGuard, source: Path, tmp_path: Path) -> None:
    """Somebody writes to it twice more while all others are frozen."""

    def write() -> None:
        if guard.flushes in (2, 3):
            scribble(source, 1)

    guard.on_flush = write
    found, work = copied(guard, tmp_path)
    assert (found.grade, found.frozen_seconds, found.warnings) == (Consistency.FROZEN, 1.5, ())
    assert guard.flushes == 4
    assert [one.moved_size for one in found.passes if one.kind is PassKind.FROZEN] == [
        0,
        BLOCK_SIZE,
        BLOCK_SIZE,
        0,
    ]
    assert work.files.partial_image.read_bytes() == source.read_bytes()


def test_an_esp_that_never_rests_makes_it_fuzzy(guard: PlayedGuard, source: Path, tmp_path: Path) -> None:
    guard.on_flush = lambda: scribble(source, 1)
    found, _ = copied(guard, tmp_path)
    assert (found.grade, found.frozen_seconds) == (Consistency.FUZZY, 1.5)
    assert "/boot/efi (vfat) cannot be frozen and changed all the time" in found.warnings[0]
    assert guard.flushes == 1 + STABLE_TRIES
    (tmp_path / "again").mkdir()
    with pytest.raises(TransportError, match="changed all the time"):
        copied(guard, tmp_path / "again", wish="freeze")


def test_one_that_somebody_thawed_does_not_count(guard: PlayedGuard, tmp_path: Path) -> None:
    guard.lost = ("/home",)
    found, _ = copied(guard, tmp_path)
    assert found.grade is Consistency.FUZZY
    assert "somebody thawed /home" in found.warnings[0]


def test_one_that_cannot_be_frozen_is_named_and_nothing_is_held_up_for_it(
    guard: PlayedGuard, tmp_path: Path
) -> None:
    guard.failed = ((MountedFilesystem("/data", "fuseblk", (guard.path,), length=SIZE), "No such thing"),)
    found, _ = copied(guard, tmp_path)
    assert found.grade is Consistency.FUZZY
    assert "/data (fuseblk): No such thing" in found.warnings[0]
    assert guard.thawed == 1
    assert not [one for one in found.passes if one.kind is PassKind.FROZEN]


def test_a_user_that_is_no_filesystem_is_not_overlooked(guard: PlayedGuard, tmp_path: Path) -> None:
    guard.unknown = ("/dev/sda7",)
    found, _ = copied(guard, tmp_path)
    assert found.grade is Consistency.FUZZY
    assert "/dev/sda7 is in use" in found.warnings[0]


@pytest.mark.parametrize(
    ("moved", "passes"),
    [
        ([SMALL_DELTA - 1], 1),
        ([50, 30, 17, 5], 4),
        ([50, 40, 1], 2),
        ([80, 1], 1),
        ([69, 47, 32, 21, 20, 20], MAX_DELTAS),
    ],
    ids=["little", "shrinks", "shrinks no more", "as much as before", "shrinks too slowly"],
)
def test_passes_go_on_while_they_shrink(
    moved: list[int], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MiB, or bytes; the full pass moved 100 MiB."""
    sizes = [one if one > 100 else one << 20 for one in moved]
    works = Passes.__new__(Passes)
    works.done = [CapturePass(PassKind.FULL, 100 << 20, 0, 1.0)]

    def run(passes: Passes, kind: PassKind) -> CapturePass:
        passes.done.append(CapturePass(kind, sizes[len(passes.done) - 1], 0, 1.0))
        return passes.last

    monkeypatch.setattr(Passes, "run", run)
    works.settle()
    assert len(works.done) - 1 == passes
