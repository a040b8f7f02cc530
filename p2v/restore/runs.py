"""The run directory of a restore: what was decided, what is done, the receipt. As that of a conversion:

DIR/NAME/
  restore.json     the journal: replaced atomically
  prepare/         the images as they are written, in overlays
  write/           diskN.written: which blocks are on the disk already
  receipt.json     what was done
  log.jsonl        everything else, secrets removed
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from p2v import __version__
from p2v.atomic import LockHeld, locked, write_atomically
from p2v.errors import PlanRefused, TargetError, UsageError
from p2v.journal import to_json
from p2v.log import Redactor, open_log, shown
from p2v.model import Conversion, LicenseUse, Step
from p2v.restore.job import Kind
from p2v.restore.model import DiskMove, FirmwareEntry, RestorePlan
from p2v.restore.writing import DiskWritten
from p2v.run import RunState, RunSummary, check_name, size_on_disk

T = TypeVar("T")

FORMAT = 1
JOURNAL_NAME = "restore.json"
RECEIPT_NAME = "receipt.json"
FILE_LIMIT = 64 * 1024 * 1024


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


class RestoreRun:
    """A run directory that this process holds. Made by `create_restore_run` and `open_restore_run`."""

    def __init__(self, path: Path, journal: RestoreJournal, log: logging.Logger) -> None:
        self.path = path
        self.log = log
        self._journal = journal

    @property
    def id(self) -> str:
        return self._journal.id

    @property
    def kind(self) -> Kind:
        return self._journal.kind

    @property
    def plan(self) -> RestorePlan:
        return self._journal.plan

    @property
    def job(self) -> Mapping[str, JsonValue]:
        return self._journal.job

    @property
    def created(self) -> str:
        return self._journal.created

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._journal.steps

    def folder(self, name: str) -> Path:
        """A folder of the run for its owner alone, made where it is missing."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def finish(self, step: str, *, digest: str, seconds: float) -> None:
        """Write down that a step is done; on disk when this returns."""
        done = Step(name=step, digest=digest, seconds=seconds, finished=now())
        steps = (*(old for old in self.steps if old.name != step), done)
        self._journal = replace(self._journal, steps=steps)
        write_atomically(self.path / JOURNAL_NAME, to_json(JOURNAL, self._journal))
        self.log.info("%s: done in %.1f s", step, seconds)

    def receipt(self) -> RestoreReceipt | None:
        return read_restore_receipt(self.path)

    def write_receipt(self, receipt: RestoreReceipt) -> None:
        """Keep the receipt; from then on the run is finished."""
        write_atomically(self.path / RECEIPT_NAME, to_json(RECEIPT, receipt))


def is_restore_run(path: Path) -> bool:
    return os.path.lexists(path / JOURNAL_NAME)


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
    path = parent / check_name(plan.name, what="run")
    if not os.path.lexists(path):
        path_journal = RestoreJournal(
            FORMAT, uuid.uuid4().hex, plan.name, kind, now(), __version__, dict(job), plan
        )
        _make(path, path_journal)
    elif not is_restore_run(path):
        raise UsageError(
            f"{path} exists and is no restore; nothing was overwritten", hint="Give another --name"
        )
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


def _make(path: Path, journal: RestoreJournal) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        write_atomically(path / JOURNAL_NAME, to_json(JOURNAL, journal))
    except OSError as error:
        raise TargetError(
            f"Cannot write {path}: {error.strerror}", hint=f"Try: df -h {path.parent}"
        ) from error


@contextmanager
def open_restore_run(directory: Path, *, redactor: Redactor | None = None) -> Iterator[RestoreRun]:
    """Hold a run that exists. Raises UsageError: none, or damaged; PlanRefused: in use."""
    if not is_restore_run(directory):
        raise UsageError(f"{directory} is no restore", hint="Try: p2v runs")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / ".lock"))
        except LockHeld as error:
            who = "another process" if error.pid is None else f"process {error.pid}"
            raise PlanRefused(f"{directory} is in use by {who}", hint="Wait until it is done") from error
        journal = read_restore_journal(directory)
        log = stack.enter_context(open_log(directory / "log.jsonl", redactor or Redactor()))
        yield RestoreRun(directory, journal, log)


def read_restore_journal(directory: Path) -> RestoreJournal:
    """Raises UsageError for anything that is not a whole journal of a known format."""
    journal = _read(JOURNAL, directory / JOURNAL_NAME)
    if journal.format != FORMAT:
        raise UsageError(
            f"{directory} has the format {journal.format}; this p2v knows {FORMAT}", hint="Upgrade p2v"
        )
    return journal


def read_restore_receipt(directory: Path) -> RestoreReceipt | None:
    """The receipt of a finished restore, else None. Raises UsageError where it is damaged."""
    path = directory / RECEIPT_NAME
    return _read(RECEIPT, path) if path.exists() else None


def _read(adapter: TypeAdapter[T], path: Path) -> T:
    try:
        with path.open("rb") as file:
            return adapter.validate_json(file.read(FILE_LIMIT))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}", hint=f"Try: ls -l {path}") from error
    except ValidationError as error:
        raise UsageError(
            f"{path} is damaged: {error.errors(include_url=False, include_input=False)[0]['msg']}",
            hint="Restore the file from a backup, or give another --name",
        ) from error


def list_restores(parent: Path) -> tuple[RunSummary, ...]:
    """The restores under a directory by name, damaged ones too."""
    return tuple(_summary(path) for path in sorted(parent.iterdir()) if is_restore_run(path))


def _summary(path: Path) -> RunSummary:
    try:
        journal = read_restore_journal(path)
    except UsageError as error:
        return RunSummary(path.name, path, RunState.DAMAGED, problem=error.message)
    state = RunState.UNFINISHED if journal.steps else RunState.NEW
    return RunSummary(
        name=path.name,
        path=path,
        state=RunState.FINISHED if (path / RECEIPT_NAME).exists() else state,
        next_step=journal.kind,
        hostname=shown(journal.plan.guest.hostname),
        created=journal.created,
        size=size_on_disk(path),
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
