"""What became of one machine of a batch: small values, so that ten thousand of them are no burden."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2v.log import shown
from p2v.model import Output, Plan, Receipt
from p2v.targets.images import space_needed

WARNINGS = 20
WORDS = 400


class State(StrEnum):
    """KEPT was finished by an earlier batch; NOT_STARTED waited for something that never came."""

    DONE = "done"
    PLANNED = "planned"
    KEPT = "done before"
    FAILED = "failed"
    NOT_STARTED = "not started"
    INTERRUPTED = "interrupted"

    @property
    def good(self) -> bool:
        return self in (State.DONE, State.KEPT, State.PLANNED)


@dataclass(frozen=True, slots=True)
class Shown:
    """A virtual machine of a run and, where it was booted, what it showed; `screen` is a PNG file."""

    target: str
    verdict: str = ""
    seconds: float = 0.0
    screen: Path | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is worth telling of a receipt or a plan. Sizes are bytes, `seconds` those of the capture, `space`
    is what a run would need on the disk.
    """

    machine: str = ""
    hostname: str = ""
    system: str = ""
    size: int = 0
    data_size: int = 0
    wire_size: int = 0
    seconds: float = 0.0
    grade: str = ""
    space: int = 0
    units: int = 0
    license: str = ""
    shown: tuple[Shown, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Bytes of the source a second, as far as they were used."""
        return self.data_size / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went with a machine. `seconds` is all the time that it took, `exit_code` that of its error."""

    name: str
    source: str
    state: State
    seconds: float = 0.0
    facts: Facts = Facts()
    error: str = ""
    hint: str = ""
    exit_code: int = 0
    tries: int = 1
    directory: Path = Path()
    said: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.facts.warnings, *self.said)))


def clipped(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts of a source, bounded: the first of them, none longer than a paragraph."""
    found = [text if len(text) <= WORDS else f"{text[: WORDS - 1]}…" for text in texts]
    more = len(found) - WARNINGS
    return (*found[:WARNINGS], *((f"and {more} more",) if more > 0 else ()))


def facts_of_receipt(receipt: Receipt, directory: Path) -> Facts:
    capture, plan, use = receipt.capture, receipt.plan, receipt.license
    return Facts(
        machine=plan.machine.identity,
        hostname=shown(plan.machine.hostname),
        system=shown(plan.machine.os.name) if plan.machine.os else "",
        size=capture.size,
        data_size=capture.data_size,
        wire_size=capture.wire_size,
        seconds=capture.seconds,
        grade=str(capture.reached.grade) if capture.reached else "",
        units=use.units if use else 0,
        license=_words(use.state, use.reason) if use else "no unit",
        shown=tuple(_shown(output, directory) for output in receipt.outputs),
        warnings=clipped(receipt.warnings),
    )


def facts_of_plan(plan: Plan) -> Facts:
    machine = plan.machine
    return Facts(
        machine=machine.identity,
        hostname=shown(machine.hostname),
        system=shown(machine.os.name) if machine.os else "",
        size=sum(disk.disk.size for disk in plan.disks),
        data_size=plan.data_size,
        grade=str(plan.consistency),
        space=space_needed(plan.data_size, len(plan.each())),
        units=plan.units,
        shown=tuple(Shown(one.platform.label) for one in plan.each()),
        warnings=clipped(plan.warnings),
    )


def _words(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state


def _shown(output: Output, directory: Path) -> Shown:
    label, proof = output.platform.label, output.proof
    if proof is None:
        return Shown(label)
    screen = directory / "proof" / label / "screen.png"
    return Shown(label, str(proof.verdict), proof.seconds, screen if screen.is_file() else None)
