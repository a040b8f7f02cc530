"""What the benches of copies over SSH share: rounds in which the sides take turns, medians, one table."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from p2v.model import MiB


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: seconds, bytes on the wire, and for p2v the peak of its memory (bytes)."""

    seconds: float
    wire: int = 0
    memory: int = 0


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


def alternate(jobs: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Every side once, `rounds` times over; a first round does not count."""
    samples: dict[str, list[Sample]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            sample = job()
            if number:
                samples[name].append(sample)
    return samples


def rows_of(samples: Mapping[str, list[Sample]], goals: Mapping[str, float]) -> list[Row]:
    """p2v, which is one of the sides, beside each of them."""
    ours = median(samples["p2v"])
    return [
        row(name, values, ratio=ours / median(values), goal=goals.get(name, 0.0))
        for name, values in samples.items()
    ]


def row(name: str, values: Sequence[Sample], *, ratio: float, goal: float) -> Row:
    wire = statistics.median(value.wire for value in values) / 1e6
    memory = max(value.memory for value in values) / MiB
    spent = tuple(value.seconds for value in values)
    return Row(name, median(values), wire, ratio, goal, spent, memory)


def median(values: Sequence[Sample]) -> float:
    return statistics.median(value.seconds for value in values)


def machine() -> str:
    """Whose numbers these are."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = f"{len(model)} x {model[0].partition(': ')[2]}"
    return f"{cores}, Linux {platform.release()}, Python {platform.python_version()}"


def publish(rows: list[Row], output: Path, *, rounds: int, note: str) -> None:
    """Write the numbers as JSON, and print them as a table for the README."""
    report = {"machine": machine(), "rounds": rounds, "rows": [asdict(one) for one in rows]}
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(machine())
    print(table(rows))
    print(f"\n{note}")


def table(rows: list[Row]) -> str:
    lines = ["| side | median s | MB on the wire | ratio | goal | peak MiB |", "|---|--:|--:|--:|--:|--:|"]
    for one in rows:
        wire = f"{one.wire_mb:.1f}" if one.wire_mb else "-"
        goal = f"{one.goal:.2f}" if one.goal else "-"
        memory = f"{one.memory_mib:.0f}" if one.memory_mib else "-"
        lines.append(f"| {one.name} | {one.seconds:.2f} | {wire} | {one.ratio:.3f} | {goal} | {memory} |")
    return "\n".join(lines)
