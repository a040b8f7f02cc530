"""The capture room: every disk of a machine as a raw image that was read back and compared.

Disks that nobody uses are independent of each other: each is sealed as soon as it is whole. Those of a
running machine are sealed together, when all of them are of the moment that the plan wants.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from p2v.atomic import write_atomically
from p2v.disk import digests
from p2v.disk.copy import ImageFiles, Progress, verify_image
from p2v.errors import TransportError, VerifyError
from p2v.house import House, Source
from p2v.journal import IMAGES, STATS, UNREADABLE, read_note, to_json
from p2v.live import copy_live
from p2v.model import (
    CaptureStats,
    Consistency,
    Image,
    ImageFormat,
    PassKind,
    Plan,
    PlannedDisk,
    Reached,
    Unreadable,
)
from p2v.parallel import Stop, all_at_once
from p2v.passes import DiskWork, Passes
from p2v.run import Run


def is_captured(run: Run) -> bool:
    return run.done("capture") is not None


def capture(run: Run, plan: Plan, source: Source, house: House) -> tuple[tuple[Image, ...], CaptureStats]:
    """Every disk as a raw image, read back and compared; read-only from then on."""
    stats_file = run.capture_dir / "stats.json"
    if is_captured(run):
        return read_note(IMAGES, run.capture_dir / "images.json"), read_note(STATS, stats_file)
    started = time.monotonic()
    if plan.consistency is Consistency.OFFLINE:
        stats = _capture_idle(run, plan, source, house)
    else:
        stats = _capture_live(run, plan, source, house)
    images = tuple(_image(run, planned) for planned in plan.disks)
    for warning in stats.warnings:
        house.ui.warn(warning)
    write_atomically(run.capture_dir / "images.json", to_json(IMAGES, images))
    write_atomically(stats_file, to_json(STATS, stats))
    for planned in plan.disks:
        _unreadable_note(_work(run, planned)).unlink(missing_ok=True)
    digest = hashlib.sha256("".join(image.digest for image in images).encode()).hexdigest()
    run.finish("capture", digest=digest, seconds=time.monotonic() - started)
    return images, stats


def _work(run: Run, planned: PlannedDisk) -> DiskWork:
    folder, name = run.capture_dir, planned.image_name
    return DiskWork(planned, ImageFiles(folder / f"{name}.raw", folder / f"{name}.digest"))


def _capture_idle(run: Run, plan: Plan, source: Source, house: House) -> CaptureStats:
    """Disks that nobody writes to. One that an earlier try finished is not read again."""
    started = time.monotonic()
    all_works = [_work(run, planned) for planned in plan.disks]
    works = [work for work in all_works if not work.files.image.exists()]
    passes = Passes(works, source, house.ui, run.log)
    check = partial(_require_idle, plan, source, passes)
    if works:
        check()
        passes.retrying(plan.machine, partial(_copy_idle, run, passes, house, check))
    for work in all_works:
        _seal(work)
    reached = Reached(Consistency.OFFLINE, tuple(passes.done))
    return _sum_stats(all_works, reached, time.monotonic() - started)


def _copy_idle(run: Run, passes: Passes, house: House, check: Callable[[], None]) -> None:
    """One disk is shown being read back; of several, each is checked beside the others' copying."""
    passes.works = [work for work in passes.works if not work.files.image.exists()]
    if len(passes.works) == 1:
        passes.run(PassKind.FULL)
        check()
        _read_back(run, passes.works, house)
        _finish(passes.works[0])
    elif passes.works:
        passes.run(PassKind.FULL, then=partial(_verify_and_finish, run, check))


def _verify_and_finish(run: Run, check: Callable[[], None], work: DiskWork) -> None:
    check()
    _verify(run, work, progress=_nobody)
    _finish(work)


def _nobody(size: int) -> None:
    """Progress that is not shown."""


def _require_idle(plan: Plan, source: Source, passes: Passes) -> None:
    """Raises TransportError where somebody has begun to use a disk of a machine that runs."""
    if not plan.machine.live:
        return
    with source.transport().open_guard() as guard:
        used = [use.path for use in guard.usage(passes.paths).disks if use.used]
    if used:
        raise TransportError(
            f"{', '.join(used)} is in use on the source; nobody used it when this was planned",
            hint="Unmount it there, then: p2v resume RUN",
        )


