"""`python -m tests.bench.convert`: a conversion of a disk image by p2v, beside virt-v2v's of the same image.

Both start from the same raw image, in turn, on one machine and with one accelerator, and end with a qcow2 and
a libvirt domain; neither boots the result. Where virt-v2v fails, the table says so; where it is stopped at
`--limit`, its time and the ratio are bounds (`>150`, `<0.28`). Needs root to build the
disks, and about 8 GiB free in the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fixtures.build import SPECS, build
from fixtures.matrix import HOSTS, build_host
from p2v import command
from p2v.accelerator import Accelerator, find_accelerator
from tests.bench.report import machine

TIME_LIMIT = 3000.0
MESSAGE_LIMIT = 300
STOPPED = 124
"""What timeout(1) of coreutils exits with where it ended the program."""


@dataclass(frozen=True, slots=True)
class Guest:
    """An image, whether its initramfs must be rebuilt, and what p2v may take of virt-v2v's time."""

    name: str
    rebuilt: bool
    goal: float


GUESTS = (
    Guest("debian12-bios-most", rebuilt=False, goal=0.25),
    Guest("debian12-bios", rebuilt=True, goal=0.5),
    Guest("debian12-uefi-lvm", rebuilt=True, goal=0.5),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One conversion: seconds, and why it failed (empty where it did not); `stopped` at the limit."""

    seconds: float
    failure: str = ""
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Both sides on one guest; the ratio is None where one of them failed."""

    guest: str
    rebuilt: bool
    goal: float
    p2v: tuple[Run, ...]
    virt_v2v: tuple[Run, ...]

    @property
    def ratio(self) -> float | None:
        if any(run.failure for run in (*self.p2v, *self.virt_v2v)) or any(run.stopped for run in self.p2v):
            return None
        return median(self.p2v) / median(self.virt_v2v)


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.convert", description=__doc__)
    parser.add_argument("--guest", choices=[guest.name for guest in GUESTS], action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=TIME_LIMIT, help="seconds that one side may take")
    parser.add_argument("--output", type=Path, default=Path("bench-convert.json"))
    options = parser.parse_args()
    chosen = [guest for guest in GUESTS if not options.guest or guest.name in options.guest]
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        accelerator = find_accelerator(Path(name)).accelerator
        environment = settings(accelerator, Path(name))
        rows = [
            measure(guest, Path(name), environment, rounds=options.rounds, limit=options.limit)
            for guest in chosen
        ]
    report = {"machine": machine(), "accelerator": accelerator.value, "rows": [asdict(row) for row in rows]}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{machine()}, {accelerator.value}")
    print(table(rows))


def settings(accelerator: Accelerator, folder: Path) -> dict[str, str]:
    """The same appliance for both."""
    found = {"P2V_HOME": str(folder / "home"), "P2V_ACCEL": accelerator.value, "LIBGUESTFS_BACKEND": "direct"}
    if accelerator is Accelerator.TCG:
        found["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    return {**os.environ, **found}


def measure(guest: Guest, folder: Path, environment: dict[str, str], *, rounds: int, limit: float) -> Row:
    """Both sides in turn; who begins changes, because the first one finds a colder cache."""
    image = image_of(guest.name)
    sides = {"p2v": p2v_command, "virt-v2v": virt_v2v_command}
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    warm(image)
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            place = folder / name
            place.mkdir()
            runs[name].append(timed(sides[name](image, place), environment, limit))
            shutil.rmtree(place)
            print(f"{guest.name}: {name} {runs[name][-1]}", file=sys.stderr, flush=True)
    return Row(guest.name, guest.rebuilt, guest.goal, tuple(runs["p2v"]), tuple(runs["virt-v2v"]))


def image_of(name: str) -> Path:
    """The raw image of a fixture, built where it is not there."""
    return build_host(HOSTS[name]).images[0] if name in HOSTS else build(SPECS[name]).image


def warm(image: Path) -> None:
    """Read the image once, so that neither side pays for the disk of this machine."""
    with image.open("rb") as file:
        while file.read(1 << 22):
            pass


def p2v_command(image: Path, place: Path) -> list[str | Path]:
    name = f"bench-{time.monotonic_ns()}"
    return [
        *(sys.executable, "-m", "p2v", "convert", image, "--to", "libvirt"),
        *("--output", place, "--name", name),
    ]


def virt_v2v_command(image: Path, place: Path) -> list[str | Path]:
    return ["virt-v2v", "-i", "disk", image, "-o", "local", "-os", place, "-of", "qcow2"]


def timed(argv: list[str | Path], environment: dict[str, str], limit: float) -> Run:
    """One run; at the limit the whole process group ends, with the servers that virt-v2v started."""
    bounded = ["timeout", "--kill-after=30", f"{limit:.0f}", *argv]
    started = time.monotonic()
    done = command.run(bounded, timeout=limit + 60, env=environment)
    seconds = round(time.monotonic() - started, 1)
    if done.code == STOPPED:
        return Run(limit, stopped=True)
    said = (done.stderr or done.stdout).strip().splitlines()
    return Run(seconds, " ".join(said[-2:])[-MESSAGE_LIMIT:] if done.code else "")


def median(runs: tuple[Run, ...]) -> float:
    return statistics.median(run.seconds for run in runs)


def table(rows: list[Row]) -> str:
    """For the README."""
    lines = ["| guest | initramfs | p2v s | virt-v2v s | ratio | goal |", "|---|---|--:|--:|--:|--:|"]
    for row in rows:
        bound = "<" if any(run.stopped for run in row.virt_v2v) else ""
        ratio = f"{bound}{row.ratio:.2f}" if row.ratio is not None else "-"
        rebuilt = "rebuilt" if row.rebuilt else "as it is"
        lines.append(
            f"| {row.guest} | {rebuilt} | {cell(row.p2v)} | {cell(row.virt_v2v)} | {ratio} | {row.goal:.2f} |"
        )
    return "\n".join(lines)


def cell(runs: tuple[Run, ...]) -> str:
    failed = next((run.failure for run in runs if run.failure), "")
    bound = ">" if any(run.stopped for run in runs) else ""
    return f"fails: {failed}" if failed else f"{bound}{median(runs):.0f}"


if __name__ == "__main__":
    main()
