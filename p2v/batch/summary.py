"""What a batch came to, as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2v.batch.board import describe
from p2v.batch.outcome import Outcome, Shown, State
from p2v.batch.runner import Course
from p2v.errors import BatchIncomplete
from p2v.ui import human_size, human_time


@dataclass(frozen=True, slots=True)
class Summary:
    """`page` is the HTML page; None for a batch that only planned."""

    manifest: Path
    output: Path
    course: Course
    page: Path | None = None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return self.course.outcomes

    @property
    def bad(self) -> tuple[Outcome, ...]:
        return tuple(one for one in self.outcomes if not one.state.good)

    @property
    def units(self) -> int:
        """Spent by this batch; what was finished before is paid."""
        return sum(one.facts.units for one in self.outcomes if one.state is State.DONE)

    @property
    def data_size(self) -> int:
        return sum(one.facts.data_size for one in self.outcomes if one.state is State.DONE)

    @property
    def wire_size(self) -> int:
        return sum(one.facts.wire_size for one in self.outcomes if one.state is State.DONE)

    def headline(self) -> str:
        """`38 of 40 machines done in 5 h 02 min, 1 failed, 1 not started`."""
        counts = Counter(one.state for one in self.outcomes)
        good = counts[State.DONE] + counts[State.KEPT]
        parts = [f"{good} of {len(self.outcomes)} machines done in {human_time(self.course.seconds)}"]
        parts += [f"{counts[state]} {state}" for state in State if counts[state] and state is not State.DONE]
        return ", ".join(parts)

    def totals(self) -> str:
        size, seconds = self.data_size, self.course.seconds
        rate = human_size(size / seconds) if seconds else "0 B"
        return (
            f"{human_size(size)} read, {human_size(self.wire_size)} over the wire, {rate}/s; "
            f"{self.units} license unit{'' if self.units == 1 else 's'}"
        )

    def require_complete(self) -> None:
        """Raises BatchIncomplete (exit code 9) where a machine failed or was not started."""
        if self.bad:
            verb = "is" if len(self.bad) == 1 else "are"
            raise BatchIncomplete(
                f"{len(self.bad)} of {len(self.outcomes)} machines {verb} not done",
                hint="The same command again does what is missing",
            )


def text(summary: Summary) -> str:
    """The result for a person: one line a machine, then what is wrong, then the sums."""
    width = max((len(one.name) for one in summary.outcomes), default=0)
    lines = [summary.headline(), f"  {summary.totals()}", ""]
    lines += [f"  {one.name:<{width}}  {_row(one)}" for one in summary.outcomes]
    lines += [line for one in summary.outcomes for line in _remarks(one)]
    if summary.page:
        lines += ["", f"  summary      {summary.page}"]
    return "\n".join(lines)


def _row(one: Outcome) -> str:
    parts = [describe(one)]
    if one.state.good:
        parts += [word for word in map(shown_words, one.facts.shown) if word]
    if one.state is State.DONE and one.facts.license:
        parts.append(one.facts.license)
    return "; ".join(parts)


def shown_words(shown: Shown) -> str:
    return f"{shown.target} {shown.verdict} in {human_time(shown.seconds)}" if shown.verdict else shown.target


def _remarks(one: Outcome) -> Iterator[str]:
    if one.state in (State.KEPT, State.NOT_STARTED):
        return
    lines = [f"  warning: {warning}" for warning in one.warnings]
    lines += [f"  {line}" for line in one.hint.splitlines()]
    if lines:
        yield from ("", f"  {one.name}:", *(f"  {line}" for line in lines))


def as_json(summary: Summary) -> str:
    """One document."""
    course = summary.course
    document = {
        "manifest": str(summary.manifest),
        "output": str(summary.output),
        "started": course.started.isoformat(timespec="seconds"),
        "seconds": round(course.seconds, 3),
        "interrupted": course.interrupted,
        "complete": not summary.bad,
        "units": summary.units,
        "data_size": summary.data_size,
        "wire_size": summary.wire_size,
        "page": str(summary.page) if summary.page else None,
        "machines": [_json(one) for one in summary.outcomes],
    }
    return json.dumps(document, indent=2)


def _json(one: Outcome) -> dict[str, object]:
    facts = one.facts
    return {
        "name": one.name,
        "source": one.source,
        "state": one.state.name.lower(),
        "directory": str(one.directory),
        "seconds": round(one.seconds, 3),
        "tries": one.tries,
        "error": one.error,
        "hint": one.hint,
        "exit_code": one.exit_code,
        "hostname": facts.hostname,
        "system": facts.system,
        "size": facts.size,
        "data_size": facts.data_size,
        "wire_size": facts.wire_size,
        "capture_seconds": round(facts.seconds, 3),
        "rate": round(facts.rate),
        "consistency": facts.grade,
        "units": facts.units,
        "license": facts.license,
        "targets": [
            {"target": shown.target, "verdict": shown.verdict, "seconds": round(shown.seconds, 1)}
            for shown in facts.shown
        ],
        "warnings": list(one.warnings),
    }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch would cost: units, of which `left` are there (None: any number), and bytes of disk space,
    of which `free` are.
    """

    outcomes: tuple[Outcome, ...]
    units: int
    left: int | None
    free: int

    @property
    def space(self) -> int:
        return sum(one.facts.space for one in self.outcomes)

    @property
    def bad(self) -> tuple[Outcome, ...]:
        return tuple(one for one in self.outcomes if not one.state.good)


def estimate(outcomes: Sequence[Outcome], left: int | None, free: int) -> Estimate:
    """As the ledger counts: a machine that stands there under two names costs one unit."""
    seen: set[str] = set()
    units = 0
    for one in outcomes:
        if one.state is State.PLANNED and one.facts.machine not in seen:
            seen.add(one.facts.machine)
            units += one.facts.units
    return Estimate(tuple(outcomes), units, left, free)


def estimate_text(found: Estimate) -> str:
    width = max((len(one.name) for one in found.outcomes), default=0)
    lines = [f"  {one.name:<{width}}  {_cost(one)}" for one in found.outcomes]
    lines += [line for one in found.outcomes for line in _remarks(one)]
    plural = "" if found.units == 1 else "s"
    left = "" if found.left is None else f", {found.left} left"
    lines += ["", f"  {found.units} license unit{plural} for all of them{left}"]
    lines.append(f"  {human_size(found.space)} of disk space at the most, {human_size(found.free)} free")
    if found.space > found.free:
        lines.append("  warning: they do not all fit; each job looks again before it begins")
    return "\n".join(lines)


def _cost(one: Outcome) -> str:
    facts = one.facts
    match one.state:
        case State.PLANNED:
            cost = "nothing" if not facts.units else f"{facts.units} unit"
            targets = ", ".join(shown.target for shown in facts.shown) or "capture alone"
            system = facts.system or "no system seen"
            return f"{cost}; {facts.hostname}, {system}, {human_size(facts.data_size)}; {targets}"
        case State.KEPT:
            return "nothing; done before"
        case _:
            return describe(one)


def estimate_json(found: Estimate) -> str:
    document = {
        "units": found.units,
        "left": found.left,
        "space": found.space,
        "free": found.free,
        "machines": [_json(one) for one in found.outcomes],
    }
    return json.dumps(document, indent=2)
