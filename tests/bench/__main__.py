"""`python -m tests.bench`: how fast a capture over SSH is, beside what a user would reach for instead.

All sides run alternately, on one machine, against one private sshd on 127.0.0.1. Prints one table and writes
bench.json. Needs root, and about 16 GiB free in the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from p2v.model import MiB
from tests.bench import disks, sides
from tests.bench.report import Row, Sample, alternate, median, publish, row, rows_of
from tests.bench.sides import Place, Side, used
from tests.sshd import Sshd, private_sshd

GOALS = {
    "dd | ssh": 0.20,
    "nbdcopy over ssh": 0.25,
    "partclone | zstd | ssh": 0.35,
    "limit: used bytes through ssh": 1.5,
}
LARGE = "p2v, 2 TiB"
LARGE_GOAL = 1.3
MEMORY_GOAL = 200 * MiB
DELTA_GOAL = 1.1
CHANGED = 0.01
NOTE = "ratio: p2v to this side; of the 2 TiB disk, to the small one; of the second pass, wire to change"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        rows = measure(Path(name), options.rounds)
    publish(rows, options.output, rounds=options.rounds, note=NOTE)


def measure(folder: Path, rounds: int) -> list[Row]:
    content = folder / "content"
    disks.gather(content)
    small = disks.fill_holes(disks.build(folder / "small.img", disks.SMALL_SIZE, content))
    large = disks.build(folder / "large.img", disks.LARGE_SIZE, content)
    shutil.rmtree(content)
    with private_sshd(folder / "sshd") as server:
        here, there = place(server, small, folder), place(server, large, folder)
        jobs = {name: partial(in_fresh_folder, side, here) for name, side in sides.SIDES.items()}
        samples = alternate({**jobs, LARGE: partial(in_fresh_folder, sides.p2v, there)}, rounds)
        delta, changed = delta_pass(here)
    larger = samples.pop(LARGE)
    ratio = median(larger) / median(samples["p2v"])
    return [
        *rows_of(samples, GOALS),
        row(LARGE, larger, ratio=ratio, goal=LARGE_GOAL),
        delta_row(delta, changed),
    ]


def place(server: Sshd, image: Path, folder: Path) -> Place:
    return Place(server, image, folder / "out", sum(length for _, length in used(image)))


def in_fresh_folder(side: Side, where: Place) -> Sample:
    disks.warm(where.image)
    with fresh(where.folder):
        return side(where)


@contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """An empty folder for the block, removed afterwards."""
    folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder)


def delta_pass(where: Place) -> tuple[Sample, int]:
    """Capture, change 1 % of the blocks in use, capture again into the same files; bytes that changed."""
    with fresh(where.folder):
        sides.p2v(where)
        changed = disks.change(where.image, used(where.image), share=CHANGED)
        return sides.p2v(where), changed


def delta_row(sample: Sample, changed: int) -> Row:
    name = f"p2v again, {changed / 1e6:.1f} MB changed"
    return row(name, [sample], ratio=sample.wire / changed, goal=DELTA_GOAL)


if __name__ == "__main__":
    main()
