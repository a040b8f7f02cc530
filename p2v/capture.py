"""The capture room: every disk of a machine as a raw image that was read back and compared."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from p2v.atomic import write_atomically
from p2v.disk import digests
from p2v.disk.copy import ImageFiles, Progress, capture_disk, verify_image
from p2v.disk.used import disk_map
from p2v.errors import UsageError, VerifyError
from p2v.house import House, Source
from p2v.journal import IMAGES, STATS, read_note, to_json
from p2v.model import CaptureStats, Image, ImageFormat, Plan, PlannedDisk
from p2v.run import Run


def is_captured(run: Run) -> bool:
    return run.done("capture") is not None


def capture(run: Run, plan: Plan, source: Source, house: House) -> tuple[tuple[Image, ...], CaptureStats]:
    """Every disk as a raw image, read back and compared; read-only from then on."""
    if is_captured(run):
        images = read_note(IMAGES, run.path / "capture" / "images.json")
        return images, read_note(STATS, run.path / "capture" / "stats.json")
    started = time.monotonic()
    captured = [_capture_one(run, planned, source, house) for planned in plan.disks]
    images = tuple(image for image, _ in captured)
    stats = _sum_stats([stats for _, stats in captured])
    write_atomically(run.capture_dir / "images.json", to_json(IMAGES, images))
    write_atomically(run.capture_dir / "stats.json", to_json(STATS, stats))
    digest = hashlib.sha256("".join(image.digest for image in images).encode()).hexdigest()
    run.finish("capture", digest=digest, seconds=time.monotonic() - started)
    return images, stats


def _capture_one(run: Run, planned: PlannedDisk, source: Source, house: House) -> tuple[Image, CaptureStats]:
    name = planned.image_name
    files = ImageFiles(run.capture_dir / f"{name}.raw", run.capture_dir / f"{name}.digest")
    disk = planned.disk
    if files.image.exists():
        # Verified by an earlier try, which was ended while it copied another disk.
        return _seal(files, digests.read_table(files.digest, disk.size)), CaptureStats(disk.size)
    with source.transport().open_disk(disk) as device:
        used = disk_map(device, disk)
        if device.size != disk.size:
            raise UsageError(f"{disk.path} has {device.size} bytes now, not {disk.size} as planned")
        with house.ui.phase(f"Copying {disk.path}", used.data_size) as phase:
            captured = capture_disk(device, used.extents, files, progress=phase.advance)
    run.log.info("%s: %s", disk.path, captured.stats)
    with house.ui.phase(f"Reading back {name}", used.data_size) as phase:
        _verify(run, files, captured.table, phase.advance)
    write_atomically(files.digest, captured.table.to_bytes())
    files.partial_image.rename(files.image)
    return _seal(files, captured.table), captured.stats


def _seal(files: ImageFiles, table: digests.DigestTable) -> Image:
    """From here on the image has its final name and is never written again."""
    files.image.chmod(0o400)
    files.journal.unlink(missing_ok=True)
    return Image(f"capture/{files.image.name}", ImageFormat.RAW, table.size, table.summary)


def _verify(run: Run, files: ImageFiles, table: digests.DigestTable, progress: Progress) -> None:
    try:
        verify_image(files.partial_image, table, progress=progress)
    except VerifyError:
        run.quarantine(files.partial_image)
        files.journal.unlink(missing_ok=True)
        raise


def _sum_stats(all_stats: Sequence[CaptureStats]) -> CaptureStats:
    return CaptureStats(
        size=sum(stats.size for stats in all_stats),
        data_size=sum(stats.data_size for stats in all_stats),
        wire_size=sum(stats.wire_size for stats in all_stats),
        reused_size=sum(stats.reused_size for stats in all_stats),
        seconds=sum(stats.seconds for stats in all_stats),
    )
