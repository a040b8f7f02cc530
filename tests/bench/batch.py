"""`python -m tests.bench.batch`: what a batch costs beside its jobs, and what a second job at a time brings.

1,000 jobs run over a stub transport, with the guest left out and everything else real: run directories,
journals, ledger, receipts. They are compared with the same jobs done one after the other without a batch.
Then eight disk images are captured with `--parallel 1` and `--parallel 2`, alternately. Prints two tables, or
with `--output` writes one JSON document too. Needs about 6 GiB in TMPDIR.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from p2v import licenses, pipeline, rooms
from p2v.batch import service
from p2v.batch.conduct import Make, make_here
from p2v.batch.manifest import Entry, Manifest
from p2v.batch.reading import read_manifest
from p2v.disk.device import BlockDevice, open_file_device
from p2v.house import House
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import EVALUATION, Features
from p2v.model import Disk, Firmware, GiB, KiB, Machine, MiB, Receipt
from p2v.transports import TRANSPORTS
from p2v.ui import UI, ProgressStyle
from tests.batch import stub
from tests.bench.report import machine as this_machine
from tests.plans import make_receipt

JOBS = 1000
OVERHEAD_GOAL = 0.050
STUB_SIZE = 64 * KiB
IMAGES = 8
IMAGE_SIZE = 256 * MiB
PLENTY = replace(EVALUATION, total=10_000_000, features=Features(batch=None))
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do the jobs, `parallel` at a time. Seconds for all, and those within the pipeline, summed
    over the jobs; resident bytes after a tenth of the jobs and at the end.
    """

    name: str
    jobs: int
    parallel: int
    seconds: float
    inside: float
    early: int
    late: int

    @property
    def each(self) -> float:
        return self.seconds / self.jobs

    @property
    def overhead(self) -> float:
        """Seconds a job that are not the pipeline's own."""
        return (self.seconds * self.parallel - self.inside) / self.jobs


@dataclass(frozen=True, slots=True)
class Parallel:
    """Eight captures with so many at a time: seconds of each round, and those of the jobs by phase."""

    parallel: int
    samples: tuple[float, ...]
    phases: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        return statistics.median(self.samples)


class StubTransport:
    """A machine with one small disk, which is a file that all of them share."""

    boot_id = ""

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextlib.contextmanager
    def open_disk(self, _disk: Disk) -> Iterator[BlockDevice]:
        with open_file_device(self._file) as device:
            yield device


def install(file: Path) -> None:
    """Replace source and guest by stubs, and the license by one that never ends, in this process."""
    stub.install()

    def look(job: object, *_rest: object) -> Machine:
        name = getattr(job, "name", "")
        return Machine(
            hostname=name, firmware=Firmware.BIOS, cpus=1, memory=GiB, os=stub.SYSTEM,
            disks=(Disk("/dev/sda", STUB_SIZE, serial=name),), uuid=hashlib.md5(name.encode()).hexdigest(),
        )  # fmt: skip

    setattr(rooms, "look", look)  # noqa: B010
    for module in (rooms, licenses, service):
        setattr(module, "open_ledger", partial(open_ledger, license=PLENTY))  # noqa: B010
    TRANSPORTS["stub"] = lambda *_rest: contextlib.nullcontext(StubTransport(file))