def _capture_live(run: Run, plan: Plan, source: Source, house: House) -> CaptureStats:
    """All disks of a running machine. Which moment they are of is known before they are read back."""
    works = [_work(run, planned) for planned in plan.disks]
    note = run.capture_dir / "stats.json"
    if not note.exists():
        started = time.monotonic()
        for work in works:
            # Of another moment, which the others never reached.
            work.files.image.unlink(missing_ok=True)
        reached = copy_live(plan, Passes(works, source, house.ui, run.log))
        for work in works:
            _write_digests(work)
        stats = _sum_stats(works, reached, time.monotonic() - started)
        write_atomically(note, to_json(STATS, stats))
    stats = read_note(STATS, note)
    try:
        _read_back(run, [work for work in works if not work.files.image.exists()], house)
    except VerifyError:
        note.unlink()
        raise
    for work in works:
        if not work.files.image.exists():
            work.files.partial_image.rename(work.files.image)
        _seal(work)
    return stats


def _read_back(run: Run, works: Sequence[DiskWork], house: House) -> None:
    """Raises VerifyError; what differs is out of the way then."""
    if not works:
        return
    names = ", ".join(work.planned.image_name for work in works)
    with house.ui.phase(f"Reading back {names}", sum(work.data_size for work in works)) as phase:
        checks: list[Callable[[], None]] = [
            partial(_verify, run, work, progress=phase.advance) for work in works
        ]
        all_at_once(checks, Stop())


def _verify(run: Run, work: DiskWork, *, progress: Progress) -> None:
    files, captured = work.files, work.captured
    table = captured.table if captured else digests.read_table(files.digest, work.disk.size)
    try:
        right = captured.right if captured else None
        verify_image(files.partial_image, table, progress=progress, right=right)
    except VerifyError:
        run.quarantine(files.partial_image)
        files.journal.unlink(missing_ok=True)
        raise


def _write_digests(work: DiskWork) -> None:
    if work.captured is not None:
        write_atomically(work.files.digest, work.captured.table.pieces())


def _finish(work: DiskWork) -> None:
    """A disk that is whole and was read back gets its final name."""
    _write_digests(work)
    write_atomically(_unreadable_note(work), to_json(UNREADABLE, _unreadable(work)))
    work.files.partial_image.rename(work.files.image)


def _unreadable_note(work: DiskWork) -> Path:
    """Kept beside a finished disk until the whole capture is: another disk may need another try."""
    return work.files.digest.with_suffix(".unreadable")


def _unreadable(work: DiskWork) -> tuple[Unreadable, ...]:
    note = _unreadable_note(work)
    if work.captured is None and note.exists():
        return read_note(UNREADABLE, note)
    return tuple(Unreadable(work.disk.path, one.start, one.length) for one in work.bad)


def _seal(work: DiskWork) -> None:
    """From here on the image is never written again."""
    work.files.image.chmod(0o400)
    work.files.journal.unlink(missing_ok=True)


def _image(run: Run, planned: PlannedDisk) -> Image:
    files = _work(run, planned).files
    table = digests.read_table(files.digest, planned.disk.size)
    return Image(str(Path("capture") / files.image.name), ImageFormat.RAW, table.size, table.summary)


def _sum_stats(works: Sequence[DiskWork], reached: Reached, seconds: float) -> CaptureStats:
    """What travelled is summed over all passes; what was there already, over the first."""
    last = [work.captured.stats for work in works if work.captured]
    data_size = sum(stats.data_size for stats in last)
    moved = reached.passes[0].moved_size if reached.passes else 0
    return CaptureStats(
        size=sum(work.disk.size for work in works),
        data_size=data_size,
        wire_size=sum(one.wire_size for one in reached.passes),
        reused_size=max(0, data_size - moved),
        seconds=seconds,
        reached=reached,
        unreadable=tuple(one for work in works for one in _unreadable(work)),
    )
