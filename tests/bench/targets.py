"""`python -m tests.bench.targets [IMAGE]`: how long writing a target's image takes, beside `qemu-img
convert`.

Without IMAGE, that of the machine that the end-to-end tests convert.

Both sides start from the same overlay on the same raw image in the page cache, with digests beside it as a
capture leaves them, write the same kind of image, and end with it on the disk (fsync). p2v's side also
compares what qemu-img wrote with what it was written from, and makes a digest of it. Prints one table and
writes the numbers as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fixtures.build import SPECS, build
from p2v import command
from p2v.model import BLOCK_SIZE, DiskBus, ImageFormat, VirtualDisk
from p2v.targets.images import ImageJob, Images, make_overlay, write_images
from p2v.targets.packages import write_packages
from tests.bench.report import machine

GOAL = 1.15
TIME_LIMIT = 3600.0

KINDS: dict[str, tuple[ImageFormat, str, str]] = {
    "raw": (ImageFormat.RAW, "", ""),
    "qcow2": (ImageFormat.QCOW2, "", ""),
    "VMDK monolithicSparse": (ImageFormat.VMDK, "monolithicSparse", "subformat=monolithicSparse"),
    "VMDK monolithicFlat": (ImageFormat.VMDK, "monolithicFlat", "subformat=monolithicFlat"),
    "VMDK streamOptimized": (ImageFormat.VMDK, "streamOptimized", "subformat=streamOptimized"),
    "VHD dynamic": (ImageFormat.VHD, "dynamic", "subformat=dynamic,force_size=on"),
    "VHD fixed": (ImageFormat.VHD, "fixed", "subformat=fixed,force_size=on"),
    "VHDX": (ImageFormat.VHDX, "dynamic", "subformat=dynamic"),
    "VDI": (ImageFormat.VDI, "", ""),
}
"""Format, p2v's name for the kind, and qemu-img's options for the same."""


TOGETHER = ("qcow2", "raw", "VHD fixed", "VMDK streamOptimized")
"""Targets of one run: libvirt, OpenStack, Hyper-V, VMware."""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians in seconds. `ratio` is the median of those of the rounds, p2v to qemu-img."""

    name: str
    qemu_img: float
    p2v: float
    ratio: float
    samples: tuple[tuple[float, float], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", help="A raw image; default: a built Debian machine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="Only this; may be repeated.")
    parser.add_argument("--output", type=Path, default=Path("bench-targets.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        image = options.image or build(SPECS["debian12-bios"]).image
        rows = measure(image, Path(name), options.rounds, options.kind or list(KINDS))
        together = side_by_side(Path(name), options.rounds)
    report = {"machine": machine(), "rows": [asdict(row) for row in rows], "together": together}
    options.output.write_text(json.dumps(report) + "\n")
    print(machine())
    print(table(rows))
    print(f"\n{', '.join(TOGETHER)} of one run: {together[0]:.2f} s; one after the other {together[1]:.2f} s")


def measure(image: Path, folder: Path, rounds: int, kinds: list[str]) -> list[Row]:
    overlay, capture = folder / "overlay.qcow2", folder / "disk0.raw"
    capture.symlink_to(image.resolve())
    capture.with_suffix(".digest").write_bytes(digests_of(capture))
    make_overlay(capture, overlay)
    command.check(["cksum", image], timeout=TIME_LIMIT, reason="warm the page cache")
    return [compare(kind, overlay, folder / "out", rounds) for kind in kinds]


def digests_of(image: Path) -> bytes:
    with image.open("rb") as file:
        blocks = iter(lambda: file.read(BLOCK_SIZE), b"")
        return b"".join(hashlib.sha256(block).digest() for block in blocks)


def side_by_side(folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds (medians) of several targets of one run, and of the same one after the other."""
    overlay, out = folder / "overlay.qcow2", folder / "out"
    disks = [
        VirtualDisk(f"disk{number}.img", KINDS[kind][0], 0, DiskBus.SATA, subformat=KINDS[kind][1])
        for number, kind in enumerate(TOGETHER)
    ]
    together, apart = [], []
    for _ in range(rounds):
        together.append(
            timed(lambda: write_packages([Images([disk], out) for disk in disks], [overlay]), out)
        )
        apart.append(timed(lambda: write_images([ImageJob(overlay, out, disk) for disk in disks]), out))
    return statistics.median(together), statistics.median(apart)


def compare(kind: str, overlay: Path, folder: Path, rounds: int) -> Row:
    """The two sides in turns; the side that begins changes from round to round."""
    image_format, subformat, options = KINDS[kind]
    disk = VirtualDisk("disk0.img", image_format, 0, DiskBus.SATA, subformat=subformat)
    sides: list[Callable[[], object]] = [
        lambda: convert(overlay, folder / "qemu.img", image_format, options),
        lambda: write_images([ImageJob(overlay, folder, disk)]),
    ]
    samples = []
    for number in range(rounds):
        taken = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            taken[side] = timed(sides[side], folder)
        samples.append((taken[0], taken[1]))
    theirs, ours = (statistics.median(sample[side] for sample in samples) for side in (0, 1))
    ratio = statistics.median(ours / theirs for theirs, ours in samples)
    return Row(kind, theirs, ours, ratio, tuple(samples))


def timed(side: Callable[[], object], folder: Path) -> float:
    """Seconds of one side in an empty folder, with nothing else left to be written."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()
    started = time.monotonic()
    side()
    return time.monotonic() - started


def convert(overlay: Path, image: Path, image_format: ImageFormat, options: str) -> None:
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", image_format.value]
    words += ["-o", options] if options else []
    command.check([*words, str(overlay), str(image)], timeout=TIME_LIMIT, reason="convert")
    for path in image.parent.iterdir():
        command.check(["sync", path], timeout=TIME_LIMIT, reason="bring it to the disk")


def table(rows: list[Row]) -> str:
    lines = ["| image | qemu-img convert s | p2v s | ratio | goal |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row.name} | {row.qemu_img:.2f} | {row.p2v:.2f} | {row.ratio:.2f} | {GOAL:.2f} |" for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
