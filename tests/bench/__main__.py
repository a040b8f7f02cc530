"""`python -m tests.bench`: how fast a capture over SSH is, beside what a user would reach for instead.

All sides run alternately, on one machine, against one private sshd on 127.0.0.1. Prints one table and writes
bench.json. Needs root, and about 16 GiB free in the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.model import Disk, MiB
from tests.bench import disks, sides
from tests.bench.sides import Place, Sample, Side
from tests.sshd import Sshd, private_sshd

GOALS = {
    "dd | ssh": 0.20,
    "nbdcopy over ssh": 0.25,
    "partclone | zstd | ssh": 0.35,
    "limit: used bytes through ssh": 1.5,
}
LARGE_GOAL = 1.3
MEMORY_GOAL = 200 * MiB
DELTA_GOAL = 1.1
CHANGED = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is that of p2v to this side, `goal` the most it may be (0: none)."""

    name: str
    seconds: float
    wire_mb: float
    ratio: float
    goal: float
    samples: tuple[float, ...]
    memory_mib: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        rows = measure(Path(name), options.rounds)
    report = {"machine": machine(), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(machine())
    print(table(rows))


def measure(folder: Path, rounds: int) -> list[Row]:
    content = folder / "content"
    disks.gather(content)
    small = disks.fill_holes(disks.build(folder / "small.img", disks.SMALL_SIZE, content))
    large = disks.build(folder / "large.img", disks.LARGE_SIZE, content)
    shutil.rmtree(content)
    with private_sshd(folder / "sshd") as server:
        places = {"small": place(server, small, folder), "large": place(server, large, folder)}
        jobs: dict[str, tuple[Side, Place]] = {
            name: (side, places["small"]) for name, side in sides.SIDES.items()
        }
        jobs["p2v, 2 TiB"] = (sides.p2v, places["large"])
        samples = alternate(jobs, rounds)
        delta, changed = delta_pass(places["small"])
    return [*rows_of(samples), delta_row(delta, changed)]


def place(server: Sshd, image: Path, folder: Path) -> Place:
    return Place(server, image, folder / "out", sum(length for _, length in used(image)))


def used(image: Path) -> list[tuple[int, int]]:
    with open_file_device(image) as device:
        found = disk_map(device, Disk(path=str(image), size=device.size))
    return [(extent.start, extent.length) for extent in found.extents]


def alternate(jobs: dict[str, tuple[Side, Place]], rounds: int) -> dict[str, list[Sample]]:
    """Every side once, `rounds` times over; a first round does not count."""
    samples: dict[str, list[Sample]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, (side, where) in jobs.items():
            disks.warm(where.image)
            with fresh(where.folder):
                sample = side(where)
            if number:
                samples[name].append(sample)
    return samples


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


def rows_of(samples: dict[str, list[Sample]]) -> list[Row]:
    ours = median(samples["p2v"])
    return [row(name, values, ours) for name, values in samples.items()]


def row(name: str, values: list[Sample], ours: float) -> Row:
    seconds = median(values)
    large = name == "p2v, 2 TiB"
    ratio = seconds / ours if large else ours / seconds
    goal = LARGE_GOAL if large else GOALS.get(name, 0.0)
    wire = statistics.median(value.wire for value in values) / 1e6
    memory = max(value.memory for value in values) / MiB
    return Row(name, seconds, wire, ratio, goal, tuple(value.seconds for value in values), memory)


def delta_row(sample: Sample, changed: int) -> Row:
    name = f"p2v again, {changed / 1e6:.1f} MB changed"
    return Row(
        name,
        sample.seconds,
        sample.wire / 1e6,
        sample.wire / changed,
        DELTA_GOAL,
        (sample.seconds,),
        sample.memory / MiB,
    )


def median(values: list[Sample]) -> float:
    return statistics.median(value.seconds for value in values)


def machine() -> str:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = f"{len(model)} x {model[0].partition(': ')[2]}"
    return f"{cores}, Linux {platform.release()}, Python {platform.python_version()}"


def table(rows: list[Row]) -> str:
    lines = ["| side | median s | MB on the wire | ratio | goal | peak MiB |", "|---|--:|--:|--:|--:|--:|"]
    for one in rows:
        goal = f"{one.goal:.2f}" if one.goal else "-"
        memory = f"{one.memory_mib:.0f}" if one.memory_mib else "-"
        lines.append(
            f"| {one.name} | {one.seconds:.2f} | {one.wire_mb:.1f} | {one.ratio:.3f} | {goal} | {memory} |"
        )
    lines.append("")
    lines.append(
        "ratio: p2v to this side; of the 2 TiB disk, to the small one; of the second pass, wire to change"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