def resident() -> int:
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class Counter:
    """Looks at the clock around each job, and at the memory after a tenth of them and after the last."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._done = 0
        self.sizes: list[int] = []
        self.inside = 0.0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        with self._lock:
            self.inside += time.monotonic() - started
            self._count()

    def _count(self) -> None:
        self._done += 1
        if self._done in (self._jobs // 10, self._jobs):
            self.sizes.append(resident())


def manifest_of(folder: Path, jobs: int, name: str) -> Manifest:
    lines = ["defaults: {to: libvirt}", "machines:"]
    lines += [f"  - {{source: 'stub://{name}{number}', name: {name}{number}}}" for number in range(jobs)]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines))
    return read_manifest(path, folder / f"runs-{name}").require()


def house_in(folder: Path) -> House:
    return House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), folder / "home")


def loop(manifest: Manifest, house: House, counter: Counter) -> None:
    """Without a batch: the pipeline, called for one job after the other."""
    for entry in manifest.entries:
        with counter.counted():
            pipeline.convert(entry.job, replace(house, alone=False))


def batched(make: Make, parallel: int, manifest: Manifest, house: House, counter: Counter) -> None:
    def counted(entry: Entry, inner: House) -> Receipt:
        with counter.counted():
            return make(entry, inner)

    summary, interruption = service.run(manifest, house, service.Wishes(parallel=parallel), make=counted)
    if interruption is not None or summary.bad:
        raise RuntimeError(f"{len(summary.bad)} jobs failed: {summary.bad[:1]}")


def nothing(_entry: Entry, _house: House) -> Receipt:
    return make_receipt("a" * 32)


Way = Callable[[Manifest, House, Counter], None]
WAYS: dict[str, Way] = {
    "no batch: the pipeline in a loop": loop,
    "batch, --parallel 1": partial(batched, make_here, 1),
    "batch, --parallel 2": partial(batched, make_here, 2),
    "batch whose jobs do nothing": partial(batched, nothing, 1),
}


def overhead(folder: Path, jobs: int) -> list[Side]:
    """Each way in a process of its own, so that memory is its own too."""
    found = []
    for number, (name, way) in enumerate(WAYS.items()):
        mine = folder / f"way{number}"
        mine.mkdir()
        child = FORK.Process(target=_measure, args=(mine, name, way, jobs))
        child.start()
        child.join(timeout=jobs * 2 + 60)
        if child.exitcode:
            raise RuntimeError(f"{name} failed")
        found.append(Side(**json.loads((mine / "side.json").read_text())))
        shutil.rmtree(mine)
    return found


def _measure(folder: Path, name: str, way: Way, jobs: int) -> None:
    disk = folder / "disk.img"
    disk.write_bytes(os.urandom(STUB_SIZE))
    install(disk)
    manifest, house, counter = manifest_of(folder, jobs, "m"), house_in(folder), Counter(jobs)
    started = time.monotonic()
    way(manifest, house, counter)
    seconds = time.monotonic() - started
    early, late = counter.sizes
    parallel = 2 if name.endswith("2") else 1
    side = Side(name, jobs, parallel, seconds, counter.inside, early, late)
    (folder / "side.json").write_text(json.dumps(asdict(side)))


def eight(folder: Path, rounds: int) -> list[Parallel]:
    """Captures of eight images by the command line itself; the first round warms the caches."""
    lines = ["defaults: {goal: capture}", "machines:"]
    for number in range(IMAGES):
        image = folder / f"image{number}.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_SIZE)
            for _ in range(IMAGE_SIZE // MiB * 3 // 4):
                file.write(os.urandom(MiB))
        lines.append(f"  - {{source: {image.name}, name: image{number}}}")
    manifest = folder / "eight.yaml"
    manifest.write_text("\n".join(lines))
    samples: dict[int, list[float]] = {1: [], 2: []}
    phases: dict[int, list[tuple[str, float]]] = {1: [], 2: []}
    for turn in range(rounds + 1):
        for parallel, taken in samples.items():
            seconds, times = _capture(folder, manifest, parallel)
            if turn:
                taken.append(seconds)
                phases[parallel] += times
    return [
        Parallel(parallel, tuple(samples[parallel]), _sums(phases[parallel], rounds)) for parallel in samples
    ]


def _sums(times: Sequence[tuple[str, float]], rounds: int) -> tuple[tuple[str, float], ...]:
    names = dict.fromkeys(name for name, _ in times)
    return tuple((name, sum(one for other, one in times if other == name) / rounds) for name in names)


def _capture(folder: Path, manifest: Path, parallel: int) -> tuple[float, list[tuple[str, float]]]:
    """Seconds of the whole command, and of each phase of each job."""
    output = folder / "runs"
    words = [sys.executable, "-m", "p2v", "batch", str(manifest), "--output", str(output)]
    words += ["--parallel", str(parallel), "--progress", "json", "--json"]
    env = {**os.environ, "P2V_HOME": str(folder / "home")}
    license = "from tests.bench.batch import main_with_plenty; main_with_plenty()"
    words[1:3] = ["-c", license]
    started = time.monotonic()
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    shutil.rmtree(output)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    times = [
        (str(event["phase"]).split()[0], float(event["seconds"]))
        for event in events
        if "phase" in event and event.get("state") == "done"
    ]
    jobs = [(str(one["name"]), float(one["seconds"])) for one in json.loads(done.stdout)["machines"]]
    rest = sum(one for _, one in jobs) - sum(one for _, one in times)
    return seconds, [*times, ("the rest of the jobs", rest), ("all jobs", sum(one for _, one in jobs))]


def main_with_plenty() -> None:
    """`p2v` with a license for eight machines in a batch."""
    from p2v import cli

    for module in (rooms, licenses, service):
        setattr(module, "open_ledger", partial(open_ledger, license=PLENTY))  # noqa: B010
    cli.main()


def table(sides: Sequence[Side]) -> str:
    jobs = sides[0].jobs
    lines = [
        f"| {jobs:,} jobs | ms each | not the pipeline | goal | MiB at {jobs // 10} | MiB at {jobs} |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for side in sides:
        each, extra, goal = (1000 * seconds for seconds in (side.each, side.overhead, OVERHEAD_GOAL))
        lines.append(
            f"| {side.name} | {each:.1f} | {extra:.1f} | {goal:.0f} | {side.early / MiB:.1f} "
            f"| {side.late / MiB:.1f} |"
        )
    return "\n".join(lines)


def parallel_table(found: Sequence[Parallel]) -> str:
    names = list(dict.fromkeys(name for one in found for name, _ in one.phases))
    head, first = " | ".join(names), found[0].seconds
    lines = [f"| eight images | seconds | ratio | {head} |", f"|---|{'--:|' * (2 + len(names))}"]
    for one in found:
        sums = dict(one.phases)
        cells = " | ".join(f"{sums.get(name, 0.0):.2f}" for name in names)
        lines.append(
            f"| --parallel {one.parallel} | {one.seconds:.2f} | {one.seconds / first:.2f} | {cells} |"
        )
    lines.append("")
    lines.append("behind the ratio: seconds of the eight jobs together, by phase, means of all rounds")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("P2V_ACCEL", "tcg")  # nothing here boots; finding out would count
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        sides = overhead(Path(name), options.jobs)
        captures = eight(Path(name), options.rounds)
    if options.output:
        report = {"machine": this_machine(), "overhead": [asdict(one) for one in sides]}
        report["parallel"] = [asdict(one) for one in captures]
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(this_machine())
    print(table(sides))
    print()
    print(parallel_table(captures))


if __name__ == "__main__":
    main()
