"""The run directory of a restore: what was decided, what is done, the receipt. As that of a conversion:

DIR/NAME/
  restore.json     the journal: replaced atomically
  prepare/         the images as they are written, in overlays
  write/           diskN.written: which blocks are on the disk already
  receipt.json     what was done
  log.jsonl        everything else, secrets removed
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from p2v import __version__
from p2v.errors import PlanRefused
from p2v.log import Redactor
from p2v.model import Conversion, LicenseUse, Step
from p2v.restore.job import Kind
from p2v.restore.model import DiskMove, FirmwareEntry, RestorePlan
from p2v.restore.writing import DiskWritten
from p2v.run_folder import (
    HeldRun,
    Layout,
    RunSummary,
    hold,
    is_run,
    journal_in,
    make_run,
    now,
    receipt_in,
    runs_in,
)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RestoreJournal:
    """The content of restore.json; `job` is what a resume needs to know, `id` what the license counts by."""

    format: int
    id: str
    name: str
    kind: Kind
    created: str
    version: str
    job: Mapping[str, JsonValue]
    plan: RestorePlan
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreReceipt:
    """What was done. `conversion` is None where nothing was changed in the disks."""

    run: str
    kind: Kind
    plan: RestorePlan
    disks: tuple[DiskWritten, ...]
    conversion: Conversion | None
    entries: tuple[FirmwareEntry, ...]
    license: LicenseUse | None
    started: str
    finished: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()


JOURNAL = TypeAdapter(RestoreJournal)
RECEIPT = TypeAdapter(RestoreReceipt)
WRITTEN = TypeAdapter(tuple[DiskWritten, ...])
LAYOUT = Layout("restore", "restore.json", FORMAT, JOURNAL, RECEIPT)


class RestoreRun(HeldRun[RestoreJournal, RestoreReceipt]):
    """A restore that this process holds. Made by `create_restore_run` and `open_restore_run`."""

    @property
    def kind(self) -> Kind:
        return self._journal.kind

    @property
    def plan(self) -> RestorePlan:
        return self._journal.plan


def is_restore_run(path: Path) -> bool:
    return is_run(path, LAYOUT)


@contextmanager
def create_restore_run(
    parent: Path,
    plan: RestorePlan,
    *,
    kind: Kind,
    job: Mapping[str, JsonValue],
    redactor: Redactor | None = None,
) -> Iterator[RestoreRun]:
    """Hold `parent/NAME` as the run of this plan: a new one, or the one that is there already.

    Raises UsageError where something else has that name, PlanRefused where it is the run of another plan or
    in use, TargetError where the directory cannot be written.
    """

    def journal() -> RestoreJournal:
        return RestoreJournal(FORMAT, uuid.uuid4().hex, plan.name, kind, now(), __version__, dict(job), plan)

    path = make_run(parent, plan.name, LAYOUT, journal)
    with open_restore_run(path, redactor=redactor) as run:
        if run.kind is not kind or plan_key(run.plan) != plan_key(plan):
            raise PlanRefused(
                f"{path} holds another {run.kind}",
                hint=f"Try: p2v resume {path}, to go on with that one, or give another --name",
            )
        yield run


def plan_key(plan: RestorePlan) -> tuple[object, ...]:
    """What must be the same for a restore to be gone on with; what is on the disks now does not count."""
    return (plan.convert, plan.nics, tuple(_move_key(move) for move in plan.moves))


def _move_key(move: DiskMove) -> tuple[object, ...]:
    source, target = move.source, move.target
    names = target.serial or target.wwn or target.path
    return (move.index, source.path, source.disk.size, names, target.size, move.resize, move.partition)


@contextmanager
def open_restore_run(directory: Path, *, redactor: Redactor | None = None) -> Iterator[RestoreRun]:
    """Hold a run that exists. Raises UsageError: none, or damaged; PlanRefused: in use."""
    with hold(directory, LAYOUT, redactor) as (journal, log):
        yield RestoreRun(directory, LAYOUT, journal, log)


def read_restore_journal(directory: Path) -> RestoreJournal:
    """Raises UsageError for anything that is not a whole journal of a known format."""
    return journal_in(directory, LAYOUT)


def read_restore_receipt(directory: Path) -> RestoreReceipt | None:
    """The receipt of a finished restore, else None. Raises UsageError where it is damaged."""
    return receipt_in(directory, LAYOUT)


def list_restores(parent: Path) -> tuple[RunSummary, ...]:
    """The restores under a directory by name, damaged ones too."""
    return runs_in(parent, LAYOUT, lambda journal: (journal.kind, journal.plan.guest.hostname))
