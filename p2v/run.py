"""The run directory of a conversion: a journal of its plan, captures, virtual machines and proofs.

DIR/NAME/
  run.json         the journal
  capture/         images and their digests
  vm/TARGET/       the virtual machine of each target
  proof/TARGET/    how its boot went
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from p2v import __version__
from p2v.atomic import sync_directory
from p2v.errors import PlanRefused, TargetError
from p2v.journal import FORMAT, JOURNAL, RECEIPT, Journal, differences
from p2v.log import Redactor, shown
from p2v.model import Plan, Receipt
from p2v.run_folder import (
    PASSABLE,
    HeldRun,
    Layout,
    RunState,
    RunSummary,
    check_name,
    disk_errors,
    hold,
    journal_in,
    make_run,
    now,
    receipt_in,
    runs_in,
)
from p2v.ui import human_size

LAYOUT = Layout("p2v run", "run.json", FORMAT, JOURNAL, RECEIPT, mode=PASSABLE, folders=("capture",))

SHOWN_DIFFERENCES = 8


class Run(HeldRun[Journal, Receipt]):
    """A conversion that this process holds. Made by `create_run` and `open_run`, never by hand."""

    @property
    def name(self) -> str:
        return self._journal.name

    @property
    def plan(self) -> Plan:
        """The plan as the run was made with it."""
        return self._journal.plan

    @property
    def next_step(self) -> str:
        return self._journal.next_step

    @property
    def capture_dir(self) -> Path:
        return self.folder("capture")

    def vm_dir(self, target: str) -> Path:
        """Where a target's images and configuration go. Raises UsageError for a name that is none."""
        return self.folder("vm", check_name(target, what="target"), mode=PASSABLE)

    def proof_dir(self, target: str) -> Path:
        return self.folder("proof", check_name(target, what="target"))

    def require_plan(self, plan: Plan) -> None:
        """Raise PlanRefused, with the differences by name, unless the run was made for this plan."""
        found = differences(self.plan, plan)
        if not found:
            return
        lines = [f"{item.path}: {shown(item.old)} → {shown(item.new)}" for item in found[:SHOWN_DIFFERENCES]]
        if len(found) > SHOWN_DIFFERENCES:
            lines.append(f"and {len(found) - SHOWN_DIFFERENCES} more")
        kind = "a finished run" if self.state is RunState.FINISHED else "a run"
        raise PlanRefused(
            f"{self.path} holds {kind} of another plan:\n" + "\n".join(f"  {line}" for line in lines),
            hint=f"Try: p2v resume {self.path}, to go on as it was planned, or give another --name",
        )

    def quarantine(self, path: Path) -> Path:
        """Move an output that failed its verification out of the way, and return where it is now."""
        aside = next(name for name in _quarantine_names(path) if not os.path.lexists(name))
        with disk_errors(path):
            path.rename(aside)
            sync_directory(aside.parent)
        self.log.error("%s failed its verification and is now %s", path, aside)
        return aside


def _quarantine_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.quarantined")
    for number in range(2, 1000):
        yield path.with_name(f"{path.name}.{number}.quarantined")
    raise TargetError(f"Too many quarantined copies of {path}", hint=f"Try: rm {path}.*quarantined")


@contextlib.contextmanager
def create_run(
    parent: Path,
    name: str,
    plan: Plan,
    *,
    job: Mapping[str, JsonValue],
    order: tuple[str, ...] = (),
    redactor: Redactor | None = None,
) -> Iterator[Run]:
    """Hold `parent/name` as the run of this plan: a new one, or the one that is there already.

    `Run.state` says which: new, unfinished (resume it) or finished (nothing is left to do). `job` is whatever
    a resume needs to know, without secrets; `order` names the steps in the order in which they will be done.
    Raises UsageError where something else has that name, PlanRefused where it is the run of another plan or
    in use, TargetError where the directory cannot be written.
    """

    def journal() -> Journal:
        return Journal(
            FORMAT, uuid.uuid4().hex, name, now(), __version__, job=dict(job), plan=plan, order=order
        )

    path = make_run(parent, name, LAYOUT, journal)
    with open_run(path, redactor=redactor) as run:
        run.require_plan(plan)
        yield run


@contextlib.contextmanager
def open_run(directory: Path, *, redactor: Redactor | None = None) -> Iterator[Run]:
    """Hold a run directory that exists.

    Raises UsageError where it is none or its journal is damaged, PlanRefused while another process has it.
    """
    with hold(directory, LAYOUT, redactor) as (journal, log):
        yield Run(directory, LAYOUT, journal, log)


def read_journal(directory: Path) -> Journal:
    """The journal of a run, also of one in use or on a disk that cannot be written. Raises UsageError."""
    return journal_in(directory, LAYOUT)


def read_receipt(directory: Path) -> Receipt | None:
    """The receipt of a finished run, else None. Raises UsageError where it is damaged."""
    return receipt_in(directory, LAYOUT)


def list_runs(parent: Path) -> tuple[RunSummary, ...]:
    """The runs under a directory by name, damaged ones too. Raises UsageError where there is none."""
    return runs_in(parent, LAYOUT, lambda journal: (journal.next_step, journal.plan.machine.hostname))


def free_space(path: Path) -> int:
    """Bytes that a user may still write where `path` is or will be. Raises TargetError."""
    existing = next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))
    with disk_errors(path):
        facts = os.statvfs(existing)
    return facts.f_bavail * facts.f_frsize


def require_space(path: Path, size: int) -> None:
    """Raise TargetError unless `size` bytes fit where `path` is or will be."""
    available = free_space(path)
    if available < size:
        raise TargetError(
            f"Not enough disk space at {path}: {human_size(size)} needed, {human_size(available)} available",
            hint="Free some space, or give another --output on a larger disk",
        )
